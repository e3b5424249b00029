"""Makes Location, Content-Location and Refresh public again where they name the service behind.

app.add_middleware(LocationMiddleware, upstreams=["http://127.0.0.1:9001"])
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import ResponseRule, exchange_of
from gateway.http.fields import get_first
from gateway.http.forwarded import public_scheme
from gateway.http.location import PublicPath, PublicReferences, mount_prefix, upstream_authorities
from gateway.middleware.headers import run_with_rules

_REFERENCES = frozenset([b"location", b"content-location", b"refresh"])


def make_location_rule(upstream: Container[bytes], public_path: PublicPath | None = None) -> ResponseRule:
    """The rule for responses of one upstream; arguments as for ``PublicReferences``.

    It belongs where only that upstream's own answers pass: in a redirect that something before it made, the path is
    public already.
    """
    references = PublicReferences(upstream, public_path)

    def rule(scope: Scope, message: Message) -> None:
        fields = message["headers"]
        for index, (name, value) in enumerate(fields):
            if name in _REFERENCES:
                scheme, host, prefix = _public_place(scope)
                rewrite = references.refresh if name == b"refresh" else references.reference
                fields[index] = (name, rewrite(value, scheme=scheme, host=host, prefix=prefix))

    return rule


def _public_place(scope: Scope) -> tuple[bytes, bytes, bytes]:
    """Scheme and host that the client used, and the path that nobody behind knows of: where the gateway is mounted."""
    exchange = exchange_of(scope)
    if exchange is not None:
        root_path = scope.get("root_path")
        prefix = mount_prefix(root_path) if root_path else b""
        return exchange.scheme.encode("ascii"), exchange.public_host, prefix
    # An application knows by itself where it is mounted.
    scheme = public_scheme(scope.get("scheme", "http"))
    return scheme.encode("ascii"), get_first(scope["headers"], b"host") or b"", b""


class LocationMiddleware:
    """Rewrites references to ``upstreams``, URLs of the services behind; ``public_path`` maps their paths back."""

    def __init__(self, app: ASGIApp, *, upstreams: Iterable[str], public_path: PublicPath | None = None) -> None:
        self.app = app
        self._rule = make_location_rule(upstream_authorities(upstreams), public_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        await run_with_rules(self.app, scope, receive, send, self._rule)
