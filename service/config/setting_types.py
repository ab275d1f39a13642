"""The base class of the configuration's sections, the error for a mistake, and common types."""

import re
import ssl
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

UNMATCHABLE = "unmatchable"
"""The type of the error for text that can never match: it may be a secret in the wrong place."""
MAX_TOKEN_CHARS = 1024
ONE_BLOCK, SEVERAL_BLOCKS = "[one block]", "[several blocks]"
"""The parts that pydantic adds to the path of a setting that is one section or a list of them."""
MAX_FILE_BYTES = 64 * 1024
"""The most bytes of a file that holds one value."""
TAKEN_EXACTLY = frozenset({"secret", "secret_base64", "public_key"})
"""Settings whose text is used byte for byte: white space in them may be intended, so it is only a warning."""
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
"""Invisible characters that are not white space to Python: the byte order mark, characters without width."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What a header field cannot carry (RFC 9110, section 5.5)."""
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")


def mistake(message: str) -> PydanticCustomError:
    """Return a validation error that says `message`, without pydantic's "Value error, " before it."""
    return PydanticCustomError("mistake", message)


def unmatchable(text: str) -> str | None:
    """Return why nothing that a client or a token sends can equal `text`; None: something can."""
    if text.endswith(("\n", "\r")):
        return (
            "ends with a newline, so nothing can match it: `echo` appends one, also into a Kubernetes secret; "
            "use `printf %s`"
        )
    for at_the, one in (("begins", text[:1]), ("ends", text[-1:])):
        if one.isspace():
            return f"{at_the} with white space, so nothing can match it: remove it"
        if one and one in _INVISIBLE:
            return f"{at_the} with an invisible character (U+{ord(one):04X}), so nothing can match it: remove it"
    if len(text) > 1 and text[0] + text[-1] in _QUOTES:
        return "includes the quotes around it, so nothing can match it: remove them"
    if _CONTROL.search(text):
        return "contains a control character, which no header field can carry"
    return None


def doubtful_secret(secret: str) -> str | None:
    """Return what is probably not intended in a signing secret; None: nothing."""
    if secret.endswith(("\n", "\r")):
        return "ends with a newline"
    if secret != secret.strip():
        return "begins or ends with white space"
    if len(secret) > 1 and secret[0] + secret[-1] in _QUOTES:
        return "includes the quotes around it"
    return None


def _texts_in(value: Any) -> Iterable[str]:
    """Yield the text that a setting consists of: itself, or the items of its list or map."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts_in(name)
            if not isinstance(inner, Mapping):
                yield from _texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            if not isinstance(inner, Mapping):  # a section of its own
                yield from _texts_in(inner)


def check_text(value: Any) -> None:
    """Raise a validation error if `value` is or contains text that can never match."""
    for text in _texts_in(value):
        if (why := unmatchable(text)) is not None:
            raise PydanticCustomError(UNMATCHABLE, why)


def _whole(value: Any) -> Any:
    """Refuse `requests: yes`: to Python True is 1."""
    if isinstance(value, bool):
        raise mistake("must be a whole number, not yes or no")
    return value


Int = Annotated[int, BeforeValidator(_whole)]


def _hosts(value: Any) -> str | tuple[str, ...]:
    hosts = value if isinstance(value, list | tuple) else (value,)
    if not hosts or not all(isinstance(one, str) and one for one in hosts):
        raise mistake("must be an address or a name, or a list of them")
    for one in hosts:
        if "/" in one or re.search(r"^[^:]*:[^:]*$", one):
            raise mistake("must be an address or a name alone: the port is in server.port")
    return value if isinstance(value, str) else tuple(hosts)


_HOST_SCHEMA = {"type": "string", "minLength": 1}
Hosts = Annotated[
    str | tuple[str, ...],
    PlainValidator(_hosts),
    WithJsonSchema({"anyOf": [_HOST_SCHEMA, {"type": "array", "items": _HOST_SCHEMA, "minItems": 1}]}),
]
"""One address or name, or a list of them."""


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _origin(text: str) -> str:
    if text == "*":
        return text
    found = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?", text)
    if found is None or int(found[3] or 1) > 65535 or int(found[3] or 0) == _DEFAULT_PORTS[found[1]]:
        raise mistake(
            "must be an origin as browsers send it, such as https://app.example or http://localhost:3000: in lower "
            "case (xn--… for other letters), without a path, a user or the default port; or *"
        )
    return text


Origin = Annotated[
    str, AfterValidator(_origin), WithJsonSchema({"type": "string", "pattern": r"^(https?://[^/\s*]+|\*)$"})
]
"""An origin (RFC 6454, section 6.2), or * for any."""


def _network(value: Any) -> IPv4Network | IPv6Network:
    if not isinstance(value, str | IPv4Network | IPv6Network):  # a number is an address to Python
        raise mistake("must be a network such as 10.0.0.0/8")
    try:
        return ip_network(value)
    except ValueError as error:
        raise mistake(f"must be a network such as 10.0.0.0/8: {error}") from None


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]


def _base_path(path: str) -> str:
    if path and (not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) or {".", ".."} & set(path.split("/"))):
        raise mistake("must be a path without an end slash, such as /rollcall, or empty")
    return path


BasePath = Annotated[str, AfterValidator(_base_path)]
"""The prefix of a proxy, or empty."""


def _readable(path: Path) -> Path:
    """Return a path, relative to the folder in which the service was started."""
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # the value is not a path: perhaps the key itself
        pass
    raise mistake("there is no such file")


ReadableFile = Annotated[Path, AfterValidator(_readable)]


def _certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise mistake("must hold certificates in PEM") from None
    except OSError as error:
        raise mistake(f"cannot be read: {error.strerror}") from None
    return path


Certificates = Annotated[ReadableFile, AfterValidator(_certificates)]
"""A file with the certificates of authorities."""


def check_pair(cert_file: Path | None, key_file: Path | None) -> None:
    """Raise a validation error unless both files hold a client's certificate and its private key, or there is none."""
    if (cert_file is None) != (key_file is None):
        raise mistake("cert_file and key_file go together: set both or neither")
    if cert_file is None or key_file is None:
        return
    try:
        # The password is that of an encrypted key: without one, OpenSSL would ask for it on the terminal.
        ssl.create_default_context().load_cert_chain(cert_file, key_file, password="")  # nosec B106
    except OSError:  # ssl.SSLError is one
        raise mistake("cert_file must hold a certificate in PEM, and key_file its private key, not encrypted") from None


