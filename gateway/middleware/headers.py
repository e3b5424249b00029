"""Sets, adds, removes and hides header fields.

app.add_middleware(HeadersMiddleware, response=HeaderRules(set={"Cache-Control": "no-store"}), hide=["Server"])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import Exchange, ResponseRule, exchange_of
from gateway.http.fields import Fields, get_first, without
from gateway.http.header_rules import HeaderRules

_KINDS = frozenset(["http", "websocket"])
_HEADS = frozenset(["http.response.start", "websocket.http.response.start"])
_NO_RULES = HeaderRules()


def make_headers_rule(response: HeaderRules = _NO_RULES, *, hide: Sequence[str] = ()) -> ResponseRule:
    """The rule that hides fields of a response and applies ``response`` to the others."""
    hidden = frozenset(name.lower().encode("ascii") for name in hide)

    def rule(scope: Scope, message: Message) -> None:
        fields = without(message["headers"], hidden) if hidden else message["headers"]
        message["headers"] = response.apply_response(fields)

    return rule


def make_request_rule(rules: HeaderRules) -> Callable[[Fields, Exchange], Fields]:
    """The rule that applies ``rules`` to the fields of an exchange's request on its way out."""
    if not rules.names:
        return lambda fields, exchange: rules.apply_response(fields)
    return lambda fields, exchange: rules.apply_request(fields, request_names(exchange))


def request_names(exchange: Exchange) -> dict[str, bytes]:
    """What the names in a template stand for; a name of the path never hides one of the gateway's."""
    return {
        **exchange.params,
        "client_ip": exchange.client.encode("latin-1", "replace"),
        "host": exchange.public_host,
        "scheme": exchange.scheme.encode("ascii", "replace"),
        "request_id": exchange.request_id.encode("latin-1", "replace"),
        "route": exchange.route.encode("latin-1", "replace"),
    }


def scope_names(scope: Scope) -> dict[str, bytes]:
    """What the names stand for outside the gateway; path parameters are those that a router before this one found."""
    client = scope.get("client")
    state = scope.get("state") or {}
    names = {name: str(value).encode("utf-8") for name, value in (scope.get("path_params") or {}).items()}
    return {
        **names,
        "client_ip": client[0].encode("latin-1", "replace") if client else b"",
        "host": get_first(scope["headers"], b"host") or b"",
        "scheme": scope.get("scheme", "http").encode("ascii", "replace"),
        "request_id": str(state.get("request_id", "")).encode("latin-1", "replace"),
        "route": b"",
    }


async def run_with_rules(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *rules: ResponseRule) -> None:
    """Run ``app`` and pass every response head through ``rules``, each on a copy that is theirs to change."""

    def send_through(message: Message) -> Awaitable[None]:
        if message["type"] in _HEADS:
            message = {**message, "headers": list(message.get("headers", ()))}
            for rule in rules:
                rule(scope, message)
        return send(message)

    await app(scope, receive, send_through)


class HeadersMiddleware:
    """Applies ``request`` to the fields of requests and ``response`` to those of responses, and hides ``hide``.

    Values of ``request`` may use {client_ip}, {host}, {scheme}, {request_id}, {route} and names of the path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        request: HeaderRules = _NO_RULES,
        response: HeaderRules = _NO_RULES,
        hide: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.request = request
        self._rule = make_headers_rule(response, hide=hide)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _KINDS:
            await self.app(scope, receive, send)
            return
        if self.request:
            exchange = exchange_of(scope)
            names = request_names(exchange) if exchange is not None else scope_names(scope)
            scope = {**scope, "headers": self.request.apply_request(scope["headers"], names)}
        await run_with_rules(self.app, scope, receive, send, self._rule)
