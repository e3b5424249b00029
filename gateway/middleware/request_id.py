"""Gives every request an id that the service, the log and the client know it by.

app.add_middleware(RequestIdMiddleware, trusted_proxies=["10.0.0.0/8"])
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import ResponseRule, exchange_of
from gateway.http.fields import without
from gateway.http.forwarded import request_id_of
from gateway.http.networks import UNIX, Networks
from gateway.middleware.headers import run_with_rules


def request_ids() -> Callable[[], str]:
    """A source of unique ids: random bits drawn once, and a counter. They can be guessed and are no secret.

    A counter costs 0.16 us a request, random bits for each 0.6. Processes that are forked need a source each.
    """
    prefix = secrets.token_hex(8)
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers):08x}"


def make_request_id_rule(name: str, request_id: Callable[[Scope], str]) -> ResponseRule:
    """The rule that gives every response the id of its request in field ``name``, instead of any other."""
    field_name = name.lower().encode("ascii")
    names = frozenset([field_name])

    def rule(scope: Scope, message: Message) -> None:
        fields = without(message["headers"], names)
        fields.append((field_name, request_id(scope).encode("latin-1")))
        message["headers"] = fields

    return rule


class RequestIdMiddleware:
    """Puts an id in field ``header`` of request and response and in ``scope["state"]["request_id"]``.

    A well-formed one from one of ``trusted_proxies``, networks or ``unix``, is kept; any other is replaced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header: str = "X-Request-ID",
        trusted_proxies: Sequence[str] = (),
        make_id: Callable[[], str] | None = None,
    ) -> None:
        self.app = app
        self._name = header.lower().encode("ascii")
        self._names = frozenset([self._name])
        self._trusted = Networks(trusted_proxies)
        self._make_id = make_id or request_ids()
        self._rule = make_request_id_rule(header, lambda scope: str(scope["state"]["request_id"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = self._id_of(scope)
        scope = {
            **scope,
            "headers": [*without(scope["headers"], self._names), (self._name, request_id.encode("ascii"))],
            "state": {**(scope.get("state") or {}), "request_id": request_id},
        }
        await run_with_rules(self.app, scope, receive, send, self._rule)

    def _id_of(self, scope: Scope) -> str:
        exchange = exchange_of(scope)
        if exchange is not None and exchange.request_id:
            return exchange.request_id
        peer = (scope.get("client") or (UNIX,))[0]
        given = request_id_of(scope["headers"], self._name) if self._trusted.contains(peer) else ""
        return given or self._make_id()