def text_of_file(name: Any, if_not_text: str = "save it as UTF-8") -> str:
    """Return the content of the file, byte for byte.

    Args:
        name: of the file.
        if_not_text: what the error for other bytes than text advises.

    Raises:
        PydanticCustomError: it cannot be read, is too large, or is not UTF-8.
    """
    if not isinstance(name, str | Path):
        raise mistake("must be the name of a file")
    try:
        with _readable(Path(name)).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise mistake(f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise mistake(f"the file is larger than {MAX_FILE_BYTES // 1024} KiB; it must hold the value alone")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise mistake(f"the file is not UTF-8 text: {if_not_text}") from None


def line_of_file(name: Any) -> str:
    """Return the one line of the file, without the newline that editors and `echo` append.

    Raises:
        PydanticCustomError: it cannot be read, or what it holds can never match.
    """
    text = text_of_file(name)
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if (why := unmatchable(text)) is not None:
        raise mistake(f"the content of the file {why}")
    if not text:
        raise mistake("the file is empty; it must hold the value")
    return text


def _token_of_file(name: Any) -> str:
    token = line_of_file(name)
    if len(token) > MAX_TOKEN_CHARS:
        raise mistake(f"the file has more than {MAX_TOKEN_CHARS} characters")
    return token


def _secret_of_file(name: Any) -> str:
    return text_of_file(
        name,
        if_not_text="write other bytes in Base64, for a key in a file that secret_base64_file names, for a webhook "
        "behind whsec_",
    )


def _from_file(read: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: value if isinstance(value, SecretStr) else read(value))


TokenFromFile = Annotated[SecretStr, _from_file(_token_of_file)]
"""A token in a file; one newline at its end is not part of it. The value is the token."""
UrlFromFile = Annotated[SecretStr, _from_file(line_of_file)]
"""The same for a URL."""
SecretFromFile = Annotated[SecretStr, _from_file(_secret_of_file)]
"""A signing secret in a file, byte for byte. The value is the secret."""


def with_url_of_file(values: Any, placeholder: str) -> Any:
    """Put the URL that `url_file` names into `url`, for a section that has both.

    Args:
        values: the section as it was given.
        placeholder: replaces a URL that cannot be read; the mistake is that of `url_file`, not another one of `url`.
    """
    if not isinstance(values, Mapping) or values.get("url_file") is None:
        return values
    if values.get("url") is not None:
        raise mistake("set url or url_file, not both")
    try:
        return {**values, "url": line_of_file(values["url_file"])}
    except PydanticCustomError:
        return {**values, "url": placeholder}


class Section(BaseModel):
    """A section of the configuration: frozen, without unknown keys. Errors do not show values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _can_match(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        is_section = isinstance(value, Mapping) and get_origin(cls.model_fields[name].annotation) is not dict
        if name not in TAKEN_EXACTLY and not is_section:
            check_text(value)
        if name.endswith("url") and isinstance(value, str) and re.search(r"\s", value):
            raise mistake("contains white space, which no URL can have")
        return value
