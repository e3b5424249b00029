"""Adds the header fields with which browsers protect a site.

app.add_middleware(SecurityHeadersMiddleware, frame_options="SAMEORIGIN")
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import ResponseRule, exchange_of
from gateway.http.fields import Fields
from gateway.middleware.headers import run_with_rules


def make_security_headers_rule(
    *,
    hsts: str = "max-age=31536000",
    content_type_options: str = "nosniff",
    frame_options: str = "DENY",
    referrer_policy: str = "strict-origin-when-cross-origin",
    permissions_policy: str = "",
    content_security_policy: str = "",
    cross_origin_opener_policy: str = "same-origin",
) -> ResponseRule:
    """The rule that adds each of these fields where the response has none of the name; an empty one is not sent.

    ``hsts`` goes out on https only (RFC 6797 section 7.2): by the public scheme of the exchange, else by the scope's.
    """
    always: Fields = [
        (name, value.encode("latin-1"))
        for name, value in (
            (b"x-content-type-options", content_type_options),
            (b"x-frame-options", frame_options),
            (b"referrer-policy", referrer_policy),
            (b"permissions-policy", permissions_policy),
            (b"content-security-policy", content_security_policy),
            (b"cross-origin-opener-policy", cross_origin_opener_policy),
        )
        if value
    ]
    on_https = [(b"strict-transport-security", hsts.encode("latin-1")), *always] if hsts else always

    def rule(scope: Scope, message: Message) -> None:
        exchange = exchange_of(scope)
        scheme = exchange.scheme if exchange is not None else scope.get("scheme")
        wanted = on_https if scheme in ("https", "wss") else always
        fields = message["headers"]
        present = {name for name, _ in fields}
        fields += [field for field in wanted if field[0] not in present]

    return rule


class SecurityHeadersMiddleware:
    """Adds security fields to responses that have none of their own; see ``make_security_headers_rule``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hsts: str = "max-age=31536000",
        content_type_options: str = "nosniff",
        frame_options: str = "DENY",
        referrer_policy: str = "strict-origin-when-cross-origin",
        permissions_policy: str = "",
        content_security_policy: str = "",
        cross_origin_opener_policy: str = "same-origin",
    ) -> None:
        self.app = app
        self._rule = make_security_headers_rule(
            hsts=hsts,
            content_type_options=content_type_options,
            frame_options=frame_options,
            referrer_policy=referrer_policy,
            permissions_policy=permissions_policy,
            content_security_policy=content_security_policy,
            cross_origin_opener_policy=cross_origin_opener_policy,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        await run_with_rules(self.app, scope, receive, send, self._rule)
