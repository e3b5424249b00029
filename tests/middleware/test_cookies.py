"""Set-Cookie made public."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from gateway.middleware.cookies import CookiesMiddleware
from tests.support.messages import answering, call, http_scope

pytestmark = pytest.mark.anyio


async def test_every_cookie_is_rewritten_and_nothing_else() -> None:
    fields = [
        (b"set-cookie", b"a=1; Domain=shop.internal; Path=/"),
        (b"x", b"Domain=shop.internal"),
        (b"set-cookie", b"b=2"),
    ]
    app = CookiesMiddleware(answering(200, fields), domain={"shop.internal": "example.com"}, secure="always")
    sent = await call(app, http_scope())
    assert sent.headers == [
        (b"set-cookie", b"a=1; Domain=example.com; Path=/; Secure"),
        (b"x", b"Domain=shop.internal"),
        (b"set-cookie", b"b=2; Secure"),
    ]


async def test_paths_are_mapped_back() -> None:
    app = CookiesMiddleware(
        answering(200, [(b"set-cookie", b"a=1; Path=/x; Domain=inner")]),
        upstream_hosts=["inner"],
        public_path=lambda path: b"/shop" + path,
    )
    assert (await call(app, http_scope())).values(b"set-cookie") == [b"a=1; Path=/shop/x"]


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(CookiesMiddleware(app), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
