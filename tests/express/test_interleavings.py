"""Whatever order things happen in: answers in order, one record for each, bytes as they were, and nothing left behind.

The gateway is whole and its protocols are the real ones; only the transports on both sides are moved by hand.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.app import Gateway
from gateway.errors import ConnectFailed
from gateway.exchange import Exchange
from gateway.server.limits import Connections, Limits
from gateway.server.protocol import GatewayProtocol
from gateway.upstream.http1 import Http1Transport
from tests.support.gateway import RecordingRuntime, Served, make_gateway, proxying, request

BODY = bytes(range(32, 127)) * 4


class Wire:
    """A transport whose other end is the test: takes what is written, and delivers what it is told to."""

    def __init__(self) -> None:
        self.protocol: asyncio.Protocol = cast(asyncio.Protocol, None)
        self.written = bytearray()
        self.closing = False
        self.lost = False
        self.paused = False
        self.throttled = False

    def connect(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(cast(asyncio.Transport, self))

    # What protocols call.

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, **limits: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose, None)

    abort = close

    # What the test does.

    def deliver(self, data: bytes) -> bool:
        """Hand over what the other end sent; False when it is not read at the moment."""
        if self.closing or self.paused or not data:
            return False
        self.protocol.data_received(data)
        return True

    def end(self) -> None:
        if not self.closing and not self.paused and not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        if not self.closing:
            self.closing = True
            self._lose(ConnectionResetError("reset"))

    def throttle(self, on: bool) -> None:
        if not self.lost and on != self.throttled:
            self.throttled = on
            (self.protocol.pause_writing if on else self.protocol.resume_writing)()

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(error)


class Origin(Wire):
    """A connection to the upstream, which answers each request with its target and body."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0
        self.answer = b""
        """What is still to be sent of the answers to what has come."""
        self.is_midway = False

    def work(self) -> None:
        """Make answers to the requests that are complete."""
        while (found := self.written.find(b"\r\n\r\n", self.read)) >= 0:
            head, start = bytes(self.written[self.read : found]), found + 4
            lines = head.lower().split(b"\r\n")
            target = head.split(b" ", 2)[1]
            lengths = [int(line[16:]) for line in lines if line.startswith(b"content-length: ")]
            if b"transfer-encoding: chunked" in lines:
                taken = _dechunked(bytes(self.written[start:]))
                if taken is None:
                    return
                body, size = taken
            else:
                size = lengths[0] if lengths else 0
                body = bytes(self.written[start : start + size])
                if len(body) < size:
                    return
            self.read = start + size
            self.answer += _answer(target + b" " + body, int(target[1:]))


def _answer(echo: bytes, number: int) -> bytes:
    if number % 4 == 1:
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(echo), echo)
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if number % 4 == 2 else b""
    return interim + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(echo), echo)


def _dechunked(data: bytes) -> tuple[bytes, int] | None:
    """A chunked body at the beginning of ``data``, and its size on the wire; None while it is incomplete."""
    body, position = b"", 0
    while (end := data.find(b"\r\n", position)) >= 0:
        size = int(data[position:end], 16)
        position = end + 2 + size + 2
        if position > len(data):
            return None
        body += data[end + 2 : end + 2 + size]
        if not size:
            return body, position
    return None


