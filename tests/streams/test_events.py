"""Server-sent events through the whole gateway over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.http.coding import BoundedDecoder
from tests.streams.events import EventSource
from tests.streams.support import MOUNTED, OWN, SANSIO, origin, running
from tests.support.gateway import Answer, Client, proxying, until

pytestmark = pytest.mark.anyio

servers = pytest.mark.parametrize("server", [OWN, SANSIO, MOUNTED])
codings = pytest.mark.parametrize("coding", ["", "gzip", "br", "zstd"])
levels = pytest.mark.parametrize("level", ["fast", "balanced", "best"])


class Reader:
    """Reads a stream, taking its coding off as far as it has come."""

    def __init__(self, client: Client, head: Answer) -> None:
        coding = head.value(b"content-encoding")
        self._client = client
        self._decoder = BoundedDecoder([coding.decode()], max_bytes=None) if coding else None
        self._text = b""

    async def event(self) -> str:
        """The next event; asks for no more bytes than it takes."""
        while b"\n\n" not in self._text:
            piece = await self._client.chunk()
            assert piece, "the stream ended"
            self._text += piece if self._decoder is None else b"".join(self._decoder.decode(piece))
        event, _, self._text = self._text.partition(b"\n\n")
        return event.decode()

    async def end(self) -> None:
        """The clean end of the stream."""
        while piece := await self._client.chunk():
            assert self._decoder is not None
            self._text += b"".join(self._decoder.decode(piece))
        assert piece == b"" and self._text == b""
        assert self._decoder is None or self._decoder.complete


async def open_stream(port: int, target: str, *fields: str) -> tuple[Client, Answer]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    lines = "".join(f"{field}\r\n" for field in fields)
    client.write(f"GET {target} HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n{lines}\r\n".encode())
    return client, await client.final_head()


@servers
@codings
@pytest.mark.parametrize("compress", [True, False], ids=["compression-on", "compression-off"])
async def test_each_event_arrives_before_the_next_is_sent(server: str, coding: str, compress: bool) -> None:
    source = EventSource()
    async with origin(source) as url, running(proxying(url, compress=compress), server) as (_, port, prefix):
        fields = [f"Accept-Encoding: {coding}"] if coding else []
        client, head = await open_stream(port, f"{prefix}/events", *fields)
        # The head is here, and not one event has been sent.
        assert head.value(b"content-type") == b"text/event-stream"
        assert head.value(b"content-encoding") == (coding.encode() if compress and coding else None)
        assert head.values(b"vary") == ([b"Accept-Encoding"] if compress else [])
        stream, reader = await source.opened(), Reader(client, head)
        for number, data in enumerate(["first", "ö" * 40, "x" * 70_000, "last"]):
            await stream.send(data, number)
            assert await reader.event() == f"id: {number}\ndata: {data}"
        await stream.end()
        await reader.end()
        await client.close()


@levels
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_every_level_flushes(level: str, coding: str) -> None:
    source = EventSource()
    async with origin(source) as url, running(proxying(url, compress={"level": level})) as (_, port, _):
        client, head = await open_stream(port, "/events", f"Accept-Encoding: {coding}")
        assert head.value(b"content-encoding") == coding.encode()
        stream, reader = await source.opened(), Reader(client, head)
        for number in range(200):
            await stream.send(f"event {number}")
            assert await reader.event() == f"data: event {number}"
        await stream.end()
        await reader.end()
        await client.close()


@servers
@pytest.mark.parametrize("accept", ["Accept-Encoding: br", "X-None: 1"])
async def test_a_reader_that_comes_back_says_where_it_was_and_leaving_ends_the_stream(server: str, accept: str) -> None:
    source = EventSource()
    async with origin(source) as url, running(proxying(url), server) as (gateway, port, prefix):
        client, head = await open_stream(port, f"{prefix}/events?topic=a%20b", accept)
        stream = await source.opened()
        assert b"last-event-id" not in stream.headers
        await stream.send("first", 7)
        assert await Reader(client, head).event() == "id: 7\ndata: first"
        await client.close()
        # No event is sent that could fail: the upstream hears of it at once.
        await stream.left()
        client, head = await open_stream(port, f"{prefix}/events?topic=a%20b", accept, "Last-Event-ID: 7")
        stream = await source.opened()
        assert stream.headers[b"last-event-id"] == b"7"
        client.leave()
        await stream.left()
        await until(lambda: not gateway.live.in_flight)


async def test_a_hundred_streams_at_a_time_are_independent() -> None:
    source = EventSource()
    async with origin(source) as url, running(proxying(url, compress=True)) as (gateway, port, _):
        readers: dict[str, Reader] = {}
        clients, streams = [], []
        for number in range(100):
            client, head = await open_stream(port, f"/{number}", "Accept-Encoding: gzip")
            clients.append(client)
            readers[f"/{number}"] = Reader(client, head)
            streams.append(await source.opened())
        for stream in reversed(streams):
            await stream.send(stream.path)
            assert await readers[stream.path].event() == f"data: {stream.path}"
        for client in clients:
            client.leave()
        for stream in streams:
            await stream.left()
        await until(lambda: not gateway.live.in_flight)


async def test_an_upstream_that_breaks_off_breaks_the_coded_stream_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})

    async with origin(app) as url, running(proxying(url, compress=True)) as (_, port, _):
        client, head = await open_stream(port, "/", "Accept-Encoding: gzip")
        assert await Reader(client, head).event() == "data: first"
        assert await client.chunk() is None
        await client.close()
