"""What was begun on the short way is one client's, and is taken over once at most."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.exchange import BEGUN_KEY, SCOPE_KEY, Exchange
from gateway.express.exchange import ExpressExchange
from gateway.middleware.cache_request import CacheRequest
from tests.express.support import warm
from tests.support.gateway import proxying, request, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, response

pytestmark = pytest.mark.anyio


def test_who_fetches_without_a_client_has_nothing_of_what_was_begun_for_one() -> None:
    asked = CacheRequest.__new__(CacheRequest)
    for name in CacheRequest.__slots__:
        setattr(asked, name, None)
    asked.exchange = Exchange("GET", b"/")
    asked.scope = {"type": "http", "extensions": {}, SCOPE_KEY: asked.exchange, BEGUN_KEY: object()}
    assert BEGUN_KEY not in asked.without_client().scope
    assert BEGUN_KEY in asked.scope


async def test_nobody_comes_to_what_was_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[ExpressExchange] = []
    let_go = ExpressExchange.let_go

    def noted(self: ExpressExchange) -> None:
        begun.append(self)
        let_go(self)

    async def broken(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(200, [], b"first"))
        await connection.read_request()
        # Neither plain nor complete: it goes on through the layers.
        await connection.send(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.setattr(ExpressExchange, "let_go", noted)

    async def failing(*_: Any) -> None:
        raise RuntimeError("a layer fails before the handler is asked")

    async with ScriptedUpstream(broken) as upstream, warm(proxying(upstream.url, retry=False)) as (served, _, client):
        for route in served.gateway.generation.routes.values():
            monkeypatch.setattr(route, "unguarded", failing)
        client.write(request())
        assert (await client.answer()).status == 500
        await until(lambda: served.upstream.in_flight == 0)
        assert begun and all(one.is_taken for one in begun)
