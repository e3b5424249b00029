"""The client's request body: order, limits, replay, and what is read ahead."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive

from gateway.errors import BadRequest, BodyTooLarge, ClientLeft
from gateway.exchange import BODY_FAILURE
from gateway.proxy.request_body import RequestBody, has_body
from gateway.upstream.http1_upload import Upload
from gateway.upstream.messages import BodySink

pytestmark = pytest.mark.anyio

LEAVES: Message = {"type": "http.disconnect"}


def receiving(*messages: Message) -> Receive:
    """Gives the messages, then waits for ever."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def pieces(*parts: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]


def body_from(
    *messages: Message, length: int | None = None, max_bytes: int | None = None, replay_bytes: int = 0
) -> RequestBody:
    return RequestBody(
        receiving(*messages), length=length, max_bytes=max_bytes, replay_bytes=replay_bytes, clock=lambda: 0.0
    )


async def read(body: RequestBody) -> bytes:
    return b"".join([piece async for piece in body])


async def test_nobody_asks_for_a_disconnect_while_somebody_waits_for_a_piece() -> None:
    asked = 0
    comes = asyncio.Event()

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        await comes.wait()
        return pieces(b"whole")[0]

    body = RequestBody(receive, length=5, max_bytes=None, replay_bytes=0, clock=lambda: 0.0)
    reading = asyncio.ensure_future(read(body))
    await asyncio.sleep(0)
    # As a watch does that was told to begin in the turn before.
    assert not await asyncio.wait_for(body.client_left(), 1)
    comes.set()
    assert await reading == b"whole"
    assert asked == 1


async def test_pieces_come_in_order_and_empty_ones_are_skipped() -> None:
    body = body_from(*pieces(b"ab", b"", b"c", b""))
    assert [piece async for piece in body] == [b"ab", b"c"]
    assert body.complete
    assert body.received_bytes == 3


async def test_a_client_that_leaves_ends_the_body_with_client_left() -> None:
    body = body_from({"type": "http.request", "body": b"a", "more_body": True}, LEAVES)
    with pytest.raises(ClientLeft):
        await read(body)
    assert isinstance(body.failure, ClientLeft)


async def test_what_the_server_says_that_ended_the_body_is_raised() -> None:
    failure = BadRequest("a chunk size is malformed")
    message = {"type": "http.disconnect", BODY_FAILURE: failure}

    with pytest.raises(BadRequest) as caught:
        await read(body_from(message))
    assert caught.value is failure
    watched = body_from(message)
    assert await watched.client_left()
    assert watched.failure is failure


@pytest.mark.parametrize("parts", [(b"abcde",), (b"abc", b"de"), (b"abcd", b"e")], ids=str)
async def test_one_byte_above_the_limit_is_too_large_and_the_limit_itself_is_not(parts: Sequence[bytes]) -> None:
    assert await read(body_from(*pieces(*parts), max_bytes=5)) == b"abcde"
    with pytest.raises(BodyTooLarge):
        await read(body_from(*pieces(*parts), max_bytes=4))


@pytest.mark.parametrize("length", [2, 4])
async def test_a_body_that_is_not_as_long_as_announced_is_a_bad_request(length: int) -> None:
    with pytest.raises(BadRequest):
        await read(body_from(*pieces(b"ab", b"c"), length=length))


async def test_a_body_at_hand_is_given_whole_and_can_still_be_iterated() -> None:
    body = body_from(*pieces(b"abc"), length=3, replay_bytes=10)
    assert await body.at_hand() == b"abc"
    assert await body.at_hand() == b"abc"
    assert await read(body) == b"abc"


async def test_a_body_at_hand_above_the_replay_limit_is_whole_but_not_replayable() -> None:
    body = body_from(*pieces(b"abc"), length=3, replay_bytes=2)
    assert await body.at_hand() == b"abc"
    assert not body.rewind(was_sent=True)
    assert body.rewind(), "what was never sent can go elsewhere"


async def test_a_body_that_is_not_at_hand_loses_nothing_to_the_look() -> None:
    body = body_from(*pieces(b"abc", b"def"), length=6)
    assert await body.at_hand() is None
    assert await read(body) == b"abcdef"


async def test_a_body_that_comes_later_is_not_waited_for_by_the_look() -> None:
    arrived = asyncio.Event()

    async def receive() -> Message:
        await arrived.wait()
        return {"type": "http.request", "body": b"late", "more_body": False}

    body = RequestBody(receive, length=4, max_bytes=None, replay_bytes=0, clock=lambda: 0.0)
    assert await body.at_hand() is None
    arrived.set()
    assert await read(body) == b"late"


async def test_rewinding_gives_the_kept_bytes_again_and_then_the_rest() -> None:
    body = body_from(*pieces(b"ab", b"cd", b"ef"), replay_bytes=4)
    assert await anext(body) == b"ab"
    assert await anext(body) == b"cd"
    assert body.rewind()
    assert await anext(body) == b"ab"
    assert await anext(body) == b"cd"
    assert await anext(body) == b"ef"
    assert not body.rewind()


async def test_filling_reads_ahead_up_to_the_limit_and_the_rest_streams_on() -> None:
    body = body_from(*pieces(b"ab", b"cd", b"ef"))
    await body.fill(3)
    assert body.received_bytes == 4
    assert not body.complete
    assert await read(body) == b"abcdef"


