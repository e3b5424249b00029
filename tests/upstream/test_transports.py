from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from gateway.errors import (
    BadRequest,
    BadUpstreamResponse,
    ClientLeft,
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    GatewayError,
    QueueFull,
    ResponseBroken,
    UpstreamTimeout,
)
from gateway.upstream.messages import InboundResponse
from gateway.upstream.tls import client_context
from gateway.upstream.transports import ForeignTransport, transport_for
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, refused_port, respond, response, silent
from tests.upstream.http1_client import ManualTicker, Pieces, outbound, read

pytestmark = pytest.mark.anyio

HELLO = response(200, [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")], b"hello")


# The factory.


async def test_http_https_and_unix_endpoints_are_reached(tmp_path: Path) -> None:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    pem = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(pem))
    ticker = ManualTicker()
    async with (
        ScriptedUpstream(respond(HELLO)) as plain,
        ScriptedUpstream(respond(HELLO), ssl_context=server) as secure,
        ScriptedUpstream(respond(HELLO), uds=tmp_path / "u.sock") as local,
    ):
        transports = [
            transport_for("http", ticker=ticker, host=plain.host, port=plain.port, ssl_context=client_context()),
            transport_for("https", ticker=ticker, host=secure.host, port=secure.port, ssl_context=client_context(pem)),
            transport_for("unix", ticker=ticker, uds=str(local.uds), host="localhost", port=80),
        ]
        for transport in transports:
            assert (await transport.handle_async_request(outbound())).whole == b"hello"
            await transport.aclose()


async def test_https_is_verified_unless_told_otherwise() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)
    async with ScriptedUpstream(respond(HELLO), ssl_context=server) as upstream:
        transport = transport_for("https", ticker=ManualTicker(), host=upstream.host, port=upstream.port)
        with pytest.raises(ConnectFailed):
            await transport.handle_async_request(outbound())
        context = client_context(verify=False)
        transport = transport_for(
            "https", ticker=ManualTicker(), host=upstream.host, port=upstream.port, ssl_context=context
        )
        assert (await transport.handle_async_request(outbound())).whole == b"hello"
        await transport.aclose()


def test_other_schemes_have_no_transport_here() -> None:
    with pytest.raises(ValueError, match="asgi"):
        transport_for("asgi", ticker=ManualTicker())


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    own = ca.issue_cert("gateway.internal")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    ca.cert_pem.write_to_path(str(files["ca"]))
    own.cert_chain_pems[0].write_to_path(str(files["cert"]))
    own.private_key_pem.write_to_path(str(files["key"]))
    async with ScriptedUpstream(respond(HELLO), ssl_context=server) as upstream:
        context = client_context(files["ca"], files["cert"], files["key"])
        transport = transport_for(
            "https", ticker=ManualTicker(), host=upstream.host, port=upstream.port, ssl_context=context
        )
        assert (await transport.handle_async_request(outbound())).whole == b"hello"
        await transport.aclose()


# TLS contexts.


