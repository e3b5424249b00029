"""References of responses made public."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.location import upstream_authorities
from gateway.middleware.location import LocationMiddleware, make_location_rule
from tests.support.messages import answering, call, http_scope

pytestmark = pytest.mark.anyio

FIELDS = [
    (b"location", b"http://127.0.0.1:9001/v1/a"),
    (b"link", b"<http://127.0.0.1:9001/v1/a>"),
    (b"content-location", b"/v1/b"),
    (b"refresh", b"1; url=//127.0.0.1:9001/v1/c"),
]


def public_path(path: bytes) -> bytes | None:
    return b"/shop" + path[3:] if path.startswith(b"/v1/") else None


async def test_the_three_fields_are_rewritten_by_the_exchange() -> None:
    exchange = Exchange("GET", b"/")
    exchange.scheme, exchange.public_host = "https", b"example.com"
    app = LocationMiddleware(answering(302, FIELDS), upstreams=["http://127.0.0.1:9001"], public_path=public_path)
    sent = await call(app, {**http_scope(headers=[(b"host", b"inner")]), SCOPE_KEY: exchange})
    assert sent.headers == [
        (b"location", b"https://example.com/shop/a"),
        FIELDS[1],
        (b"content-location", b"/shop/b"),
        (b"refresh", b"1; url=//example.com/shop/c"),
    ]


@pytest.mark.parametrize(("scheme", "public"), [("http", b"http"), ("https", b"https"), ("wss", b"https")])
async def test_alone_the_scope_says_what_is_public(scheme: str, public: bytes) -> None:
    app = LocationMiddleware(answering(302, FIELDS[:1]), upstreams=["http://127.0.0.1:9001"])
    sent = await call(app, http_scope(scheme=scheme))
    assert sent.values(b"location") == [public + b"://example.com/v1/a"]


def test_the_names_of_an_upstream_may_change_while_it_serves() -> None:
    names = set(upstream_authorities(["http://10.0.0.1:9001"]))
    rule = make_location_rule(names)
    message = {"type": "http.response.start", "status": 302, "headers": [(b"location", b"http://10.0.0.2:9001/x")]}
    rule(http_scope(), message)
    assert message["headers"] == [(b"location", b"http://10.0.0.2:9001/x")]
    names.add(b"10.0.0.2:9001")
    rule(http_scope(), message)
    assert message["headers"] == [(b"location", b"http://example.com/x")]


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(LocationMiddleware(app, upstreams=[]), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
