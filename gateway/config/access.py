"""Who may use a route: authentication, CORS, rate limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from gateway.config.addresses import Origin, ServiceUrl, StoreUrl
from gateway.config.problems import quoted
from gateway.config.table import Flag, FrozenDict, Parsed, PositiveCount, Table
from gateway.config.units import Duration
from gateway.config.values import File, HeaderName, Method, RuleName, Source, Text

Secret = Annotated[SecretStr, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` requests in ``period_s`` seconds."""

    count: int
    period_s: float

    def __str__(self) -> str:
        return f"{self.count}/{_UNITS[self.period_s]}"


_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = {seconds: unit for unit, seconds in _PERIODS.items()}


def parse_rate(value: Any) -> Rate:
    """``"100/s"``, ``"600/m"``, ``"1000/h"`` or ``"5000/d"``."""
    if isinstance(value, Rate):
        return value
    match = re.fullmatch("([1-9][0-9]{0,11})/([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a number of requests in a unit of time, such as "100/s", "600/m" or "1000/h"')
    return Rate(int(match[1]), _PERIODS[match[2]])


class BasicAuth(Table):
    """HTTP Basic, RFC 7617."""

    users: FrozenDict[Text, Secret] = FrozenDict()
    """Password hashes by user: argon2 or bcrypt."""
    file: File | None = None
    """A file with a line user:hash for each user, as htpasswd -B writes it. Its users are in ``users`` once loaded."""

    @model_validator(mode="after")
    def _one_source(self) -> BasicAuth:
        if bool(self.users) == (self.file is not None):
            raise ValueError("needs users or file, and not both")
        return self


class ApiKeyAuth(Table):
    """A key in a header."""

    header: HeaderName = "X-API-Key"
    """Header with the key."""
    keys: Annotated[FrozenDict[Text, Secret], Field(min_length=1)]
    """Secrets by the name of their owner; "sha256:" and 64 hex digits for a hashed one."""

    @field_validator("keys")
    @classmethod
    def _well_formed(cls, keys: FrozenDict[str, SecretStr]) -> FrozenDict[str, SecretStr]:
        for owner, key in keys.items():
            secret = key.get_secret_value()
            if secret.startswith("sha256:") and not re.fullmatch("sha256:[0-9a-fA-F]{64}", secret):
                raise ValueError(f"the key of {quoted(owner)} must have 64 hex digits after sha256:")
        if len({key.get_secret_value() for key in keys.values()}) < len(keys):
            raise ValueError("two owners have the same key")
        return keys


class JwtAuth(Table):
    """Signed tokens, RFC 7519."""

    jwks: ServiceUrl
    """URL of the issuer's keys."""
    issuer: Text
    """What iss must be."""
    audience: Text
    """What aud must name."""
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256", "ES256")
    """Signature algorithms that are accepted."""
    leeway: Duration = 30.0
    """Allowed difference of clocks."""
    claims_to_headers: FrozenDict[Text, RuleName] = FrozenDict()
    """Request headers by the claim that they carry."""


class ForwardAuth(Table):
    """Another service decides."""

    url: ServiceUrl
    """Asked with the request's headers; 2xx lets it pass."""
    copy_headers: tuple[RuleName, ...] = ()
    """Headers of its answer that are added to the request."""
    cache: Duration = 0.0
    """How long a verdict is remembered."""


class AuthConfig(Table):
    """One way of authentication."""

    basic: BasicAuth | None = None
    """HTTP Basic."""
    api_key: ApiKeyAuth | None = None
    """A key in a header."""
    jwt: JwtAuth | None = None
    """Signed tokens."""
    forward: ForwardAuth | None = None
    """Another service decides."""
    forward_credentials: Flag = False
    """Whether the upstream sees the credentials."""

    @model_validator(mode="after")
    def _one_way(self) -> AuthConfig:
        ways = (self.basic, self.api_key, self.jwt, self.forward)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("needs exactly one of basic, api_key, jwt and forward")
        return self


class CorsConfig(Table):
    """Cross-origin requests of browsers."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]
    """Origins that may read answers; "*": all."""
    methods: tuple[Method, ...] = ("GET", "HEAD", "POST")
    """Methods that may be used."""
    headers: tuple[HeaderName, ...] = ()
    """Request headers that may be sent."""
    expose: tuple[HeaderName, ...] = ()
    """Response headers that scripts may read."""
    credentials: Flag = False
    """Whether cookies and credentials may be sent."""
    max_age: Duration = 600.0
    """How long a browser remembers a preflight."""

    @model_validator(mode="after")
    def _no_credentials_for_all(self) -> CorsConfig:
        if "*" in self.origins and self.credentials:
            raise ValueError(
                'origins ["*"] with credentials would let every site act for its visitors; name the origins'
            )
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError('"*" includes every other origin')
        return self


class RateLimitConfig(Table):
    """Requests in a unit of time."""

    rate: Annotated[Rate, Parsed(parse_rate, {"type": "string", "pattern": "^[1-9][0-9]*/[smhd]$"}, show=str)] = Rate(
        100, 1.0
    )
    """Requests in a second, minute, hour or day: "100/s"."""
    burst: PositiveCount = 50
    """Requests beyond the rate that may come at once."""
    key: Annotated[str, Source(("client-ip", "user"), ("header",))] = "client-ip"
    """Whose requests are counted together."""
    store: Annotated[StoreUrl, Field(repr=False)] = "memory"
    """"memory", or redis://host:6379/0. Not in repr: it may hold a password."""
    on_error: Literal["open", "closed"] = "open"
    """Whether requests pass when the store fails."""