def test_a_context_asks_for_http_1_1_and_checks_names() -> None:
    context = client_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    unverified = client_context(verify=False)
    assert not unverified.check_hostname
    assert unverified.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("which", "content"),
    [
        ("ca", None),
        ("ca", "nonsense"),
        ("ca", ""),
        ("cert", None),
        ("cert", "nonsense"),
        ("key", None),
        ("key", "nonsense"),
        ("key", "other"),
        ("key", "encrypted"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(which: str, content: str | None, tmp_path: Path) -> None:
    ca = trustme.CA()
    own = ca.issue_cert("gateway.internal")
    files = {name: tmp_path / f"the-{name}.pem" for name in ("ca", "cert", "key")}
    ca.cert_pem.write_to_path(str(files["ca"]))
    own.cert_chain_pems[0].write_to_path(str(files["cert"]))
    own.private_key_pem.write_to_path(str(files["key"]))
    files[which].unlink()
    if content == "other":
        ca.issue_cert("other.internal").private_key_pem.write_to_path(str(files[which]))
    elif content == "encrypted":
        files[which].write_bytes(_encrypted(own.private_key_pem.bytes()))
    elif content is not None:
        files[which].write_text(content)
    with pytest.raises(ValueError, match=f"the-{which}.pem"):
        client_context(files["ca"], files["cert"], files["key"])


def _encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_a_key_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a certificate"):
        client_context(key=tmp_path / "key.pem")


# Other transports.


class Stream(httpx.AsyncByteStream):
    """A response body that notes when it is closed."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed.set()


def answering(*pieces: bytes | Exception, status: int = 200, headers: Any = ()) -> tuple[ForeignTransport, Stream]:
    """A transport whose inner one gives one answer, and the answer's stream."""
    stream = Stream(*pieces)
    answer = httpx.Response(status, headers=list(headers), stream=stream)
    return ForeignTransport(httpx.MockTransport(lambda request: answer)), stream


async def test_an_answer_has_the_shape_of_our_own() -> None:
    transport, stream = answering(b"a", b"", b"b", headers=[(b"X-A", b"1"), (b"X-a", b"2")])
    answer = await transport.handle_async_request(outbound())
    assert isinstance(answer, InboundResponse)
    assert (answer.status_code, answer.whole, answer.request_complete) == (200, None, True)
    assert answer.raw_fields == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert [piece async for piece in answer.stream] == [b"a", b"b"]
    assert stream.closed.is_set()


@pytest.mark.parametrize("method", ["close", "aclose"])
async def test_an_unread_body_is_closed(method: str) -> None:
    transport, stream = answering(b"a", b"b")
    answer = await transport.handle_async_request(outbound())
    assert await anext(answer.stream) == b"a"
    if method == "close":
        answer.stream.close()
        answer.stream.close()
    else:
        await answer.stream.aclose()
    with pytest.raises(ResponseBroken):
        await anext(answer.stream)
    await stream.closed.wait()
    await transport.aclose()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectError("x"), ConnectFailed),
        (httpx.ConnectTimeout("x"), ConnectTimeout),
        (httpx.PoolTimeout("x"), QueueFull),
        (httpx.ReadTimeout("x"), UpstreamTimeout),
        (httpx.WriteTimeout("x"), UpstreamTimeout),
        (httpx.ReadError("x"), ConnectionBroken),
        (httpx.WriteError("x"), ConnectionBroken),
        (httpx.CloseError("x"), ConnectionBroken),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), ConnectionBroken),
        (httpx.RemoteProtocolError("illegal status line"), BadUpstreamResponse),
        (httpx.LocalProtocolError("x"), BadRequest),
        (httpx.UnsupportedProtocol("x"), ConnectFailed),
        (httpx.ProxyError("x"), ConnectFailed),
        (ClientLeft("x"), ClientLeft),
        (KeyError("x"), KeyError),
    ],
)
async def test_errors_before_the_head_have_our_names(raised: Exception, expected: type[Exception]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    with pytest.raises(expected) as caught:
        await ForeignTransport(httpx.MockTransport(fail)).handle_async_request(outbound())
    assert type(caught.value) is expected
    if isinstance(caught.value, ConnectFailed):
        assert not caught.value.request_sent


@pytest.mark.parametrize("raised", [httpx.ReadError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x")])
async def test_errors_in_the_body_break_the_response(raised: Exception) -> None:
    transport, stream = answering(b"a", raised)
    answer = await transport.handle_async_request(outbound())
    assert await anext(answer.stream) == b"a"
    with pytest.raises(ResponseBroken):
        await anext(answer.stream)
    await answer.stream.aclose()
    assert stream.closed.is_set()


@pytest.mark.parametrize(
    ("status", "headers"), [(600, []), (101, []), (200, [(b"a", b"b\r\nc: d")]), (200, [(b"a b", b"c")])]
)
async def test_a_head_that_may_not_go_on_is_refused(status: int, headers: Any) -> None:
    transport, stream = answering(b"a", status=status, headers=headers)
    with pytest.raises(BadUpstreamResponse):
        await transport.handle_async_request(outbound())
    await transport.aclose()
    assert stream.closed.is_set()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (Pieces(b"abc", length=5), BadRequest),
        (Pieces(b"abcdef", length=5), BadRequest),
        (Pieces(b"abc", ClientLeft("gone")), ClientLeft),
    ],
)
async def test_a_request_body_that_fails_is_the_clients_fault(body: Pieces, error: type[GatewayError]) -> None:
    async def take(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=await request.aread())

    with pytest.raises(error):
        await ForeignTransport(httpx.MockTransport(take)).handle_async_request(outbound(b"POST", body=body))


async def test_only_the_upstreams_time_counts() -> None:
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def take(request: httpx.Request) -> httpx.Response:
        await request.aread()
        await asyncio.Event().wait()
        raise AssertionError

    body = Pieces(b"a", go_on, b"b")
    transport = ForeignTransport(httpx.MockTransport(take))
    request = outbound(b"POST", body=body, timeout={"head": 0.05, "read": 0.05})
    exchange = asyncio.ensure_future(transport.handle_async_request(request))
    loop.call_later(0.1, go_on.set)
    with pytest.raises(UpstreamTimeout):
        await exchange
    assert body.given == 2


# httpx's own transport behind it.


async def test_httpx_over_a_socket() -> None:
    async with (
        ScriptedUpstream(respond(HELLO)) as upstream,
        ForeignTransport(httpx.AsyncHTTPTransport()) as transport,
    ):
        for body in (None, b"abc", Pieces(b"a", b"bc"), Pieces(b"a", b"bc", length=3)):
            request = outbound(b"PUT", b"//x?", body=body)
            request.url = httpx.URL(upstream.url)
            answer = await transport.handle_async_request(request)
            assert await read(answer) == b"hello"
            assert answer.raw_fields[:2] == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
            assert (answer.request_complete, answer.reason) == (True, b"OK")
        assert [request.body for request in upstream.requests] == [b"", b"abc", b"abc", b"abc"]
        assert {request.target for request in upstream.requests} == {b"//x?"}


async def test_failures_of_httpx_over_a_socket() -> None:
    async def break_off(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")

    async def close(connection: ScriptedConnection) -> None:
        await connection.read_request()

    async def ask(transport: ForeignTransport, url: str) -> InboundResponse:
        request = outbound(timeout={"connect": 5, "read": 0.05, "write": 5, "pool": 5, "head": 5})
        request.url = httpx.URL(url)
        return await transport.handle_async_request(request)

    async with ForeignTransport(httpx.AsyncHTTPTransport()) as transport:
        with refused_port() as port, pytest.raises(ConnectFailed):
            await ask(transport, f"http://127.0.0.1:{port}")
        async with ScriptedUpstream(break_off) as upstream:
            answer = await ask(transport, upstream.url)
            with pytest.raises(ResponseBroken):
                await read(answer)
        async with ScriptedUpstream(close) as upstream:
            with pytest.raises(ConnectionBroken):
                await ask(transport, upstream.url)
        async with ScriptedUpstream(respond(b"nonsense\r\n\r\n")) as upstream:
            with pytest.raises(BadUpstreamResponse):
                await ask(transport, upstream.url)
        async with ScriptedUpstream(silent) as upstream:
            with pytest.raises(UpstreamTimeout):
                await ask(transport, upstream.url)
