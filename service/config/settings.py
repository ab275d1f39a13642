"""The settings: the type, default and range of each. `loading.py` loads them from `config.yaml` and the environment.

Everything is frozen and typed, unknown keys are refused. Secrets are `SecretStr`, so that no log and no error shows
them. Checks between settings are in `cross_checks.py`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from service.config.jwt_settings import Jwt, JwtBlocks
from service.config.setting_types import (
    MAX_TOKEN_CHARS,
    BasePath,
    Certificates,
    Hosts,
    Int,
    Network,
    Origin,
    ReadableFile,
    SecretFromFile,
    TokenFromFile,
    UrlFromFile,
    check_pair,
    mistake,
    with_url_of_file,
)
from service.config.setting_types import Section as _Section
from service.core.admission import CAPABILITY
from service.core.limits import MAX_REQUESTS, MAX_WINDOW_S, OnOutage, Per
from service.core.session_lists import EVENT_TYPES
from service.core.tenants import digest
from service.core.webhooks import MOST_SECRETS, key_of
from service.store.connection.url import Address

NAME = r"^[a-z0-9_-]{1,64}$"
OPERATIONS = ("logout", "status", "verify", "terminate", "admin", "login")


Name = Annotated[str, Field(pattern=NAME)]
Capability = Annotated[str, Field(pattern=CAPABILITY)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Token = Annotated[SecretStr, Field(min_length=1, max_length=MAX_TOKEN_CHARS)]


CORS_HEADERS = (
    *("authorization", "content-type", "x-passive", "x-request-id", "x-tenant-token", "x-token"),
    *("traceparent", "tracestate", "baggage", "x-requested-with"),
)
"""The service's own, and what tracing (W3C) and libraries for pages add by themselves."""


