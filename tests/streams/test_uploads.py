"""Coded uploads through ``decompress_request``: streamed, and held to the limit at the byte."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.http.coding import BoundedDecoder, make_encoder
from gateway.middleware.decompression import DecompressionMiddleware
from tests.streams import decoders
from tests.streams.support import MOUNTED, OWN, SANSIO, origin, running
from tests.support.gateway import Answer, Client, proxying

pytestmark = pytest.mark.anyio

CODINGS = ("gzip", "br", "zstd", "deflate")
servers = pytest.mark.parametrize("server", [OWN, SANSIO, MOUNTED])


class Sink:
    """Takes uploads, and shows each piece as it comes."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers.append(dict(scope["headers"]))
        digest, size, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            digest.update(message["body"])
            size += len(message["body"])
            self.pieces.put_nowait(message["body"])
        body = b"%d %b" % (size, digest.hexdigest().encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def table(url: str, limit: str = "1MiB") -> dict[str, Any]:
    return proxying(url, decompress_request=True, max_body=limit)


def facts(body: bytes) -> bytes:
    return b"%d %b" % (len(body), hashlib.sha256(body).hexdigest().encode())


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


def head(target: str, coding: str, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in more)
    return f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Encoding: {coding}\r\n{lines}\r\n".encode()


async def post(port: int, target: str, coding: str, body: bytes, piece: int = 0) -> Answer:
    client = await connect(port)
    if piece:
        client.write(head(target, coding, "Transfer-Encoding: chunked"))
        for start in range(0, len(body), piece):
            part = body[start : start + piece]
            client.write(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0)
        client.write(b"0\r\n\r\n")
    else:
        client.write(head(target, coding, f"Content-Length: {len(body)}") + body)
    answer = await client.answer()
    await client.close()
    return answer


@servers
@pytest.mark.parametrize("coding", CODINGS)
async def test_an_upload_arrives_decoded_whatever_its_framing(server: str, coding: str) -> None:
    sink = Sink()
    async with origin(sink) as url, running(table(url), server) as (_, port, prefix):
        for body in (b"", b"x", bytes(70_000), b"some text, " * 20_000, bytes(1024 * 1024)):
            coded = decoders.encode(coding, body)
            for piece in (0, 100):
                answer = await post(port, f"{prefix}/", coding, coded, piece)
                assert (answer.status, answer.body) == (200, facts(body))
                assert b"content-encoding" not in sink.headers[-1] and b"content-length" not in sink.headers[-1]
                assert sink.headers[-1][b"transfer-encoding"] == b"chunked"


@servers
@pytest.mark.parametrize("coding", CODINGS)
async def test_the_limit_holds_at_the_byte(server: str, coding: str) -> None:
    limit = 100_000
    async with origin(Sink()) as url, running(table(url, f"{limit}B"), server) as (_, port, prefix):
        for body, status in ((bytes(limit), 200), (bytes(limit + 1), 413), (bytes(50 * limit), 413)):
            # Another server resets the connection of a client that goes on sending.
            for piece in (0, 50) if server == OWN or status == 200 else (0,):
                answer = await post(port, f"{prefix}/", coding, decoders.encode(coding, body), piece)
                assert answer.status == status, (len(body), piece)


@servers
async def test_bad_data_is_400_and_an_unknown_coding_415(server: str) -> None:
    async with origin(Sink()) as url, running(table(url), server) as (_, port, prefix):
        good = decoders.encode("gzip", b"some text, " * 1000)
        for body in (b"no gzip at all", good[:-1], good + b"more", b"\x1f"):
            assert (await post(port, f"{prefix}/", "gzip", body)).status == 400
        unknown = await post(port, f"{prefix}/", "compress", good)
        assert unknown.status == 415 and unknown.value(b"accept-encoding") == b"zstd, br, gzip, deflate"


@servers
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_pieces_arrive_before_the_next_is_sent(server: str, coding: str) -> None:
    sink = Sink()
    async with origin(sink) as url, running(table(url), server) as (_, port, prefix):
        client, encoder = await connect(port), make_encoder(coding)
        client.write(head(f"{prefix}/", coding, "Transfer-Encoding: chunked"))
        whole = b""
        for piece in (b"first", b"x" * 40_000, b"last"):
            data = encoder.encode(piece) + encoder.flush()
            client.write(b"%x\r\n%b\r\n" % (len(data), data))
            arrived = b""
            while len(arrived) < len(piece):
                arrived += await sink.pieces.get()
            assert arrived == piece
            whole += piece
        data = encoder.finish()
        client.write((b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n")
        assert (await client.answer()).body == facts(whole)
        await client.close()


def request_scope(coding: str) -> Scope:
    fields = [(b"content-encoding", coding.encode()), (b"transfer-encoding", b"chunked")]
    return {"type": "http", "method": "POST", "path": "/", "http_version": "1.1", "headers": fields}


async def nothing_sent(message: Message) -> None:
    raise AssertionError("nothing is answered")


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_slice_is_decoded_in_steps_with_turns_for_others_between_them(coding: str) -> None:
    size = 20_000_000
    coded = decoders.encode(coding, bytes(size))
    sizes: list[int] = []
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]

    async def receive() -> Message:
        return {"type": "http.request", "body": coded, "more_body": False}

    task = asyncio.ensure_future(others())
    await DecompressionMiddleware(app, max_body=size)(request_scope(coding), receive, nothing_sent)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sum(sizes) == size
    assert max(sizes) <= 1.5 * BoundedDecoder.PIECE_BYTES
    assert turns >= len(sizes) - 1


@pytest.mark.parametrize("coding", CODINGS)
async def test_who_gives_up_asking_and_asks_again_loses_nothing(coding: str) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    coded = decoders.encode(coding, text)
    messages = [coded[start : start + 30_000] for start in range(0, len(coded), 30_000)]
    received: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            asking = asyncio.ensure_future(receive())
            for _ in range(len(received) % 4):
                await asyncio.sleep(0)
            if asking.cancel():
                await asyncio.gather(asking, return_exceptions=True)
            if asking.cancelled():
                asking = asyncio.ensure_future(receive())
            message = await asking
            received.append(message["body"])
            more = message["more_body"]

    async def receive() -> Message:
        return {"type": "http.request", "body": messages.pop(0), "more_body": bool(messages)}

    await DecompressionMiddleware(app)(request_scope(coding), receive, nothing_sent)
    assert b"".join(received) == text


async def test_thousands_of_empty_members_neither_hold_the_loop_nor_hide_in_another_coding() -> None:
    async with origin(Sink()) as url, running(table(url, "8MiB")) as (_, port, _):
        empty = decoders.encode("gzip", b"") * 50_000
        assert (await post(port, "/", "gzip", empty)).body == facts(b"")
        # A few KiB that hold a megabyte of them, and as much again: what they decode to is nothing.
        stacked = decoders.encode("gzip", empty * 3)
        assert (await post(port, "/", "gzip, gzip", stacked)).status == 413
