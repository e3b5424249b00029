"""Makes the cookies of a service fit the public host.

app.add_middleware(CookiesMiddleware, domain={"shop.internal": "example.com"}, secure="always")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import ResponseRule, exchange_of
from gateway.http.cookies import CookieRewrite, PublicPath, SameSiteRule, SecureRule
from gateway.http.location import mount_prefix
from gateway.middleware.headers import run_with_rules


def make_cookies_rule(rewrite: CookieRewrite) -> ResponseRule:
    """The rule that rewrites every Set-Cookie of a response.

    It belongs where only the upstream's own cookies pass: those that the gateway sets are public already.
    """

    def rule(scope: Scope, message: Message) -> None:
        fields = message["headers"]
        for index, (name, value) in enumerate(fields):
            if name == b"set-cookie":
                # Inside the gateway nobody behind knows where it is mounted; an application of its own does.
                root_path = scope.get("root_path") if exchange_of(scope) is not None else None
                fields[index] = (name, rewrite.apply(value, prefix=mount_prefix(root_path) if root_path else b""))

    return rule


class CookiesMiddleware:
    """Rewrites domain, path, Secure and SameSite of Set-Cookie; arguments as for ``CookieRewrite``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        domain: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
        secure: SecureRule = "keep",
        same_site: SameSiteRule = "keep",
        upstream_hosts: Iterable[str] = (),
        public_path: PublicPath | None = None,
    ) -> None:
        self.app = app
        self._rule = make_cookies_rule(
            CookieRewrite(
                domain=domain,
                path=path,
                secure=secure,
                same_site=same_site,
                upstream_hosts=upstream_hosts,
                public_path=public_path,
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        await run_with_rules(self.app, scope, receive, send, self._rule)
