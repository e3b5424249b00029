"""Header rules as a middleware."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.header_rules import HeaderRules
from gateway.middleware.headers import HeadersMiddleware, make_headers_rule, make_request_rule, request_names
from tests.support.messages import answering, body_of, call, http_scope

pytestmark = pytest.mark.anyio


def exchange() -> Exchange:
    made = Exchange("GET", b"/items/7")
    made.client, made.scheme, made.request_id, made.route = "192.0.2.1", "https", "abc", "shop"
    made.public_host = b"example.com"
    made.params = {"id": b"7%20", "client_ip": b"forged"}
    return made


async def test_request_rules_see_the_exchange() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    template = "{client_ip} {host} {scheme} {request_id} {route} {id}"
    middleware = HeadersMiddleware(app, request=HeaderRules(set={"X-All": template}, remove=["Accept"]))
    scope = {**http_scope(headers=[(b"accept", b"*/*"), (b"x-all", b"old")]), SCOPE_KEY: exchange()}
    await call(middleware, scope)
    assert seen == [(b"x-all", b"192.0.2.1 example.com https abc shop 7%20")]
    assert scope["headers"] == [(b"accept", b"*/*"), (b"x-all", b"old")]


async def test_alone_the_names_come_from_the_scope() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    middleware = HeadersMiddleware(app, request=HeaderRules(add={"X": "{client_ip} {host} {scheme} {request_id} {id}"}))
    await call(middleware, http_scope(state={"request_id": "abc"}, path_params={"id": 7}))
    assert seen[-1] == (b"x", b"192.0.2.1 example.com http abc 7")


async def test_responses_are_changed_on_a_copy() -> None:
    headers = [(b"server", b"x"), (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x-old", b"1")]
    shared = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(shared)
        await send({"type": "http.response.body", "body": b"ok"})

    middleware = HeadersMiddleware(
        app, response=HeaderRules(set={"X-New": "{client_ip}"}, remove=["x-old"]), hide=["Server"]
    )
    sent = await call(middleware, http_scope())
    assert sent.headers == [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x-new", b"{client_ip}")]
    assert sent.body == b"ok"
    assert len(headers) == 4


async def test_a_head_without_headers_is_taken() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    sent = await call(HeadersMiddleware(app, response=HeaderRules(add={"X": "1"})), http_scope())
    assert sent.headers == [(b"x", b"1")]


async def test_other_scopes_pass_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}

    async def send(message: object) -> None:
        raise AssertionError

    await HeadersMiddleware(app, hide=["server"])(scope, body_of(), send)
    assert seen[0] is scope


async def test_the_refusal_of_a_websocket_is_a_response_too() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"server", b"x")]})

    sent = await call(HeadersMiddleware(app, hide=["Server"]), {**http_scope(), "type": "websocket"})
    assert sent.messages[0]["headers"] == []


def test_the_rule_for_the_way_out_takes_an_exchange() -> None:
    fields = [(b"a", b"1")]
    assert make_request_rule(HeaderRules(set={"X": "{id}"}))(fields, exchange()) == [*fields, (b"x", b"7%20")]
    assert make_request_rule(HeaderRules(remove=["a"]))(fields, exchange()) == []
    assert fields == [(b"a", b"1")]


def test_a_name_of_the_path_never_hides_one_of_the_gateways() -> None:
    assert request_names(exchange())["client_ip"] == b"192.0.2.1"


def test_hiding_alone_is_a_rule() -> None:
    message = {"type": "http.response.start", "status": 200, "headers": [(b"server", b"x"), (b"a", b"1")]}
    make_headers_rule(hide=["SERVER"])(http_scope(), message)
    assert message["headers"] == [(b"a", b"1")]


async def test_rules_do_not_touch_an_answer_of_their_neighbours() -> None:
    sent = await call(HeadersMiddleware(answering(204, [(b"x", b"1")])), http_scope())
    assert sent.headers == [(b"x", b"1")]
