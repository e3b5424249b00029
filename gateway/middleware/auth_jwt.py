"""Signed tokens, RFC 7519, with keys that their issuer publishes, RFC 7517."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.types import Scope

from gateway.errors import CapacityError, Unauthorized
from gateway.middleware.auth import Identity, single_value

logger = logging.getLogger("gateway.auth")

REFRESH_S = 300.0
"""How long a key set is used before it is fetched again."""
MIN_REFRESH_S = 10.0
"""How soon a token with an unknown key makes it be fetched again."""
MAX_TOKEN_BYTES = 16 * 1024


class Fetched(Protocol):
    """An answer to a fetch."""

    @property
    def status(self) -> int: ...

    @property
    def fields(self) -> list[tuple[bytes, bytes]]: ...

    @property
    def body(self) -> bytes: ...


Fetch = Callable[[str, Sequence[tuple[bytes, bytes]]], Awaitable[Fetched]]
"""Gets a URL with these request fields, without redirects, bounded in size and time. Raises GatewayError."""


class JwtAuthenticator:
    """Knows the subject of a bearer token that ``issuer`` signed for ``audience``.

    ``jwks`` is the URL of the issuer's keys; they are fetched when needed, again after five minutes, and at once (but
    no more than every ten seconds) when a token names a key that is not among them, so that the issuer can rotate them.
    ``leeway_s`` allows for clocks that differ. ``claims_to_headers`` gives claims of the token to the service.
    """

    credential_fields = frozenset([b"authorization"])

    def __init__(
        self,
        *,
        jwks: str,
        issuer: str,
        audience: str,
        fetch: Fetch,
        algorithms: Sequence[str] = ("RS256", "ES256"),
        leeway_s: float = 30.0,
        claims_to_headers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        from joserfc import jws

        self._jwks_url = jwks
        self._issuer = issuer
        self._audience = audience
        self._fetch = fetch
        self._algorithms = list(algorithms)
        # The library allows a few algorithms by default only; this registry allows these and no others.
        self._registry = jws.JWSRegistry(algorithms=self._algorithms)
        self._leeway_s = leeway_s
        self._claims = [(claim, name.lower().encode("ascii")) for claim, name in (claims_to_headers or {}).items()]
        self.identity_fields = frozenset(name for _, name in self._claims)
        self._clock = clock
        self._wall_clock = wall_clock
        self._keys: Any = None
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized with the reason in the challenge (RFC 6750 section 3)."""
        token = self._token(scope)
        header = self._header(token)
        keys = await self._keys_for(header.get("kid"))
        claims = self._verified(token, keys)
        fields = tuple((name, _text(claims[claim]).encode("utf-8")) for claim, name in self._claims if claim in claims)
        return Identity(_text(claims.get("sub", "")), tuple(field for field in fields if _is_printable(field[1])))

    def _token(self, scope: Scope) -> str:
        value = single_value(scope["headers"], b"authorization")
        scheme, _, token = (value or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("no bearer token", headers=[(b"www-authenticate", b"Bearer")])
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise self._invalid("the token is too long or not ASCII")
        return token.strip().decode("ascii")

    def _header(self, token: str) -> dict[str, Any]:
        from joserfc import jws
        from joserfc.errors import JoseError

        try:
            header = dict(jws.extract_compact(token.encode("ascii")).headers())
        except (JoseError, ValueError, TypeError) as error:
            raise self._invalid("the token is malformed") from error
        if header.get("alg") not in self._algorithms:
            raise self._invalid(f"the algorithm {header.get('alg')!r} is not allowed")
        return header

    def _verified(self, token: str, keys: Any) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            decoded = jwt.decode(token, keys, algorithms=self._algorithms)
            claims = dict(decoded.claims)
            registry = jwt.JWTClaimsRegistry(
                now=lambda: int(self._wall_clock()),
                leeway=int(self._leeway_s),
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
            )
            registry.validate(claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise self._invalid(f"the token does not hold: {error}") from error
        return claims

    async def _keys_for(self, key_id: str | None) -> Any:
        age = self._clock() - self._fetched_at
        if self._keys is None or age > REFRESH_S or (not self._has(key_id) and age > MIN_REFRESH_S):
            async with self._fetching:
                # Whoever waited finds the keys that another request has fetched meanwhile.
                if self._clock() - self._fetched_at >= min(age, MIN_REFRESH_S):
                    await self._refresh()
        if self._keys is None:
            raise CapacityError("the keys of the token issuer cannot be fetched", retry_after_s=int(MIN_REFRESH_S))
        return self._keys

    def _has(self, key_id: str | None) -> bool:
        return key_id is None or any(key.kid == key_id for key in self._keys.keys)

    async def _refresh(self) -> None:
        from joserfc.jwk import KeySet

        self._fetched_at = self._clock()
        try:
            answer = await self._fetch(self._jwks_url, ((b"accept", b"application/json"),))
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            self._keys = KeySet.import_key_set(json.loads(answer.body))
        except Exception as error:  # Whatever an issuer sends: the old keys stay in use.
            logger.warning("the keys of %s cannot be fetched: %s", self._issuer, error)

    def _invalid(self, reason: str) -> Unauthorized:
        return Unauthorized(reason, headers=[(b"www-authenticate", b'Bearer error="invalid_token"')])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return json.dumps(value, separators=(",", ":"))


def _is_printable(value: bytes) -> bool:
    return not any(byte < 0x20 or byte == 0x7F for byte in value)
