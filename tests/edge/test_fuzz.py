"""Bytes that nobody chose, through a whole gateway: no failure in the log, no hang, no request that was not made.

h11 reads the same bytes: what the upstream gets is never anything but the beginning of what h11 finds in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import h11
import pytest
import uvloop
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.edge.corpus import CORPUS, SMUGGLED, get
from tests.edge.loose import ReadRequest, answering, readings, strict_reading
from tests.support.gateway import Answer, Client, Served, proxying, serving
from tests.support.upstream import ScriptedUpstream

TOKENS = [
    *(b"\r\n", b"\r", b"\n", b"\x00", b" ", b"\t", b"\x0b", b"\xa0", b":", b",", b";", b"0", b"\r\n\r\n", b"0\r\n\r\n"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 44\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Host: a\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.0", b"HTTP/1.1", b"GET "),
    *(b"POST ", b"HEAD ", b"OPTIONS ", b"http://b", b"*", b"/", b"%2e%2e", b"3\r\nabc\r\n", b"abc", SMUGGLED),
]
RAWS = [row.raw for row in CORPUS if len(row.raw) < 1500]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One or two rows of the corpus, or good requests, after a few cuts, insertions and repetitions."""
    raw = b"".join(draw(st.lists(st.sampled_from([get(b"/1"), *RAWS]), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        position, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 12))
        before, taken, after = raw[:position], raw[position : position + length], raw[position + length :]
        kind = draw(st.sampled_from(["insert", "cut", "repeat", "flip"]))
        if kind == "insert":
            raw = before + draw(st.sampled_from(TOKENS)) + taken + after
        elif kind == "cut":
            raw = before + after
        elif kind == "repeat":
            raw = before + taken + taken + after
        elif taken:
            raw = before + bytes([taken[0] ^ 1 << draw(st.integers(0, 7))]) + taken[1:] + after
    return raw


built = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4), max_size=25).map(b"".join)
cuts = st.lists(st.integers(0, 2000), max_size=4)


class Bench:
    """A gateway and an upstream that live through many examples."""

    def __init__(self, served: Served, upstream: ScriptedUpstream, problems: list[str]) -> None:
        self.served = served
        self.upstream = upstream
        self.problems = problems

    async def run(self, raw: bytes, places: Sequence[int]) -> tuple[bytes, list[ReadRequest]]:
        """What comes back for ``raw``, sent in pieces, and what reaches the upstream for it."""
        marks = [len(connection.received) for connection in self.upstream.connections]
        client = await self.served.connect()
        ends = sorted({min(place, len(raw)) for place in places} | {len(raw)})
        for start, end in zip([0, *ends], ends, strict=False):
            client.write(raw[start:end])
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        answer = await self._everything(client)
        await client.close()
        await self.served.at_rest()
        found: list[ReadRequest] = []
        for index, connection in enumerate(self.upstream.connections):
            received = connection.received[marks[index] if index < len(marks) else 0 :]
            requests = strict_reading(received)
            assert all(reading == requests for reading in readings(received)), received
            found += requests
        return answer, found

    async def _everything(self, client: Client) -> bytes:
        """Every byte until the server closes; whatever it waits for is declared too late, again and again."""
        connections = self.served.connections
        assert connections is not None
        rest = asyncio.ensure_future(client.rest())
        for turn in range(10_000):
            if rest.done():
                return rest.result()
            await asyncio.sleep(0.001)
            if turn > 1:
                connections.sweep(time.monotonic() + 1000)
        raise AssertionError("the connection is never closed")


class _Problems(logging.Handler):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(logging.Formatter().format(record))