class Server(_Section):
    """Where the service listens, which proxies it trusts, and how it ends. Times are in seconds."""

    host: Hosts = "127.0.0.1"
    port: Int = Field(8080, ge=0, le=65535)
    workers: Int = Field(1, ge=1, le=64)
    drain: Int = Field(0, ge=0, le=3600)
    trusted_proxies: tuple[Network, ...] = ()
    client_address: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    cors_origins: tuple[Origin, ...] = ()
    cors_headers: tuple[Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")], ...] = CORS_HEADERS
    base_path: BasePath = ""
    watch_config: bool = False
    ipv6_prefix: Int = Field(64, ge=1, le=128)
    access_log: Literal["all", "refused", "none"] = "refused"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses and names to listen on."""
        return (self.host,) if isinstance(self.host, str) else self.host


class Tls(_Section):
    """Files for `rediss://`."""

    ca_file: Certificates | None = None
    cert_file: ReadableFile | None = None
    key_file: ReadableFile | None = None

    @model_validator(mode="after")
    def _a_pair(self) -> Self:
        check_pair(self.cert_file, self.key_file)
        return self


class Redis(_Section):
    """Which Redis is used, and how long a request may wait for it (seconds)."""

    url: str = "embedded"
    url_file: UrlFromFile | None = None
    namespace: str = Field("rc", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    timeout: float = Field(0.25, gt=0, le=60)
    allow_eviction: bool = False
    tls: Tls = Tls()

    @model_validator(mode="before")
    @classmethod
    def _url_of_file(cls, values: Any) -> Any:
        return with_url_of_file(values, "embedded")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if url != "embedded":
            try:
                Address.parse(url)
            except ValueError as error:
                raise mistake(str(error)) from None
        return url


class SessionsSection(_Section):
    """How sessions are kept. All times are in seconds."""

    seen_every: Int = Field(60, ge=0, le=86_400)
    retention: Int = Field(86_400, ge=0)
    logout_grace: Int = Field(0, ge=0)
    status_is_passive: bool = False
    max_token_lifetime: Int = Field(2_678_400, ge=1, le=3_153_600_000)
    on_outage: Literal["deny", "allow"] = "deny"


class LimitSection(_Section):
    """At most `requests` admitted in any `window` seconds."""

    name: Name
    per: Per
    requests: Int = Field(ge=1, le=MAX_REQUESTS)
    window: Int = Field(ge=1, le=MAX_WINDOW_S)
    shadow: bool = False
    on_outage: OnOutage = OnOutage.LOCAL


Limits = tuple[LimitSection, ...]


def _limit(name: str, requests: int, window: int) -> Limits:
    return (LimitSection(name=name, per=Per.IP, requests=requests, window=window),)


class TenantLimits(_Section):
    """A tenant's own limits per operation. One of the same name replaces the top-level limit."""

    logout: Limits = ()
    status: Limits = ()
    verify: Limits = ()
    terminate: Limits = ()


class LimitsSection(TenantLimits):
    """The limits of every tenant, and those of operations without a tenant."""

    logout: Limits = _limit("logout-ip", 30, 3600)
    status: Limits = _limit("status-ip", 600, 60)
    terminate: Limits = _limit("terminate-ip", 10, 3600)
    admin: Limits = _limit("admin-ip", 600, 60)
    login: Limits = _limit("login-ip", 10, 60)


def _pattern(path: str) -> str:
    names = path.removesuffix("/").split("/")[1:]
    if not path.startswith("/") or "" in names:
        raise mistake("must be a path from the root, such as /api/payments/*, without empty segments")
    if any("*" in name and name != "*" for name in names):
        raise mistake("a * matches a whole segment: /api/*/items, or /api/* for everything below")
    if {".", ".."} & set(names) or not re.fullmatch(r"[^\x00-\x20\x7f%?#;\\]*", path):
        raise mistake("is matched against the decoded path: write it without dots, %, ?, #, ; and backslashes")
    return "/" + "/".join(names)


def _method(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z_-]{0,31}", name):
        raise mistake("must be a method as requests have it, in capitals, such as GET")
    return name


class RouteSection(_Section):
    """A rule for proxied requests. The first rule of the list that matches decides."""

    path: Annotated[str, Field(max_length=1024), AfterValidator(_pattern)]
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] | None = None
    capability: Capability | None = None
    limits: Limits = ()
    open: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.methods == ():
            raise mistake("an empty list of methods matches nothing: leave methods out for all of them")
        if self.open and self.capability is not None:
            raise mistake("an open route needs no credentials, so nobody can be restricted from it: drop capability")
        if self.open and any(limit.per is Per.USER for limit in self.limits):
            raise mistake("an open route has no user: its limits are per ip or per tenant")
        return self


class Metrics(_Section):
    """Who may read /metrics; without a token anyone who can reach it."""

    token: Token | None = None
    token_file: TokenFromFile | None = None

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise mistake("set token or token_file, not both")
        return self

    @property
    def given_token(self) -> SecretStr | None:
        """The token, from wherever it was read; None: none is needed."""
        return self.token or self.token_file


