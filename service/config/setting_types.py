"""What the sections of the configuration share: the base class, how a mistake is told, and common types."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


def mistake(message: str) -> PydanticCustomError:
    """A validation error that says `message`, without pydantic's "Value error, " before it."""
    return PydanticCustomError("mistake", message)


def _whole(value: Any) -> Any:
    """To Python True is 1; to whoever writes `requests: yes` it is not."""
    if isinstance(value, bool):
        raise mistake("must be a whole number, not yes or no")
    return value


Int = Annotated[int, BeforeValidator(_whole)]


def _readable(path: Path) -> Path:
    """Files are named relative to where the service was started."""
    try:
        if path.is_file():
            return path
    except OSError:  # what was given is no path at all: perhaps the key itself
        pass
    raise mistake("there is no such file")


ReadableFile = Annotated[Path, AfterValidator(_readable)]


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys are refused, values are not shown in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
