"""The types of `tenants.NAME.jwt`: the keys of a tenant's user tokens, and which tokens are accepted."""

import base64
import re
from collections.abc import Mapping
from functools import cached_property
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Discriminator,
    Field,
    PlainValidator,
    SecretStr,
    Tag,
    model_validator,
)

from service.config.setting_types import (
    ONE_BLOCK,
    SEVERAL_BLOCKS,
    Int,
    ReadableFile,
    SecretFromFile,
    Section,
    mistake,
)
from service.core.tokens.key_sets import KeyRules
from service.core.tokens.keys import ASYMMETRIC, NAMES, SYMMETRIC, Key, algorithms_of, canonical, make_key
from service.core.tokens.kinds import FOREIGN_TYPES, Scalar, normalized_type

Algorithm = Literal[NAMES]  # type: ignore[valid-type]  # the tuple is the one list of them
KEY_SOURCES = ("secret", "secret_file", "secret_base64", "secret_base64_file", "public_key", "public_key_file")


def _base64(text: str) -> bytes:
    """Decode Base64 or Base64url, with or without padding and white space at the end."""
    text = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError("this is not Base64") from None


class KeySection(Section):
    """A verification key with its algorithm."""

    kid: str | None = Field(None, min_length=1, max_length=256)
    alg: Algorithm | None = None
    secret: SecretStr | None = None
    secret_file: SecretFromFile | None = None
    secret_base64: SecretStr | None = None
    secret_base64_file: SecretFromFile | None = None
    public_key: str | None = None
    public_key_file: ReadableFile | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [name for name in KEY_SOURCES if getattr(self, name) is not None]
        if self.alg is None:
            wanted, named = list(KEY_SOURCES), "a key"
        else:
            wanted, named = list(KEY_SOURCES[:4] if self.alg in SYMMETRIC else KEY_SOURCES[4:]), self.alg
        if len(given) != 1 or given[0] not in wanted:
            needed = f"{', '.join(wanted[:-1])} or {wanted[-1]}"
            raise mistake(f"{named} needs {needed}, and nothing else; given: {' and '.join(given) or 'nothing'}")
        try:
            keys = self.prepared
        except OSError as error:  # it was removed, or cannot be read
            raise mistake(f"public_key_file cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise mistake(str(error)) from None
        if not keys:
            raise mistake("this is not a public key or certificate in PEM, of a kind that is supported")
        return self

    @cached_property
    def prepared(self) -> tuple[Key, ...]:
        """Return the prepared key; without `alg`, one for each algorithm that it can be used for.

        Raises:
            ValueError: it is not a key for the algorithm, or too weak.
            OSError: its file cannot be read.
        """
        material = self._material()
        if self.alg is not None:
            return (make_key(self.kid, self.alg, material),)
        algorithms = SYMMETRIC if isinstance(material, bytes) else algorithms_of(material)
        if not algorithms:
            return ()
        first = make_key(self.kid, algorithms[0], material)
        return tuple(Key(self.kid, alg, first.material) for alg in algorithms)

    @property
    def signing_secret(self) -> bytes | None:
        """Return the secret of a symmetric key."""
        material = self._material()
        return material if isinstance(material, bytes) else None

    def _material(self) -> bytes | str:
        for plain in (self.secret, self.secret_file):
            if plain is not None:
                return plain.get_secret_value().encode()
        for encoded in (self.secret_base64, self.secret_base64_file):
            if encoded is not None:
                return _base64(encoded.get_secret_value())
        return self.public_key or (self.public_key_file.read_text(encoding="utf-8") if self.public_key_file else "")


def _header_type(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not normalized_type(value):
        raise mistake("must be a type as a token's header has it, such as at+jwt, or null for a token without one")
    if normalized_type(value) in FOREIGN_TYPES:
        raise mistake("is registered for something else: such a token is never a user's")
    return value


def _some_types(types: tuple[str | None, ...]) -> tuple[str | None, ...]:
    if not types:
        raise mistake("an empty list accepts no token at all: leave types out for all types that are a user's")
    return types


def _some_algorithms(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    if not algorithms:
        raise mistake("an empty list accepts no token at all: leave algorithms out for all that are supported")
    return canonical(algorithms)


HeaderType = Annotated[str | None, PlainValidator(_header_type)]


def _required(value: Any) -> tuple[Scalar, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    finite = (isinstance(one, str | int) or (isinstance(one, float) and isfinite(one)) for one in values)
    if not values or not all(finite):
        raise mistake("must be the value of the claim: text, a number, true or false, or a list of these")
    return values


def _some_audiences(audiences: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    if audiences == ():
        raise mistake("an empty list names no audience: leave audience out to accept tokens for any")
    return audiences


Audience = Annotated[str, Field(min_length=1)]
ClaimName = Annotated[str, Field(min_length=1)]
RequiredValues = Annotated[tuple[Scalar, ...], PlainValidator(_required)]


class Jwt(Section):
    """How a tenant's user tokens are verified."""

    keys: tuple[KeySection, ...] = ()
    jwks_url: AnyHttpUrl | None = None
    jwks_alg: Literal[ASYMMETRIC] | None = None  # type: ignore[valid-type]  # as above
    jwks_max_age: Int = Field(86_400, ge=0, le=31_536_000)
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(_some_algorithms)] | None = None
    allow_unknown_kid: bool = False
    discovery: bool = False
    issuer: str | None = Field(None, min_length=1)
    user_prefix: str = Field("", max_length=64)
    audience: Annotated[Audience | tuple[Audience, ...] | None, AfterValidator(_some_audiences)] = None
    types: Annotated[tuple[HeaderType, ...], AfterValidator(_some_types)] | None = None
    require: dict[ClaimName, RequiredValues] = Field(default_factory=dict)
    subject_claim: ClaimName = "sub"
    integer_sub: bool = False
    tenant_claim: ClaimName | None = "tenant"
    accept_bound_tokens: bool = False
    leeway: float = Field(0, ge=0, le=3600)

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if not self.keys and self.jwks_url is None and not self.discovery:
            raise mistake("needs keys, jwks_url or discovery: without a key no token can be verified")
        if self.discovery and self.jwks_url is not None:
            raise mistake("set jwks_url or discovery, not both")
        if self.discovery and not (self.issuer and re.fullmatch(r"https?://[^\s?#]+", self.issuer)):
            raise mistake("discovery needs issuer, an http(s) URL without a query: the metadata is found below it")
        kept = [key for section in self.keys for key in section.prepared]
        named = [(key.kid, key.alg) for key in kept if key.kid is not None]
        for kid, alg in sorted({one for one in named if named.count(one) > 1}):
            raise mistake(f"two keys have the kid {kid} and the algorithm {alg}: give each key a kid of its own")
        if self.algorithms is not None and (lost := [key for key in self.keys if not self.accepted(key)]):
            what = ", ".join(dict.fromkeys(key.alg or "the algorithms of a key" for key in lost))
            raise mistake(f"algorithms does not list {what}: add it, or remove the key, which verifies nothing")
        if self.algorithms is not None and self.jwks_alg is not None:
            raise mistake("set algorithms or jwks_alg, not both; jwks_alg is deprecated")
        is_remote = self.jwks_url is not None or self.discovery
        if is_remote and self.algorithms is not None and set(self.algorithms) <= set(SYMMETRIC):
            what = "jwks_url" if self.jwks_url is not None else "discovery"
            raise mistake(f"algorithms lists none that {what} can bring: add one, as no URL brings a secret")
        if self.allow_unknown_kid and all(section.kid is not None for section in self.keys):
            raise mistake("allow_unknown_kid needs a key without kid: it verifies the tokens with an unknown kid")
        return self

    def accepted(self, section: KeySection) -> list[Key]:
        """Return the prepared keys of `section` that have an accepted algorithm."""
        return [key for key in section.prepared if self.algorithms is None or key.alg in self.algorithms]

    @property
    def verification_keys(self) -> tuple[Key, ...]:
        """The keys of the file that have an accepted algorithm."""
        return tuple(key for section in self.keys for key in self.accepted(section))

    @property
    def key_rules(self) -> KeyRules:
        """How the keys of the JWKS URL are read."""
        return KeyRules(ASYMMETRIC if self.algorithms is None else self.algorithms, self.jwks_alg)

    @property
    def audiences(self) -> tuple[str, ...]:
        """The audiences, any of which a token must name; none: not checked."""
        return (self.audience,) if isinstance(self.audience, str) else self.audience or ()


def _one_or_several(value: Any) -> str:
    return ONE_BLOCK if isinstance(value, Mapping | Jwt) else SEVERAL_BLOCKS


def _issuers_differ(blocks: tuple[Jwt, ...]) -> tuple[Jwt, ...]:
    if not blocks:
        raise mistake("an empty list accepts no token at all")
    if len(blocks) > 1:
        if any(block.issuer is None for block in blocks):
            raise mistake("each of several blocks needs issuer: it selects the block that a token is checked with")
        for name in ("issuer", "user_prefix"):
            values = [getattr(block, name) for block in blocks]
            for value in sorted({value for value in values if values.count(value) > 1}):
                raise mistake(f"two blocks have the {name} {value!r}: give each its own, so that their users differ")
    return blocks


JwtBlocks = Annotated[
    Annotated[Jwt, Tag(ONE_BLOCK)] | Annotated[tuple[Jwt, ...], AfterValidator(_issuers_differ), Tag(SEVERAL_BLOCKS)],
    Discriminator(_one_or_several),
]
"""One block, or a list of them: one for each issuer."""
