from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.websocket import WebSocketClosed, accept_value
from gateway.proxy.websocket_client import WebSocketClient
from tests.support.upstream import response
from tests.support.websockets import BINARY, CONT, PING, TEXT, close_frame, frame

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SWITCHING = response(
    101,
    [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accept_value(KEY))],
    length=False,
)


class Wire:
    """A transport that only remembers."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


def client_on(wire: Wire) -> WebSocketClient:
    client = WebSocketClient(KEY, [], 1_000_000)
    client.connection_made(cast(Any, wire))
    return client


def in_frames(message: str | bytes, cuts: list[int]) -> bytes:
    """A message in fragments, with a ping between each two."""
    payload = message.encode() if isinstance(message, str) else message
    ends = [*sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    raw, at = b"", 0
    for number, end in enumerate(ends):
        opcode = CONT if number else (TEXT if isinstance(message, str) else BINARY)
        raw += frame(opcode, payload[at:end], fin=number == len(ends) - 1)
        if number < len(ends) - 1:
            raw += frame(PING, b"%d" % number)
        at = end
    return raw


@given(
    st.lists(st.tuples(st.one_of(st.text(), st.binary()), st.lists(st.integers(0, 100), max_size=4)), max_size=8),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_messages_come_whole_however_they_are_cut(
    messages: list[tuple[str | bytes, list[int]]], sizes: list[int]
) -> None:
    async def run() -> list[str | bytes]:
        client = client_on(Wire())
        raw = SWITCHING + b"".join(in_frames(message, cuts) for message, cuts in messages) + close_frame(1000, "end")
        at, turn = 0, 0
        while at < len(raw):
            size = sizes[turn % len(sizes)]
            client.data_received(raw[at : at + size])
            at, turn = at + size, turn + 1
        received = []
        with pytest.raises(WebSocketClosed) as caught:
            while True:
                received.append(await client.receive())
        assert (caught.value.code, caught.value.reason, caught.value.vanished) == (1000, "end", False)
        return received

    assert asyncio.run(run()) == [message for message, _ in messages]


@pytest.mark.anyio
async def test_a_close_frame_may_come_inside_a_message() -> None:
    client = client_on(Wire())
    client.data_received(SWITCHING + frame(TEXT, b"begun", fin=False) + close_frame(4000, "bye"))
    with pytest.raises(WebSocketClosed) as caught:
        await client.receive()
    assert (caught.value.code, caught.value.reason, caught.value.vanished) == (4000, "bye", False)


@given(st.binary(max_size=400))
def test_whatever_comes_the_client_ends_in_an_orderly_way(raw: bytes) -> None:
    async def run() -> None:
        client = client_on(Wire())
        client.data_received(SWITCHING)
        client.data_received(raw)
        client.eof_received()
        with pytest.raises(WebSocketClosed):
            while True:
                await client.receive()

    asyncio.run(run())


@given(st.binary(max_size=200), st.booleans())
def test_no_answer_to_a_handshake_breaks_the_client(raw: bytes, after_status_line: bool) -> None:
    async def run() -> None:
        client = client_on(Wire())
        client.data_received((b"HTTP/1.1 " if after_status_line else b"") + raw)
        client.eof_received()
        client.connection_lost(None)
        assert client.status == 0 or 101 <= client.status <= 599

    asyncio.run(run())


@pytest.mark.anyio
async def test_reading_stops_while_messages_wait_and_goes_on_when_all_were_taken() -> None:
    wire = Wire()
    client = client_on(wire)
    client.data_received(SWITCHING)
    states = []
    for raw in (frame(TEXT, b"x") * 64, frame(TEXT, b"x")):
        client.data_received(raw)
        states.append(wire.reading)
    for _ in range(65):
        assert await client.receive() == "x"
        states.append(wire.reading)
    client.data_received(frame(BINARY, b"x" * 65_537))
    assert states == [True, False, *[False] * 64, True] and not wire.reading
