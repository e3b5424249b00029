"""The outermost layer: one record per request, an answer for every failure, rules on every head."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import BadRequest, ClientLeft, GatewayError, NoEndpoint, ResponseBroken, RouteNotFound
from gateway.exchange import Exchange, exchange_of
from gateway.middleware.exchange import ExchangeMiddleware
from tests.support.messages import Sent, answering, body_of, call, http_scope

pytestmark = pytest.mark.anyio


def failing(error: BaseException, *, after_head: bool = False) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_head:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    return app


def give_id(scope: Scope, exchange: Exchange) -> None:
    exchange.request_id = "r-1"


async def test_the_exchange_is_recorded_once_when_the_answer_has_ended() -> None:
    recorded: list[Exchange] = []
    ticks = iter([1.0, 3.5])
    app = ExchangeMiddleware(
        answering(201, [], [b"ab", b"c"]), recorders=[recorded.append], clock=lambda: next(ticks), wall_clock=lambda: 0
    )
    await call(app, http_scope("PUT", b"/a%2Fb?x=1"))
    (exchange,) = recorded
    assert (exchange.method, exchange.target) == ("PUT", b"/a%2Fb?x=1")
    assert (exchange.status, exchange.body_bytes_out, exchange.outcome) == (201, 3, "done")
    assert exchange.finished - exchange.started == 2.5


async def test_the_scope_carries_the_exchange_and_the_servers_scope_stays_as_it_was() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(exchange_of(scope))
        await answering(200)(scope, receive, send)

    scope = http_scope()
    await call(ExchangeMiddleware(app), scope)
    assert isinstance(seen[0], Exchange)
    assert exchange_of(scope) is None


async def test_a_missing_date_is_added_and_a_present_one_stays() -> None:
    sent = await call(ExchangeMiddleware(answering(200), wall_clock=lambda: 784111777), http_scope())
    assert sent.values(b"date") == [b"Sun, 06 Nov 1994 08:49:37 GMT"]
    sent = await call(ExchangeMiddleware(answering(200, [(b"date", b"upstream's")])), http_scope())
    assert sent.values(b"date") == [b"upstream's"]


async def test_the_request_id_is_on_every_answer_and_replaces_the_upstreams() -> None:
    app = ExchangeMiddleware(
        answering(200, [(b"x-request-id", b"of another")]), gates=[give_id], request_id_header="X-Request-ID"
    )
    assert (await call(app, http_scope())).values(b"x-request-id") == [b"r-1"]
    app = ExchangeMiddleware(failing(RouteNotFound()), gates=[give_id], request_id_header="X-Request-ID")
    assert (await call(app, http_scope())).values(b"x-request-id") == [b"r-1"]


async def test_rules_and_fields_of_the_exchange_are_on_the_head_and_the_message_below_is_untouched() -> None:
    below: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        assert exchange is not None
        exchange.response_fields.append((b"set-cookie", b"s=1"))
        exchange.response_rules = (lambda scope, message: message["headers"].append((b"ruled", b"yes")),)
        await send(below)
        await send({"type": "http.response.body", "body": b""})

    sent = await call(ExchangeMiddleware(app, wall_clock=lambda: 0), http_scope())
    assert [name for name, _ in sent.headers] == [b"a", b"set-cookie", b"ruled", b"date"]
    assert below["headers"] == [(b"a", b"1")]


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (RouteNotFound(), 404, "refused"),
        (NoEndpoint("all are out"), 503, "refused"),
        (ResponseBroken("gone"), 502, "failed"),
        (RuntimeError("a defect"), 500, "failed"),
    ],
    ids=lambda value: str(value),
)
async def test_what_fails_before_the_head_is_answered_with_a_problem(
    error: Exception, status: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorded: list[Exchange] = []
    sent = await call(ExchangeMiddleware(failing(error), gates=[give_id], recorders=[recorded.append]), http_scope())
    assert sent.status == status
    problem = json.loads(sent.body)
    assert problem["status"] == status
    assert problem["request_id"] == "r-1"
    assert "defect" not in sent.body.decode()
    assert recorded[0].outcome == outcome
    assert recorded[0].status == status
    assert ("Traceback" in caplog.text) == isinstance(error, RuntimeError)


async def test_a_head_request_gets_the_problem_without_its_body() -> None:
    sent = await call(ExchangeMiddleware(failing(RouteNotFound())), http_scope("HEAD"))
    assert sent.status == 404
    assert sent.body == b""


async def test_a_gate_ends_the_request_before_the_application() -> None:
    def gate(scope: Scope, exchange: Exchange) -> None:
        raise BadRequest("no")

    sent = await call(ExchangeMiddleware(failing(AssertionError("reached")), gates=[gate]), http_scope())
    assert sent.status == 400
    assert sent.values(b"connection") == [b"close"]


async def test_a_failure_after_the_head_cuts_the_connection() -> None:
    cut: list[bool] = []
    recorded: list[Exchange] = []
    app = ExchangeMiddleware(failing(ResponseBroken("gone"), after_head=True), recorders=[recorded.append])
    sent = await call(app, http_scope(extensions={"gateway.abort": lambda: cut.append(True)}))
    assert cut == [True]
    assert not sent.complete
    assert recorded[0].outcome == "aborted"


async def test_without_a_way_of_cutting_the_failure_goes_to_the_server() -> None:
    app = ExchangeMiddleware(failing(ResponseBroken("gone"), after_head=True))
    with pytest.raises(GatewayError):
        await call(app, http_scope())


async def test_a_client_that_left_gets_nothing_and_is_recorded_as_499() -> None:
    recorded: list[Exchange] = []
    sent = await call(ExchangeMiddleware(failing(ClientLeft("bye")), recorders=[recorded.append]), http_scope())
    assert sent.messages == []
    assert (recorded[0].status, recorded[0].outcome) == (499, "client-left")


def websocket_scope(**extra: Any) -> dict[str, Any]:
    return {**http_scope(**extra), "type": "websocket", "scheme": "ws", "subprotocols": []}


async def test_a_websocket_is_refused_with_the_problem_where_the_server_can() -> None:
    scope = websocket_scope(extensions={"websocket.http.response": {}})
    sent = Sent()
    await ExchangeMiddleware(failing(RouteNotFound()))(scope, body_of(), sent)
    assert [message["type"] for message in sent.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert sent.messages[0]["status"] == 404


async def test_a_websocket_is_closed_where_the_server_cannot_answer() -> None:
    sent = Sent()
    recorded: list[Exchange] = []
    await ExchangeMiddleware(failing(RouteNotFound()), recorders=[recorded.append])(websocket_scope(), body_of(), sent)
    assert [message["type"] for message in sent.messages] == ["websocket.close"]
    assert recorded[0].status == 404


async def test_other_scope_types_pass_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    await ExchangeMiddleware(app)(scope, body_of(), Sent())
    assert seen == [scope]
