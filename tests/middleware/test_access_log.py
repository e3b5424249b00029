"""Lines of the access log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from gateway.errors import ConnectFailed, GatewayError, InternalError, NoEndpoint
from gateway.exchange import SCOPE_KEY, Attempt, Exchange
from gateway.middleware.access_log import AccessLog, AccessLogMiddleware, error_name, escaped, json_line, text_line
from gateway.ticker import Ticker
from tests.support.messages import Sent, answering, body_of, call, http_scope


def made(**attributes: Any) -> Exchange:
    exchange = Exchange("GET", b"/items?id=1", lambda: 5.0)
    exchange.wall_time = 1_700_000_000.25
    exchange.finished = 5.0125
    exchange.client, exchange.scheme, exchange.public_host = "192.0.2.1", "https", b"shop.example.com"
    exchange.status, exchange.body_bytes_in, exchange.body_bytes_out = 200, 3, 1234
    exchange.route, exchange.upstream, exchange.request_id = "shop", "api", "abc-1"
    for name, value in attributes.items():
        setattr(exchange, name, value)
    return exchange


def attempt(endpoint: str = "127.0.0.1:9001", *, status: int | None = 200, head_s: float | None = 0.0105) -> Attempt:
    one = Attempt(endpoint, 0.0)
    one.outcome, one.status, one.head_s = "ok", status, head_s
    return one


def failed(endpoint: str = "127.0.0.1:9002", outcome: str = "ConnectFailed") -> Attempt:
    one = Attempt(endpoint, 0.0)
    one.outcome, one.failed_s = outcome, 0.00025
    return one


def test_a_text_line_tells_everything() -> None:
    exchange = made(attempts=[attempt()], cache="miss", user="alice")
    assert text_line(exchange) == (
        '2023-11-14T22:13:20.250Z 192.0.2.1 "GET https://shop.example.com/items?id=1" 200 12.5ms in=3 out=1234 '
        "route=shop upstream=api endpoint=127.0.0.1:9001 attempts=1 upstream_ms=10.5 cache=miss id=abc-1 "
        "user=alice done"
    )


def test_every_attempt_is_told_when_one_failed_and_why_endpoints_were_out() -> None:
    exchange = made(
        attempts=[failed(), attempt("127.0.0.1:9003", status=503), attempt()],
        decision="3 of 4 available: 127.0.0.1:9004 ejected",
    )

    assert text_line(exchange).endswith(
        'done tries="127.0.0.1:9002 connect-failed 0.2ms, 127.0.0.1:9003 503 10.5ms, 127.0.0.1:9001 200 10.5ms" '
        'decision="3 of 4 available: 127.0.0.1:9004 ejected"'
    )
    members = json.loads(json_line(exchange))
    assert members["tries"] == [
        {"endpoint": "127.0.0.1:9002", "outcome": "connect-failed", "ms": 0.25},
        {"endpoint": "127.0.0.1:9003", "outcome": "503", "ms": 10.5},
        {"endpoint": "127.0.0.1:9001", "outcome": "200", "ms": 10.5},
    ]
    assert members["decision"] == "3 of 4 available: 127.0.0.1:9004 ejected"


def test_the_only_attempt_is_told_when_it_failed() -> None:
    assert text_line(made(attempts=[failed()])).endswith('done tries="127.0.0.1:9002 connect-failed 0.2ms"')
    assert json.loads(json_line(made(attempts=[failed()])))["tries"][0]["outcome"] == "connect-failed"


def test_an_attempt_that_was_given_up_with_its_exchange_has_ended() -> None:
    given_up = Attempt("127.0.0.1:9001", 0.0)
    assert '127.0.0.1:9001 ended 0.0ms"' in text_line(made(attempts=[failed(), given_up]))


def test_what_is_absent_is_a_dash() -> None:
    exchange = made(client="", route="", upstream="", request_id="", attempts=[])
    assert text_line(exchange).endswith(
        "route=- upstream=- endpoint=- attempts=0 upstream_ms=- cache=- id=- user=- done"
    )


def test_a_json_line_tells_everything() -> None:
    exchange = made(attempts=[attempt()], cache="hit", user="alice")
    assert json.loads(json_line(exchange)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "client": "192.0.2.1",
        "method": "GET",
        "scheme": "https",
        "host": "shop.example.com",
        "target": "/items?id=1",
        "status": 200,
        "bytes_in": 3,
        "bytes_out": 1234,
        "duration_ms": 12.5,
        "route": "shop",
        "upstream": "api",
        "endpoint": "127.0.0.1:9001",
        "attempts": 1,
        "upstream_ms": 10.5,
        "cache": "hit",
        "request_id": "abc-1",
        "user": "alice",
        "outcome": "done",
    }
    assert json.loads(json_line(made(attempts=[attempt(head_s=None)])))["upstream_ms"] is None


@pytest.mark.parametrize(
    ("error", "name", "reason"),
    [
        (ConnectFailed('refused "here"\n'), "connect-failed", 'refused "here"\n'),
        (NoEndpoint(), "no-endpoint", ""),
        (InternalError("KeyError: 'password=hunter2'"), "internal-error", ""),
    ],
)
def test_how_it_ended_is_told_but_not_what_a_defect_held(error: GatewayError, name: str, reason: str) -> None:
    exchange = made(error=error, outcome="failed")
    members = json.loads(json_line(exchange))
    assert (members["outcome"], members["error"], members.get("reason", "")) == ("failed", name, reason)
    line = text_line(exchange)
    assert f" failed error={name}" in line
    assert "hunter2" not in line
    assert "\n" not in line
    if reason:
        assert line.endswith('reason="refused \\x22here\\x22\\x0a"')


def test_words_are_escaped() -> None:
    assert escaped('a b"c\\d\n\x1b[31m\x7fé\u2028\U0001f600') == (
        "a\\x20b\\x22c\\x5cd\\x0a\\x1b[31m\\x7f\\xe9\\u2028\\U0001f600"
    )
    assert error_name("BadUpstreamResponse") == "bad-upstream-response"
    assert "route=my\\x20route " in text_line(made(route="my route"))


_text = st.text(max_size=20)


@given(_text, st.binary(max_size=30), st.binary(max_size=20), _text, _text, _text)
def test_no_client_forges_a_line(
    method: str, target: bytes, host: bytes, user: str, client: str, request_id: str
) -> None:
    exchange = made(
        method=method, target=target, public_host=host, user=user, client=client, request_id=request_id, attempts=[]
    )
    line = text_line(exchange)
    assert line.isascii() and line.isprintable()
    assert line.count('"') == 2
    assert line.count(" route=") == line.count(" user=") == 1
    written = json_line(exchange)
    assert written.isascii() and written.isprintable()
    members = json.loads(written)
    assert (members["method"], members["user"], members["target"]) == (method, user, target.decode("latin-1"))


def test_lines_are_written_in_batches() -> None:
    stream = io.StringIO()
    log = AccessLog("text", stream)
    for _ in range(63):
        log.record(made())
    assert stream.getvalue() == ""
    log.record(made())
    assert stream.getvalue().count("\n") == 64
    log.record(made())
    log.close()
    assert stream.getvalue().count("\n") == 65
    log.close()
    assert not stream.closed


@pytest.mark.anyio
async def test_a_tick_writes_what_waits() -> None:
    stream = io.StringIO()
    ticker = Ticker(interval_s=3600.0, clock=lambda: 100.0)
    log = AccessLog("json", stream)
    log.start(ticker)
    log.start(ticker)
    ticker.tick()
    log.record(made())
    assert stream.getvalue() == ""
    ticker.tick()
    assert stream.getvalue() == json_line(made()) + "\n"
    log.close()
    log.record(made())
    ticker.tick()
    assert stream.getvalue().count("\n") == 1
    log.flush()


def test_a_stream_that_is_gone_costs_lines_and_no_request(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    log = AccessLog("text", stream, batch=2)
    stream.close()
    with caplog.at_level(logging.WARNING, "gateway"):
        for _ in range(5):
            log.record(made())
        log.close()
    assert log.lost == 5
    assert len(caplog.records) == 1


def test_a_process_that_dies_says_what_it_did_last() -> None:
    program = (
        "from gateway.middleware.access_log import AccessLog\n"
        "from gateway.exchange import Exchange\n"
        "AccessLog('text').record(Exchange('GET', b'/last'))\n"
        "raise RuntimeError('dead')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/last" in done.stdout


class TestMiddleware:
    pytestmark = pytest.mark.anyio

    async def logged(self, app: Any, scope: Scope, *pieces: bytes) -> dict[str, Any]:
        stream = io.StringIO()
        await call(AccessLogMiddleware(app, form="json", stream=stream, clock=lambda: 1.0), scope, *pieces)
        line: dict[str, Any] = json.loads(stream.getvalue())
        return line

    async def test_a_request_outside_the_gateway_is_logged(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await answering(201, pieces=[b"ab", b"c"])(scope, receive, send)

        line = await self.logged(app, http_scope("POST", b"/a%20b?c=d", scheme="https"), b"hello")
        assert line["target"] == "/a%20b?c=d"
        assert (line["client"], line["host"], line["scheme"]) == ("192.0.2.1", "example.com", "https")
        assert (line["status"], line["bytes_in"], line["bytes_out"], line["outcome"]) == (201, 5, 3, "done")

    async def test_inside_it_the_exchange_is_logged(self) -> None:
        line = await self.logged(answering(204), {**http_scope(), SCOPE_KEY: made()})
        assert (line["route"], line["status"]) == ("shop", 204)

    @pytest.mark.parametrize(("begun", "status", "outcome"), [(False, 500, "failed"), (True, 200, "aborted")])
    async def test_a_failure_is_logged_and_passed_on(self, begun: bool, status: int, outcome: str) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if begun:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ConnectFailed("refused")

        stream = io.StringIO()
        with pytest.raises(ConnectFailed):
            await call(AccessLogMiddleware(app, form="json", stream=stream), http_scope())
        line = json.loads(stream.getvalue())
        assert (line["status"], line["outcome"], line["error"]) == (status, outcome, "connect-failed")

    async def test_a_cancelled_request_is_logged(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise asyncio.CancelledError

        stream = io.StringIO()
        with pytest.raises(asyncio.CancelledError):
            await AccessLogMiddleware(app, form="json", stream=stream)(http_scope(), body_of(), Sent())
        assert json.loads(stream.getvalue())["outcome"] == "aborted"

    async def test_a_client_that_leaves_is_logged(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()

        async def left() -> dict[str, str]:
            return {"type": "http.disconnect"}

        stream = io.StringIO()
        await AccessLogMiddleware(app, form="json", stream=stream)(http_scope(), left, Sent())
        assert json.loads(stream.getvalue())["outcome"] == "client-left"

    @pytest.mark.parametrize(
        ("messages", "status"),
        [
            ([{"type": "websocket.accept"}, {"type": "websocket.close"}], 101),
            ([{"type": "websocket.close"}], 403),
            ([{"type": "websocket.http.response.start", "status": 401, "headers": []}], 401),
        ],
    )
    async def test_websockets_have_a_status_too(self, messages: list[dict[str, Any]], status: int) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message)

        line = await self.logged(app, {**http_scope(scheme="wss"), "type": "websocket"})
        assert (line["status"], line["scheme"]) == (status, "https")

    async def test_other_scopes_pass(self) -> None:
        seen: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        await call(AccessLogMiddleware(app), {"type": "lifespan"})
        assert seen == [{"type": "lifespan"}]
