from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from gateway.errors import BadUpstreamResponse, ConnectFailed, GatewayError, UpstreamError, UpstreamTimeout
from gateway.ticker import Ticker
from gateway.upstream import fetch as fetching
from gateway.upstream.fetch import MAX_BYTES, Fetcher
from gateway.upstream.tls import client_context
from tests.support.upstream import (
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    refused_port,
    respond,
    respond_in_turn,
    response,
    silent,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fetch() -> AsyncIterator[Fetcher]:
    ticker = Ticker()
    fetcher = Fetcher(ticker)
    yield fetcher
    await fetcher.aclose()
    ticker.close()


async def test_it_sends_what_it_is_given_and_gives_what_came(fetch: Fetcher) -> None:
    async with ScriptedUpstream(respond(response(404, [(b"X-A", b"1"), (b"X-A", b"2")], b"no"))) as upstream:
        answer = await fetch(upstream.url + "/keys?a=%20b", [(b"accept", b"x"), (b"cookie", b"c=1")])
        assert (answer.status, answer.body) == (404, b"no")
        assert [value for name, value in answer.fields if name == b"x-a"] == [b"1", b"2"]
        head = upstream.requests[0].head
        host = f"127.0.0.1:{upstream.port}".encode()
        assert head.lower() == b"get /keys?a=%20b http/1.1\r\nhost: " + host + b"\r\naccept: x\r\ncookie: c=1\r\n\r\n"


async def test_connections_are_used_again_for_every_url_of_a_server(fetch: Fetcher) -> None:
    async with ScriptedUpstream(respond(response(body=b"a"))) as upstream:
        for path in ("/a", "/b", "/a"):
            await fetch(upstream.url + path, ())
        assert len(upstream.connections) == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_no_failure(fetch: Fetcher) -> None:
    async def once(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"a"))

    async with ScriptedUpstream(once) as upstream:
        for _ in range(3):
            assert (await fetch(upstream.url, ())).body == b"a"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(fetch: Fetcher, status: int) -> None:
    async with ScriptedUpstream(respond(response(status, [(b"Location", b"/other")]))) as upstream:
        assert (await fetch(upstream.url, ())).status == status
        assert len(upstream.requests) == 1


async def test_cookies_are_not_kept(fetch: Fetcher) -> None:
    async with ScriptedUpstream(respond(response(200, [(b"Set-Cookie", b"a=1")]))) as upstream:
        for _ in range(2):
            await fetch(upstream.url, ())
        assert [request.values(b"cookie") for request in upstream.requests] == [[], []]


async def test_proxies_of_the_environment_are_not_used(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with ScriptedUpstream(respond(response(body=b"a"))) as upstream:
        assert (await fetch(upstream.url, ())).body == b"a"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("surplus", [0, 1])
async def test_the_bound_on_the_body_holds_at_the_byte(fetch: Fetcher, framing: str, surplus: int) -> None:
    body = b"x" * (MAX_BYTES + surplus)
    raw = {
        "length": response(body=body),
        "chunked": response(fields=[(b"Transfer-Encoding", b"chunked")], length=False)
        + chunked(*(body[start : start + 65536] for start in range(0, len(body), 65536))),
        "close": response(fields=[(b"Connection", b"close")], length=False) + body,
    }[framing]

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(raw)
        if framing != "close":
            await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        if surplus:
            with pytest.raises(BadUpstreamResponse, match="more than 1048576 bytes"):
                await fetch(upstream.url, ())
        else:
            assert (await fetch(upstream.url, ())).body == body


async def test_a_body_without_end_is_given_up(fetch: Fetcher) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)

    async with ScriptedUpstream(script) as upstream:
        with pytest.raises(BadUpstreamResponse):
            await fetch(upstream.url, ())
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)


async def test_a_small_bound_holds_for_bodies_that_come_with_their_head() -> None:
    fetch = Fetcher(Ticker(), max_bytes=3)
    async with ScriptedUpstream(respond(response(body=b"four"))) as upstream:
        with pytest.raises(BadUpstreamResponse):
            await fetch(upstream.url, ())
        await fetch.aclose()


async def stalls(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    await connection.wait_eof()


@pytest.mark.parametrize("script", [silent, stalls], ids=["no head", "no end of the body"])
async def test_an_answer_that_takes_too_long_is_504_and_its_connection_is_closed(script: object) -> None:
    fetch = Fetcher(Ticker(), timeout_s=0.05)
    async with ScriptedUpstream(script) as upstream:  # type: ignore[arg-type]
        with pytest.raises(UpstreamTimeout, match=r"within 0\.05 s"):
            await fetch(upstream.url, ())
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        await fetch.aclose()


async def test_a_port_that_refuses_is_an_error_of_the_gateways(fetch: Fetcher) -> None:
    with refused_port() as port, pytest.raises(ConnectFailed):
        await fetch(f"http://127.0.0.1:{port}/", ())


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"",
    ],
    ids=["no HTTP", "two lengths", "length and coding", "bad chunk", "cut off", "NUL", "large head", "nothing"],
)
async def test_an_answer_that_is_not_whole_or_not_http_is_an_error(fetch: Fetcher, raw: bytes) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(raw)

    async with ScriptedUpstream(script) as upstream:
        with pytest.raises(UpstreamError):
            await fetch(upstream.url, ())


async def test_a_fetch_that_is_cancelled_closes_its_connection(fetch: Fetcher) -> None:
    sent = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        sent.set()
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        task = asyncio.create_task(fetch(upstream.url, ()))
        connection = await upstream.connection()
        await sent.wait()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(connection.closed.wait(), 5)


async def test_the_certificate_of_the_server_must_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: Fetcher
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedUpstream(respond(response(body=b"safe")), ssl_context=context) as upstream:
        url = f"https://127.0.0.1:{upstream.port}/"
        with pytest.raises(ConnectFailed):
            await fetch(url, ())
        monkeypatch.setattr("gateway.upstream.transports.client_context", lambda: client_context(tmp_path / "ca.pem"))
        trusting = Fetcher(Ticker())
        assert (await trusting(url, ())).body == b"safe"
        await trusting.aclose()


@pytest.mark.parametrize("url", ["ftp://example.com/", "file:///etc/passwd", "unix:/run/x.sock", "//host/"])
async def test_other_schemes_are_an_error(fetch: Fetcher, url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        await fetch(url, ())


@pytest.mark.parametrize("field", [(b"x", b"a\r\nb: c"), (b"x", b"\0")])
async def test_fields_that_would_change_the_request_are_not_sent(fetch: Fetcher, field: tuple[bytes, bytes]) -> None:
    async with ScriptedUpstream(respond_in_turn(response())) as upstream:
        with pytest.raises(GatewayError):
            await fetch(upstream.url, [field])
        assert upstream.requests == []


def test_the_bounds_are_those_of_the_contract() -> None:
    assert (fetching.MAX_BYTES, fetching.TIMEOUT_S) == (1024 * 1024, 5.0)