class _WithToken(_Section):
    """A token, a file with it, or its SHA-256."""

    token: Token | None = None
    token_file: TokenFromFile | None = None
    token_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.token, self.token_file, self.token_sha256].count(None) != 2:
            raise mistake("needs one of token, token_file and token_sha256")
        return self

    @property
    def given_token(self) -> SecretStr | None:
        """The token, from wherever it was read; None: only its SHA-256 is known."""
        return self.token or self.token_file

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the token."""
        if (token := self.given_token) is not None:
            return digest(token.get_secret_value())
        return bytes.fromhex(self.token_sha256 or "")


def _one_or_several(value: Any) -> Any:
    secrets = value if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(secrets) <= MOST_SECRETS:
        raise mistake(f"must be one secret, or a list of 1 to {MOST_SECRETS}")
    return secrets


def _signing_secret(secret: SecretStr) -> SecretStr:
    try:
        key_of(secret.get_secret_value())
    except ValueError as error:
        raise mistake(f"{error}") from None
    return secret


def _different(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len(set(secrets)) < len(secrets):
        raise mistake("has the same secret twice: leave one out")
    return secrets


SigningSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]
Secrets = Annotated[
    tuple[SigningSecret, ...],
    AfterValidator(_different),
    BeforeValidator(_one_or_several, json_schema_input_type=SigningSecret | tuple[SigningSecret, ...]),
]
"""One secret, or a list of them: the first signs first, and all signatures are sent."""
SecretFiles = Annotated[
    tuple[Annotated[SecretFromFile, AfterValidator(_signing_secret)], ...],
    AfterValidator(_different),
    BeforeValidator(_one_or_several, json_schema_input_type=str | tuple[str, ...]),
]
"""The same from one file each."""


class WebhookSection(_Section):
    """A receiver of the tenant's events."""

    name: Name
    url: AnyHttpUrl
    url_file: UrlFromFile | None = None
    secret: Secrets = ()
    secret_file: SecretFiles = ()
    events: tuple[Literal[EVENT_TYPES], ...] = EVENT_TYPES  # type: ignore[valid-type]  # a tuple of names

    @model_validator(mode="before")
    @classmethod
    def _url_of_file(cls, values: Any) -> Any:
        return with_url_of_file(values, "https://not-read.invalid/")

    @model_validator(mode="after")
    def _has_a_secret(self) -> Self:
        if bool(self.secret) == bool(self.secret_file):
            raise mistake("needs either secret or secret_file")
        return self

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The signing keys, in the order of the secrets."""
        return tuple(key_of(secret.get_secret_value()) for secret in self.secret or self.secret_file)


class WebhooksSection(_Section):
    """How messages to receivers are delivered, of all tenants."""

    give_up_after: Int | None = Field(None, ge=1, le=31_536_000)


class TenantSection(_WithToken):
    """A customer of the deployment."""

    jwt: JwtBlocks
    restricted_capabilities: tuple[Capability, ...] = ()
    limits: TenantLimits = TenantLimits()
    routes: tuple[RouteSection, ...] = ()
    webhooks: tuple[WebhookSection, ...] = ()

    @property
    def issuers(self) -> tuple[Jwt, ...]:
        """The blocks of `jwt`."""
        return (self.jwt,) if isinstance(self.jwt, Jwt) else self.jwt

    @model_validator(mode="after")
    def _webhooks_differ(self) -> Self:
        names = [webhook.name for webhook in self.webhooks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise mistake(f"the name {name} appears twice; each webhook needs a name of its own")
        return self


class OperatorSection(_WithToken):
    """An operator's token: a viewer reads the sessions of some tenants, an operator also changes them."""

    name: Name
    role: Literal["viewer", "operator"] = "viewer"
    tenants: tuple[str, ...] = Field(min_length=1)


class Admin(_Section):
    """Who may use the dashboard and the admin API."""

    tokens: tuple[OperatorSection, ...] = ()


class Settings(BaseModel):
    """The whole configuration. Only `service.config.loading.load` makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    server: Server = Server()
    redis: Redis = Redis()
    sessions: SessionsSection = SessionsSection()
    limits: LimitsSection = LimitsSection()
    routes: tuple[RouteSection, ...] = ()
    webhooks: WebhooksSection = WebhooksSection()
    metrics: Metrics = Metrics()
    tenants: dict[Name, TenantSection] = Field(min_length=1)
    admin: Admin = Admin()


def secrets_of(raw: Mapping[str, Any]) -> set[str]:
    """Return every value of a raw configuration that is at the place of a secret."""
    found: set[str] = set()
    for name, value in raw.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                found |= secrets_of(item)
            elif name in SECRET_NAMES and isinstance(item, str):
                found.add(item)
    return found


SECRET_NAMES = ("token", "token_sha256", "secret")