def _answers(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Status and body of every final answer in ``data``, and what is left of a broken one."""
    found: list[tuple[int, bytes]] = []
    while data:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return found, data
        lines = data[:end].lower().split(b"\r\n")
        status = int(data[9:12])
        assert data.startswith(b"HTTP/1.1 "), data[:100]
        rest = data[end + 4 :]
        if status < 200:
            data = rest
            continue
        if b"transfer-encoding: chunked" in lines:
            taken = _dechunked(rest)
            if taken is None:
                return found, data
            body, size = taken
        else:
            (size,) = (int(line[16:]) for line in lines if line.startswith(b"content-length: "))
            body = rest[:size]
            if len(body) < size:
                return found, data
        found.append((status, body))
        data = rest[size:]
    return found, b""


class World:
    """A gateway between one client and the connections to its upstream."""

    def __init__(self, gateway: Gateway, requests: list[tuple[bytes, bytes]]) -> None:
        self.gateway = gateway
        self.requests = requests
        """What the client sends, and the echo that it expects."""
        self.unsent = b"".join(raw for raw, _ in requests)
        self.origins: list[Origin] = []
        self.refuses = False
        self.client = Wire()
        self.connections = Connections(Limits(), express=lambda: gateway.live.express)
        config = Config(gateway, lifespan="off", interface="asgi3", log_config=None)
        config.load()
        self.state = ServerState()
        self.client.connect(GatewayProtocol(config, self.state, {}, connections=self.connections))
        (endpoint,) = gateway.generation.upstreams["origin"].endpoints
        transport = endpoint.transport
        assert isinstance(transport, Http1Transport)
        self.transport = transport
        transport.open_connection = self._open  # type: ignore[assignment,method-assign]

    async def _open(self, factory: Any, timeout_s: float | None = None) -> Any:
        if self.refuses:
            raise ConnectFailed("refused")
        origin = Origin()
        self.origins.append(origin)
        origin.connect(factory())
        await asyncio.sleep(0)
        return origin, origin.protocol

    @property
    def exchanges(self) -> list[Exchange]:
        runtime = self.gateway.runtime
        assert isinstance(runtime, RecordingRuntime)
        return runtime.exchanges

    async def step(self, kind: str, number: int) -> None:
        """One thing that happens."""
        alive = [origin for origin in self.origins if not origin.lost]
        origin = alive[number % len(alive)] if alive else None
        if kind == "send":
            self._send(number)
        elif kind == "turn":
            for _ in range(number % 4 + 1):
                await asyncio.sleep(0)
        elif kind == "reload":
            header = {"set": {"X-Table": str(number)}}
            await self.gateway.reload(make_gateway(_config(response_headers=header)).config)
        elif kind == "leave":
            self.client.reset()
        elif kind == "half-close":
            self.client.end()
        elif kind == "drain":
            self.connections.draining = True
            if not self.client.lost:
                cast(GatewayProtocol, self.client.protocol).shutdown()
        elif kind == "slow client":
            self.client.throttle(bool(number % 2))
        elif kind == "refuse":
            self.refuses = bool(number % 2)
        elif origin is None:
            return
        elif kind == "answer":
            origin.work()
            part = origin.answer[: number * 7 + 1]
            if origin.deliver(part):
                origin.answer = origin.answer[len(part) :]
                origin.is_midway = bool(origin.answer)
        elif kind == "reset":
            origin.reset()
        elif kind == "end":
            origin.end()
        elif kind == "garbage" and not origin.is_midway:
            # In the middle of a body it would be the body.
            origin.deliver(b"garbage\r\n\r\n")
        elif kind == "slow upstream":
            origin.throttle(bool(number % 2))

    def _send(self, number: int) -> None:
        part = self.unsent[: number * 11 + 1]
        if self.client.deliver(part):
            self.unsent = self.unsent[len(part) :]

    async def come_to_rest(self) -> None:
        """Everybody does their part from now on."""
        self.refuses = False
        served = Served(self.gateway, self.state, None)
        for _ in range(3000):
            if not self.client.lost:
                self.client.throttle(False)
                self._send(20)
            for origin in self.origins:
                origin.throttle(False)
                origin.work()
                if origin.deliver(origin.answer):
                    origin.answer = b""
            await asyncio.sleep(0.0005)
            is_over = not self.unsent or self.client.closing or self.connections.draining
            answered = len(_answers(bytes(self.client.written))[0])
            if is_over and not served.in_use() and (self.client.closing or answered == len(self.requests)):
                return
            protocol = cast(Any, self.client.protocol)
            if is_over and not served.in_use() and protocol._phase >= 4:
                # Lingering, or closed: nothing more is answered.
                return
        raise AssertionError(f"in use: {served.in_use()}, unsent: {len(self.unsent)}, phase {protocol._phase}")


def _config(**route: Any) -> dict[str, Any]:
    retry = {"attempts": 2, "backoff": "1ms", "methods": ["GET", "PUT"]}
    return proxying("http://127.0.0.1:9", upstream={"outlier": False}, **{"retry": retry, **route})


def _requests(kinds: list[int]) -> list[tuple[bytes, bytes]]:
    made = []
    for number, kind in enumerate(kinds):
        target = b"/%d" % number
        if kind == 0:
            made.append((request(target=target), target + b" "))
        elif kind == 1:
            made.append((request(target=target, fields=[(b"X-Other", b"1")]), target + b" "))
        elif kind == 2:
            made.append((request("PUT", target, body=BODY), target + b" " + BODY))
        else:
            head = request("PUT", target, [(b"Transfer-Encoding", b"chunked")])
            made.append((head + (b"5f\r\n%b\r\n" % BODY[:95]) * 4 + b"0\r\n\r\n", target + b" " + BODY))
    return made


_KINDS = ["send"] * 6 + ["answer"] * 6 + ["turn"] * 6 + ["slow client", "slow upstream", "reset", "end", "garbage"]
_ENDS = ["reload", "refuse", "leave", "half-close", "drain"]
_STEP = st.tuples(st.sampled_from([*_KINDS, *_ENDS]), st.integers(0, 40))


async def _run(kinds: list[int], steps: list[tuple[str, int]]) -> None:
    gateway = make_gateway(_config())
    async with gateway.lifespan():
        world = World(gateway, _requests(kinds))
        for kind, number in steps:
            await world.step(kind, number)
        await world.come_to_rest()
        answers, broken = _answers(bytes(world.client.written))
        assert len(answers) <= len(world.requests)
        assert not broken or world.client.closing
        for (status, body), (_, echo) in zip(answers, world.requests, strict=False):
            assert status >= 400 or (status, body) == (200, echo)
        targets = [exchange.target for exchange in world.exchanges]
        # In order, each once: a request begins when the one before it is answered.
        assert targets == [b"/%d" % number for number in range(len(targets))]
        assert len(answers) <= len(targets) <= len(answers) + 1
        assert not world.transport.active_count
        assert gateway.live.in_flight == 0
        assert gateway.runtime.in_flight.count == 0
        world.client.reset()


@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(st.integers(0, 3), min_size=1, max_size=6), steps=st.lists(_STEP, max_size=60))
def test_any_order_of_events_keeps_every_promise(kinds: list[int], steps: list[tuple[str, int]]) -> None:
    asyncio.run(_run(kinds, steps))


def _story(seed: int) -> tuple[list[int], list[tuple[str, int]]]:
    """Longer ones than are found by trying; those of odd seeds may end early."""
    rng = random.Random(seed)
    kinds = [*_KINDS, *_ENDS] if seed % 2 else _KINDS
    requests = [rng.choice([0, 0, 0, 1, 2, 3]) for _ in range(rng.randint(1, 8))]
    return requests, [(rng.choice(kinds), rng.randint(0, 40)) for _ in range(rng.randint(10, 150))]


@pytest.mark.parametrize("seed", range(100))
def test_any_story_keeps_every_promise(seed: int) -> None:
    asyncio.run(_run(*_story(seed)))


@pytest.mark.soak
def test_many_stories_keep_every_promise() -> None:
    for seed in range(100, 5000):
        try:
            asyncio.run(_run(*_story(seed)))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
