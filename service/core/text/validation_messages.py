"""Mistakes that pydantic finds, in our words."""

_WORDS = (
    ("Value error, ", ""),
    ("Extra inputs are not permitted", "there is no such field"),
    ("Field required", "is required"),
    ("Input should be a valid integer, unable to parse string as an integer", "must be a whole number"),
    ("Input should be a valid integer", "must be a whole number"),
    ("Input should be a valid number, unable to parse string as a number", "must be a number"),
    ("Input should be a valid boolean, unable to interpret input", "must be true or false"),
    ("Input should be a valid tuple", "must be a list"),
    ("Input should be a valid dictionary or instance of", "must be a map of settings,"),
    ("Input should be a valid dictionary", "must be a map of settings"),
    ("Input should be a valid string", "must be text; put it in quotes"),
    ("Input should be a valid ", "must be a "),
    ("Input should be ", "must be "),
    ("String should", "must"),
    ("Dictionary should", "must"),
    ("Tuple should", "must"),
    ("List should", "must"),
)
"""How pydantic begins a sentence, and how we do."""


def plain_message(message: str) -> str:
    """A sentence of pydantic's about a field, as it is told to people: `must be a list`, not `Input should be …`."""
    for theirs, ours in _WORDS:
        if message.startswith(theirs):
            return ours + message[len(theirs) :]
    return message