@contextlib.contextmanager
def benches() -> Iterator[tuple[asyncio.Runner, Bench]]:
    problems: list[str] = []
    handler = _Problems(problems)
    logging.getLogger().addHandler(handler)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(str(context)))
        stack = contextlib.AsyncExitStack()

        async def enter() -> Bench:
            upstream = await stack.enter_async_context(ScriptedUpstream(answering))
            served = await stack.enter_async_context(serving(proxying(upstream.url, retry=False)))
            return Bench(served, upstream, problems)

        try:
            yield runner, runner.run(enter())
        finally:
            runner.run(stack.aclose())
            logging.getLogger().removeHandler(handler)


def check(runner: asyncio.Runner, bench: Bench, raw: bytes, places: Sequence[int]) -> None:
    answer, forwarded = runner.run(bench.run(raw, places))
    note(f"answer {answer!r}")
    note(f"forwarded {forwarded!r}")
    assert not bench.problems, bench.problems
    # A TRACE is answered by the gateway itself, and what follows it on the connection is served.
    made = [request for request in reference(raw) if request[0] != b"TRACE"]
    assert forwarded == made[: len(forwarded)], made
    check_answers(answer, forwarded)


def reference(raw: bytes) -> list[ReadRequest]:
    """The requests that h11 reads, up to the first that it refuses."""
    found: list[ReadRequest] = []
    while True:
        raw = raw[len(_EMPTY_LINES.match(raw)[0]) :]  # type: ignore[index]  # it matches nothing as well
        if not raw:
            return found
        # Each request is read for itself: h11 wants an answer before the next one.
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        connection.receive_data(raw)
        request, body = None, b""
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event in (h11.NEED_DATA, h11.PAUSED):
                    return found
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
        except h11.RemoteProtocolError:
            return found
        assert request is not None
        found.append((request.method, _origin_form(request.method, request.target), body))
        raw = connection.trailing_data[0]


_EMPTY_LINES = re.compile(rb"(?:\r\n)*")


def _origin_form(method: bytes, target: bytes) -> bytes:
    match = re.fullmatch(rb"[Hh][Tt][Tt][Pp][Ss]?://[^/?#]+(.*)", target)
    if match is None:
        return target
    if not match[1]:
        return b"*" if method == b"OPTIONS" else b"/"
    return match[1] if match[1].startswith(b"/") else b"/" + match[1]


def check_answers(raw: bytes, forwarded: list[ReadRequest]) -> None:
    """The answers are well framed, and those of the upstream come in the order of the requests."""
    waiting = list(forwarded)
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 "), head
        answer = Answer(head + end)
        if answer.status == 100:
            continue
        length = int(answer.value(b"content-length") or b"0")
        if targets := answer.values(b"x-target"):
            # An answer that the client got later than it could wait is missing; none comes twice or too early.
            method, target, _ = waiting.pop(0)
            assert targets == [target]
            if method == b"HEAD":
                continue
        elif not raw.startswith(b"{"):
            # The gateway's own answer to HEAD.
            continue
        assert len(raw) >= length
        raw = raw[length:]


BYTES = {"mutations of the corpus": mutated(), "tokens": built, "bytes": st.binary(max_size=300)}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("kind", BYTES)
def test_no_bytes_break_the_gateway(kind: str) -> None:
    with benches() as (runner, bench):

        @settings(max_examples=150, database=None, suppress_health_check=QUIET)
        @given(BYTES[kind], cuts)
        def run(raw: bytes, places: list[int]) -> None:
            check(runner, bench, raw, places)

        run()


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_no_bytes_break_the_gateway_for_a_long_time(capsys: Any) -> None:
    ends = time.monotonic() + 80
    count = 0
    with benches() as (runner, bench):

        @settings(max_examples=500, database=None, suppress_health_check=QUIET)
        @given(st.one_of(*BYTES.values()), cuts)
        def run(raw: bytes, places: list[int]) -> None:
            nonlocal count
            if time.monotonic() < ends:
                count += 1
                check(runner, bench, raw, places)

        while time.monotonic() < ends:
            run()
    with capsys.disabled():
        print(f"\n{count} examples in 80 s")
