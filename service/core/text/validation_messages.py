"""Sentences for the mistakes that pydantic finds."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "none_required": "must be null",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "string_unicode": "must be Unicode text",
    "string_pattern_mismatch": "must match pattern '{pattern}'",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "dict_type": "must be a map",
    "mapping_type": "must be a map",
    "model_type": "must be a map of settings",
    "model_attributes_type": "must be a map of settings",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "path_type": "must be the name of a file",
    "url_type": "must be a URL",
    "url_parsing": "must be a URL such as https://example.com/path",
    "url_syntax_violation": "must be a URL such as https://example.com/path",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "url_too_long": "must be a URL of at most {max_length} characters",
    "recursion_loop": "contains itself",
}
"""pydantic's type of error (docs.pydantic.dev, "Validation Errors") → a sentence with the error's context."""
_SIZES = {
    "string_too_short": ("at least", "min_length", "character"),
    "string_too_long": ("at most", "max_length", "character"),
    "too_short": ("at least", "min_length", "item"),
    "too_long": ("at most", "max_length", "item"),
}
_BEGINNINGS = (("Value error, ", ""), ("Input should be ", "must be "), ("Input should ", "must "))


def plain_message(error: Mapping[str, Any]) -> str:
    """Return a sentence about a field, such as `must be a list`.

    Args:
        error: one of `ValidationError.errors()`, with its context.
    """
    kind = error["type"]
    context = {name: _short(value) for name, value in error.get("ctx", {}).items()}
    if kind in _WORDS:
        return _WORDS[kind].format_map(context)
    if kind in _SIZES:
        bound, name, thing = _SIZES[kind]
        number = context[name]
        if isinstance(error.get("input"), str):  # a secret, which pydantic counts like a list
            thing = "character"
        return f"must have {bound} {number} {thing}{'s' * (number != 1)}"
    message = str(error["msg"])
    for theirs, ours in _BEGINNINGS:
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    return message


def _short(value: Any) -> Any:
    """Return 0 for 0.0: a bound is written as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
