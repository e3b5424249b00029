"""Answers that need no upstream."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.exchange import SCOPE_KEY, WHOLE_FOLLOWS, Exchange
from gateway.proxy.fixed import RedirectHandler, RespondHandler
from tests.support.messages import call, http_scope

pytestmark = pytest.mark.anyio


def redirected(target: bytes = b"/", **params: bytes) -> dict[str, Any]:
    exchange = Exchange("GET", target)
    exchange.public_host, exchange.scheme, exchange.params = b"Public.example:8443", "https", params
    return {**http_scope("GET", target), SCOPE_KEY: exchange}


async def test_a_fixed_answer_has_its_status_fields_and_length() -> None:
    sent = await call(RespondHandler(status=404, body="é", headers={"X-A": "1"}), http_scope())
    assert sent.status == 404
    assert sent.headers == [
        (b"x-a", b"1"),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"2"),
    ]
    assert sent.body == "é".encode() and sent.complete
    assert sent.start[WHOLE_FOLLOWS]


async def test_a_content_type_of_its_own_is_kept() -> None:
    sent = await call(RespondHandler(body="{}", headers={"Content-Type": "application/json"}), http_scope())
    assert sent.values(b"content-type") == [b"application/json"]


async def test_head_gets_the_length_without_the_body() -> None:
    sent = await call(RespondHandler(body="hello"), http_scope("HEAD"))
    assert sent.values(b"content-length") == [b"5"] and sent.body == b""


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_status_without_a_body_has_none(status: int) -> None:
    sent = await call(RespondHandler(status=status, body="ignored"), http_scope())
    assert sent.headers == [] and sent.body == b""


@pytest.mark.parametrize(
    ("to", "target", "params", "location"),
    [
        ("/new", b"/old", {}, b"/new"),
        ("/new", b"/old?a=1&b=%20", {}, b"/new?a=1&b=%20"),
        ("/new?fixed=1", b"/old?a=1", {}, b"/new?fixed=1"),
        ("https://{host}/n/{rest}", b"/o/a%2Fb", {"rest": b"a%2Fb"}, b"https://Public.example:8443/n/a%2Fb"),
        ("/{rest}", b"//host/x", {"rest": b"/host/x"}, b"/host/x"),
        ("{scheme}://other.example/{id}", b"/7", {"id": b"7"}, b"https://other.example/7"),
    ],
)
async def test_a_redirect(to: str, target: bytes, params: dict[str, bytes], location: bytes) -> None:
    sent = await call(RedirectHandler(to=to, status=301), redirected(target, **params))
    assert sent.status == 301
    assert sent.headers == [(b"location", location), (b"content-length", b"0")]
    assert sent.complete


async def test_a_redirect_without_an_exchange() -> None:
    sent = await call(RedirectHandler(to="/x"), http_scope("GET", b"/?q"))
    assert (sent.status, sent.values(b"location")) == (308, [b"/x?q"])


@pytest.mark.parametrize(
    ("handler", "status", "body"), [(RespondHandler(body="ok"), 200, b"ok"), (RedirectHandler(to="/x"), 308, b"")]
)
async def test_a_handshake_of_a_websocket_gets_the_same_answer(handler: Any, status: int, body: bytes) -> None:
    scope = {**http_scope(), "type": "websocket", "extensions": {"websocket.http.response": {}}}
    del scope["method"]
    start, end = (await call(handler, scope)).messages
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert end == {"type": "websocket.http.response.body", "body": body}
    closed = await call(handler, {**scope, "extensions": {}})
    assert closed.messages == [{"type": "websocket.close"}]
