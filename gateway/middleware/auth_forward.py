"""Another service decides whether a request may pass."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache
from starlette.types import Scope

from gateway.errors import CapacityError, Forbidden, GatewayError, Unauthorized
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, get_all
from gateway.middleware.auth import Identity
from gateway.middleware.auth_jwt import Fetch

MAX_VERDICTS = 4096

# What tells the service about the request; its body is never sent.
_ASKED_WITH = frozenset(
    [b"authorization", b"cookie", b"accept", b"accept-language", b"user-agent", b"origin", b"referer"]
)
_USER_FIELDS = (b"x-auth-request-user", b"x-forwarded-user", b"remote-user", b"x-user")


class ForwardAuthenticator:
    """Asks ``url`` about each request: 2xx lets it pass, 401 and 403 do not; anything else is 503.

    The service is told method, URI, host and client in X-Forwarded-* fields and gets the client's credentials.
    ``copy_headers`` of its answer go on to the upstream. With ``cache_s`` a good verdict on the same credentials,
    method and URI is remembered for so many seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        fetch: Fetch,
        copy_headers: Sequence[str] = (),
        cache_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._copied = tuple(name.lower().encode("ascii") for name in copy_headers)
        self.identity_fields = frozenset(self._copied)
        self.credential_fields = frozenset([b"authorization"])
        self._verdicts: TTLCache[bytes, Identity] | None = None
        if cache_s > 0:
            self._verdicts = TTLCache(MAX_VERDICTS, cache_s, timer=clock)

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request, as the service says; Unauthorized, Forbidden, or CapacityError when it fails."""
        fields = self._question(scope)
        if self._verdicts is None:
            return await self._ask(fields)
        key = hashlib.blake2b(repr(fields).encode("utf-8")).digest()
        identity = self._verdicts.get(key)
        if identity is None:
            identity = self._verdicts[key] = await self._ask(fields)
        return identity

    def _question(self, scope: Scope) -> Fields:
        exchange = exchange_of(scope)
        target: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
        if scope["query_string"]:
            target = b"%b?%b" % (target, scope["query_string"])
        client = exchange.client if exchange is not None else (scope.get("client") or ("",))[0]
        scheme = exchange.scheme if exchange is not None else scope.get("scheme", "http")
        hosts = get_all(scope["headers"], b"host")
        return [
            *(field for field in scope["headers"] if field[0] in _ASKED_WITH),
            (b"x-forwarded-method", scope.get("method", "GET").encode("ascii")),
            (b"x-forwarded-uri", target),
            (b"x-forwarded-host", hosts[0] if hosts else b""),
            (b"x-forwarded-proto", scheme.encode("ascii")),
            (b"x-forwarded-for", client.encode("ascii")),
        ]

    async def _ask(self, fields: Fields) -> Identity:
        try:
            answer = await self._fetch(self._url, fields)
        except GatewayError as error:
            raise CapacityError(f"the authentication service does not answer: {error}") from error
        if 200 <= answer.status < 300:
            copied = tuple((name, value) for name in self._copied for value in get_all(answer.fields, name))
            user = next((value for name in _USER_FIELDS for value in get_all(answer.fields, name)), b"authenticated")
            return Identity(user.decode("latin-1"), copied)
        if answer.status == 401:
            challenge = [(b"www-authenticate", value) for value in get_all(answer.fields, b"www-authenticate")]
            raise Unauthorized("the authentication service says 401", headers=challenge)
        if answer.status == 403:
            raise Forbidden("the authentication service says 403")
        raise CapacityError(f"the authentication service says {answer.status}")