async def test_a_piece_that_the_watcher_got_is_kept() -> None:
    body = body_from(*pieces(b"ab", b"cd"))
    assert not await body.client_left()
    assert await read(body) == b"abcd"


async def test_the_watcher_waits_through_the_empty_end_of_a_request_without_body() -> None:
    body = body_from(*pieces(b""), LEAVES)
    assert await body.client_left()
    assert body.complete


async def test_a_server_that_repeats_the_finished_body_cannot_make_the_watcher_spin() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    body = RequestBody(receive, length=None, max_bytes=None, replay_bytes=0, clock=lambda: 0.0)
    assert not await body.client_left()


async def test_waiting_time_counts_only_while_the_client_is_awaited() -> None:
    now = 10.0

    async def receive() -> Message:
        nonlocal now
        assert body.waiting_since == 10.0
        now = 12.5
        return {"type": "http.request", "body": b"a", "more_body": False}

    body = RequestBody(receive, length=None, max_bytes=None, replay_bytes=0, clock=lambda: now)
    await read(body)
    assert body.waited_s == 2.5
    assert body.waiting_since is None


@given(
    parts=st.lists(st.binary(max_size=8), min_size=1, max_size=8),
    replay_bytes=st.integers(0, 40),
    ahead=st.integers(0, 40),
    before_rewind=st.integers(0, 8),
)
def test_whatever_is_read_ahead_or_replayed_the_upstream_gets_the_same_bytes(
    parts: list[bytes], replay_bytes: int, ahead: int, before_rewind: int
) -> None:
    async def run() -> None:
        body = body_from(*pieces(*parts), replay_bytes=replay_bytes)
        if ahead:
            await body.fill(ahead)
        first = []
        for _ in range(before_rewind):
            piece = await anext(body, None)
            if piece is None:
                break
            first.append(piece)
        rest = await read(body) if not body.rewind() else None
        whole = b"".join(first) + rest if rest is not None else await read(body)
        assert whole == b"".join(parts)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        ([], "1.1", (False, None)),
        ([(b"content-length", b"0")], "1.1", (True, 0)),
        ([(b"content-length", b"12")], "1.1", (True, 12)),
        ([(b"transfer-encoding", b"chunked")], "1.1", (True, None)),
        ([], "2", (True, None)),
    ],
)
def test_framing_fields_tell_whether_a_request_has_a_body(
    headers: list[tuple[bytes, bytes]], version: str, expected: tuple[bool, int | None]
) -> None:
    assert has_body(headers, version) == expected


class Source:
    """A server whose pieces flow, moved by hand."""

    def __init__(self) -> None:
        self.sink: BodySink | None = None
        self.calls: list[str] = []

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        return LEAVES

    def has_left(self) -> bool:
        return False

    def flow_into(self, sink: BodySink) -> bool:
        self.sink = sink
        return True

    def pause_flow(self) -> None:
        self.calls.append("pause")

    def resume_flow(self) -> None:
        self.calls.append("resume")

    def stop_flow(self) -> None:
        self.sink = None


class Upstream:
    """A connection that takes nothing until it is told to; also its own transport."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_full = False
        self.uploaded = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.is_full = True

    def is_write_paused(self) -> bool:
        return self.is_full

    def watch_writing(self) -> None: ...

    def forgive_writing(self) -> None: ...

    def on_uploaded(self) -> None:
        self.uploaded.set()

    def on_upload_failed(self, error: Exception) -> None:
        raise error


async def test_nobody_waits_for_the_client_once_the_upstream_takes_the_last_piece() -> None:
    source, upstream = Source(), Upstream()
    body = RequestBody(source.receive, length=None, max_bytes=None, replay_bytes=0, clock=lambda: 7.0, source=source)
    body.length = 4
    upload = Upload(upstream, cast(asyncio.Transport, upstream), body)
    await asyncio.sleep(0)
    assert source.sink is not None
    source.sink.feed(b"ab")
    assert source.calls == ["pause"]
    upload.on_writable()
    assert source.calls == ["pause", "resume"]
    assert body.waiting_since == 7.0
    source.sink.feed(b"cd")
    source.sink.end()
    await upstream.uploaded.wait()
    upload.on_writable()
    assert upstream.written == [b"ab", b"cd"]
    assert body.waiting_since is None


async def test_the_time_that_the_upstream_takes_is_not_the_clients() -> None:
    source, upstream, now = Source(), Upstream(), [0.0]
    body = RequestBody(source.receive, length=None, max_bytes=None, replay_bytes=0, clock=lambda: now[0], source=source)
    body.length = 4
    upload = Upload(upstream, cast(asyncio.Transport, upstream), body)
    await asyncio.sleep(0)
    assert source.sink is not None
    now[0] = 2.0
    source.sink.feed(b"ab")
    # What was on its way already comes although nobody asks for more.
    now[0] = 3.0
    source.sink.feed(b"cd")
    assert body.waiting_since == math.inf
    now[0] = 10.0
    upload.on_writable()
    assert body.waiting_since == 10.0
    now[0] = 11.0
    source.sink.end()
    await upstream.uploaded.wait()
    assert body.waited_s == 3.0
