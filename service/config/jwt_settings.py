"""`tenants.NAME.jwt`: the keys of a tenant's user tokens, and which tokens are meant."""

from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AnyHttpUrl, Field, PlainValidator, SecretStr, model_validator

from service.config.setting_types import Int, ReadableFile, Section, mistake
from service.core.tokens.keys import ALGORITHMS, ASYMMETRIC, Key, make_key
from service.core.tokens.kinds import FOREIGN_TYPES, Scalar, normalized_type


class KeySection(Section):
    """One verification key, with the one algorithm it is for."""

    kid: str | None = Field(None, min_length=1, max_length=256)
    alg: Literal[ALGORITHMS]  # type: ignore[valid-type]  # the tuple is the one list of them
    secret: SecretStr | None = None
    public_key: str | None = None
    public_key_file: ReadableFile | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [name for name in ("secret", "public_key", "public_key_file") if getattr(self, name) is not None]
        wanted = "secret" if self.alg.startswith("HS") else "public_key or public_key_file"
        if len(given) != 1 or given[0] not in wanted.split(" or "):
            raise mistake(f"{self.alg} needs {wanted}, and nothing else; given: {' and '.join(given) or 'nothing'}")
        try:
            self.key()
        except OSError as error:  # it went away, or is no file that can be read whole
            raise mistake(f"public_key_file cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise mistake(str(error)) from None
        return self

    def key(self) -> Key:
        """The key, ready to verify with."""
        if self.secret is not None:
            return make_key(self.kid, self.alg, self.secret.get_secret_value().encode())
        pem = self.public_key or (self.public_key_file.read_text() if self.public_key_file else "")
        return make_key(self.kid, self.alg, pem)


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
        raise mistake("an empty list takes no token at all: leave types out for all that are not registered otherwise")
    return types


HeaderType = Annotated[str | None, PlainValidator(_header_type)]


def _required(value: Any) -> tuple[Scalar, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    finite = (isinstance(one, str | int) or (isinstance(one, float) and isfinite(one)) for one in values)
    if not values or not all(finite):
        raise mistake("must be what the claim has to be: text, a number, true or false, or a list of these")
    return values


ClaimName = Annotated[str, Field(min_length=1)]
RequiredValues = Annotated[tuple[Scalar, ...], PlainValidator(_required)]


class Jwt(Section):
    """How a tenant's user tokens are verified."""

    keys: tuple[KeySection, ...] = ()
    jwks_url: AnyHttpUrl | None = None
    jwks_alg: Literal[ASYMMETRIC] = "RS256"  # type: ignore[valid-type]  # as above
    jwks_max_age: Int = Field(86_400, ge=0, le=31_536_000)
    issuer: str | None = None
    audience: str | tuple[str, ...] | None = None
    types: Annotated[tuple[HeaderType, ...], AfterValidator(_some_types)] | None = None
    require: dict[ClaimName, RequiredValues] = Field(default_factory=dict)
    subject_claim: ClaimName = "sub"
    integer_sub: bool = False
    tenant_claim: ClaimName | None = "tenant"
    accept_bound_tokens: bool = False
    leeway: float = Field(0, ge=0, le=3600)

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if not self.keys and self.jwks_url is None:
            raise mistake("needs at least one of keys and jwks_url: without a key no token can be verified")
        kids = [key.kid for key in self.keys if key.kid is not None]
        for kid in sorted({kid for kid in kids if kids.count(kid) > 1}):
            raise mistake(f"the kid {kid} stands twice; a token names exactly one key")
        return self

    @property
    def audiences(self) -> tuple[str, ...]:
        """The audiences, any of which a token must name; none: not checked."""
        return (self.audience,) if isinstance(self.audience, str) else self.audience or ()
