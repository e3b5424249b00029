"""Another service decides whether a request may pass."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache
from starlette.types import Scope

from gateway.errors import CapacityError, Forbidden, GatewayError, Unauthorized
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, get_all, get_first, with_hyphens
from gateway.http.hop_by_hop import outbound_fields
from gateway.middleware.auth import NAMELESS, Elsewhere, Fetch, Identity

MAX_VERDICTS = 4096

# What says nothing of who asks for what: the body and its form, conditions and ranges, coding, tracing. It is not part
# of the question, and so not of what a verdict is remembered under either.
_NOT_ASKED = frozenset(
    [
        *(b"host", b"content-length", b"content-type", b"content-encoding", b"content-md5", b"digest"),
        *(b"content-digest", b"repr-digest", b"accept-encoding", b"range", b"via", b"cache-control", b"pragma"),
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"),
        *(b"traceparent", b"tracestate", b"baggage", b"priority"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"),
    ]
)
_USER_FIELDS = (b"x-auth-request-user", b"x-forwarded-user", b"remote-user", b"x-user", b"x-auth-request-email")


class ForwardAuthenticator:
    """Asks ``url`` about each request: 2xx lets it pass, 401 and 403 do not.

    A redirect, as to a page where one logs in, is the client's answer; whatever else comes, or nothing, is 503. The
    service gets the request's fields without its body, and method, URI, scheme, host and client in X-Forwarded-*.
    ``copy_headers`` of its answer go on to the upstream. With ``cache_s`` a good verdict on the same question is
    remembered for so many seconds.
    """

    credential_fields = frozenset([b"authorization"])

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
        # What the client says of itself in fields that the service is to fill in is no part of the question; its
        # credentials are, also where the service's answer replaces them.
        self._not_asked = _NOT_ASKED | (with_hyphens(self.identity_fields) - {b"authorization", b"cookie"})
        self._verdicts: TTLCache[bytes, Identity] | None = None
        if cache_s > 0:
            self._verdicts = TTLCache(MAX_VERDICTS, cache_s, timer=clock)

    async def authenticate(self, scope: Scope) -> Identity | Elsewhere:
        """Who sent the request, as the service says; Unauthorized, Forbidden, or CapacityError when it fails."""
        fields = self._question(scope)
        if self._verdicts is None:
            return await self._ask(fields)
        key = hashlib.blake2b(repr(fields).encode("ascii"), digest_size=32).digest()
        identity = self._verdicts.get(key)
        if identity is not None:
            return identity
        verdict = await self._ask(fields)
        if isinstance(verdict, Identity):
            self._verdicts[key] = verdict
        return verdict

    def _question(self, scope: Scope) -> Fields:
        exchange = exchange_of(scope)
        target: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
        if scope["query_string"]:
            target = b"%b?%b" % (target, scope["query_string"])
        client = exchange.client if exchange is not None else (scope.get("client") or ("",))[0]
        scheme = exchange.scheme if exchange is not None else scope.get("scheme", "http")
        return [
            *outbound_fields(scope["headers"], drop=self._not_asked),
            (b"x-forwarded-method", scope.get("method", "GET").encode("ascii")),
            (b"x-forwarded-uri", target),
            (b"x-forwarded-host", get_first(scope["headers"], b"host") or b""),
            (b"x-forwarded-proto", scheme.encode("ascii")),
            (b"x-forwarded-for", client.encode("ascii")),
        ]

    async def _ask(self, fields: Fields) -> Identity | Elsewhere:
        try:
            answer = await self._fetch(self._url, fields)
        except GatewayError as error:
            raise CapacityError(f"the authentication service does not answer: {error}") from error
        status = answer.status
        if 200 <= status < 300:
            copied = tuple((name, value) for name in self._copied for value in get_all(answer.fields, name))
            user = next((value for name in _USER_FIELDS for value in get_all(answer.fields, name) if value), None)
            return Identity(NAMELESS if user is None else user.decode("latin-1"), copied)
        if status == 401:
            challenge = [(b"www-authenticate", value) for value in get_all(answer.fields, b"www-authenticate")]
            raise Unauthorized("the authentication service says 401", headers=challenge)
        if status == 403:
            raise Forbidden("the authentication service says 403")
        if status in (302, 303, 307) and get_first(answer.fields, b"location"):
            # A login keeps its state in a cookie that goes with the redirect.
            passed = [field for field in answer.fields if field[0] in (b"location", b"set-cookie")]
            return Elsewhere(status, [*passed, (b"cache-control", b"no-store")])
        raise CapacityError(f"the authentication service says {status}")
