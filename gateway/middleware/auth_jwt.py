"""Signed tokens, RFC 7519, with keys that their issuer publishes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachetools import TTLCache
from starlette.types import Scope

from gateway.errors import Unauthorized
from gateway.http.fields import Fields
from gateway.middleware.auth import Fetch, Identity, single_value
from gateway.middleware.auth_jwks import IssuerKeys

ALGORITHMS = frozenset(
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
)
"""Signatures that can be verified by a published key; never ``none``, and no HMAC, whose key would be public."""

MAX_TOKEN_BYTES = 16 * 1024
MAX_HEADER_BYTES = 4096
VERDICT_TTL_S = 10.0
MAX_VERDICTS = 4096


class JwtAuthenticator:
    """Knows the subject of a bearer token that ``issuer`` signed for ``audience`` with one of ``algorithms``.

    ``jwks`` is the URL of the issuer's keys; they are fetched when needed, again after five minutes, and at once (but
    no more than every ten seconds) when a token names a key that is not among them, so that the issuer can rotate them.
    ``leeway_s`` allows for clocks that differ. ``claims_to_headers`` gives claims of the token to the service: text as
    it is, a list of texts joined by commas, anything else as JSON. Verifying takes 35 us (RS256) or 65 (ES256), so a
    good verdict is remembered for ten seconds, no longer than the token or its key holds. Raises ValueError for other
    algorithms.
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
        from joserfc.jwt import JWTClaimsRegistry

        self._algorithms = frozenset(algorithms)
        if not self._algorithms or not self._algorithms <= ALGORITHMS:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        self._registry = _registry(self._algorithms)
        self._leeway_s = leeway_s
        self._claims = [(claim, name.lower().encode("ascii")) for claim, name in (claims_to_headers or {}).items()]
        self.identity_fields = frozenset(name for _, name in self._claims)
        self._wall_clock = wall_clock
        self._validator = JWTClaimsRegistry(
            now=wall_clock,  # type: ignore[arg-type]  # any number of seconds will do
            leeway=leeway_s,  # type: ignore[arg-type]
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        self._keys = IssuerKeys(jwks, fetch, clock=clock)
        self._clock = clock
        self._verdicts: TTLCache[bytes, tuple[Identity, float]] = TTLCache(MAX_VERDICTS, VERDICT_TTL_S, timer=clock)
        self._verdicts_version = 0

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized with a challenge (RFC 6750 section 3) for a token that does not hold."""
        token = _token(scope["headers"])
        identity = self._remembered(token)
        if identity is not None:
            return identity
        claims = await self._verified(token)
        identity = self._identity(claims)
        if self._verdicts_version == self._keys.version:
            self._verdicts[hashlib.sha256(token).digest()] = (identity, claims["exp"] + self._leeway_s)
        return identity

    def known(self, headers: Fields) -> Identity | None:
        """Who sent a request, if the token in its fields has been verified a moment ago and still holds."""
        try:
            return self._remembered(_token(headers))
        except Unauthorized:
            return None

    def _remembered(self, token: bytes) -> Identity | None:
        self._keys.refresh_if_due(self._clock())
        if self._verdicts_version != self._keys.version:
            self._verdicts.clear()
            self._verdicts_version = self._keys.version
        verdict = self._verdicts.get(hashlib.sha256(token).digest())
        return verdict[0] if verdict is not None and self._wall_clock() < verdict[1] else None

    async def _verified(self, token: bytes) -> dict[str, Any]:
        """The claims of a token whose signature, issuer, audience and times hold."""
        from joserfc import jws
        from joserfc.errors import JoseError

        try:
            signed = jws.extract_compact(token, registry=self._registry)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _invalid("the token is malformed") from error
        for key in await self._keys.candidates(self._key_id(signed.protected)):
            try:
                if jws.validate_compact(signed, key, registry=self._registry):
                    break
            except (JoseError, ValueError, TypeError):
                # A key of another kind, or for another use.
                continue
        else:
            raise _invalid("no key of the issuer has made the signature")
        try:
            claims = json.loads(signed.payload)
            if not isinstance(claims, dict):
                raise ValueError("the claims are no object")
            self._validator.validate(claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _invalid(f"the token does not hold: {error}") from error
        return claims

    def _key_id(self, header: Any) -> str | None:
        """The key that a token's header names."""
        if not isinstance(header, dict):
            raise _invalid("the token's header is no object")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _invalid("the token's algorithm is not allowed")
        if "crit" in header or "b64" in header:
            # Nothing that must be understood is: RFC 7515 section 4.1.11, RFC 7797 section 7.
            raise _invalid("the token's header has extensions")
        if key_id is not None and not isinstance(key_id, str):
            raise _invalid("the token's key id is no text")
        return key_id

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        fields = []
        for claim, name in self._claims:
            value = claims.get(claim)
            if value is not None and _is_printable(text := _text(value).encode("utf-8", "backslashreplace")):
                fields.append((name, text))
        # JSON may hold halves of surrogate pairs, which no encoding takes.
        return Identity(str(claims.get("sub", "")).encode("utf-8", "backslashreplace").decode("utf-8"), tuple(fields))


def _registry(allowed: frozenset[str]) -> Any:
    """What the library may verify: ``allowed``, whatever it thinks of their age (it warns of EdDSA at every use)."""
    from joserfc.errors import UnsupportedAlgorithmError
    from joserfc.jws import JWSRegistry

    class Registry(JWSRegistry):
        max_header_length = MAX_HEADER_BYTES

        def get_alg(self, name: str) -> Any:
            if name not in allowed:
                raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
            return self.algorithms[name]

    # Header parameters that are not understood are passed over, RFC 7515 section 4.
    return Registry(strict_check_header=False)


def _token(headers: Fields) -> bytes:
    value = single_value(headers, b"authorization")
    scheme, _, token = (value or b"").partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthorized("no bearer token", headers=[(b"www-authenticate", b"Bearer")])
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise _invalid("the token is too long or not ASCII")
    return token.strip()


def _invalid(reason: str) -> Unauthorized:
    return Unauthorized(reason, headers=[(b"www-authenticate", b'Bearer error="invalid_token"')])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) and "," not in item for item in value):
        return ",".join(value)
    return json.dumps(value, separators=(",", ":"))


def _is_printable(value: bytes) -> bool:
    return not any(byte < 0x20 or byte == 0x7F for byte in value)
