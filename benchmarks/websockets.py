"""WebSocket messages per CPU-second: an echo of 100 bytes through the gateway, as bytes and as messages, and its peers.

    python -m benchmarks.websockets                      1 and 8 messages outstanding on each of 32 connections
    python -m benchmarks.websockets --outstanding 1 --rounds 9 --json out.json

One count is a message there and its echo back. Every contender runs alone on one core, load and upstream on the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.peers import PEERS, Peer, gateway_table, nginx_conf
from benchmarks.processes import cpu_seconds, free_port, pinned, started
from gateway.http.websocket import accept_value

PEER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32
PAYLOAD = b"x" * 100
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

# With a mask of zeros the echo of a frame is a constant, too: load and upstream do as little as they can.
CLIENT_FRAME = bytes([0x82, 0x80 | len(PAYLOAD)]) + bytes(4) + PAYLOAD
SERVER_FRAME = bytes([0x82, len(PAYLOAD)]) + PAYLOAD


class MessageView:
    """Middleware that wants to see messages: a route with it relays them instead of bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, lambda: receive(), send)


class Stream(asyncio.Protocol):
    """A handshake, then frames of one length."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._rest = 0
        self._head: bytes | None = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = None if found else head
            if not found:
                return
            self.on_head(head)
        count, self._rest = divmod(self._rest + len(data), self._frame_bytes)
        if count:
            self.on_frames(count)

    def on_head(self, head: bytes) -> None:
        raise NotImplementedError

    def on_frames(self, count: int) -> None:
        raise NotImplementedError


class Origin(Stream):
    """Answers each frame with one."""

    def __init__(self) -> None:
        super().__init__(len(CLIENT_FRAME))

    def on_head(self, head: bytes) -> None:
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        assert fields[b"upgrade"] == b"websocket"
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(key)
        )

    def on_frames(self, count: int) -> None:
        self.transport.write(SERVER_FRAME * count)


class Caller(Stream):
    """Keeps ``outstanding`` frames on their way."""

    def __init__(self, outstanding: int) -> None:
        super().__init__(len(SERVER_FRAME))
        self.count = 0
        self.failed = False
        self._outstanding = outstanding

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % KEY
        )

    def on_head(self, head: bytes) -> None:
        self.failed = not head.startswith(b"HTTP/1.1 101")
        self.transport.write(CLIENT_FRAME * self._outstanding)

    def on_frames(self, count: int) -> None:
        self.count += count
        self.transport.write(CLIENT_FRAME * count)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = True


async def serve_origin(port: int) -> None:
    """Echo until told to stop."""
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port)
    await server.serve_forever()


async def call(port: int, outstanding: int, seconds: float) -> tuple[int, int]:
    """Echoes and failed connections in ``seconds``, after a short while of warming up."""
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(outstanding), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(0.2)
    print("go", flush=True)
    sys.stdin.readline()
    before = sum(caller.count for caller in callers)
    await asyncio.sleep(seconds)
    done = sum(caller.count for caller in callers) - before
    failed = sum(caller.failed for caller in callers)
    for caller in callers:
        caller.transport.abort()
    return done, failed


def measure_slice(port: int, pid: int, outstanding: int, seconds: float) -> float:
    """Echoes per CPU-second of the process ``pid`` that serves on ``port``."""
    command = [sys.executable, "-m", "benchmarks.websockets", "call", str(port), str(outstanding), str(seconds)]
    with subprocess.Popen(
        pinned(LOAD_CORE, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        before = cpu_seconds(pid)
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        used_s = cpu_seconds(pid) - before
    done, failed = map(int, answer)
    if failed:
        raise RuntimeError(f"{failed} of {CONNECTIONS} connections failed")
    return done / max(used_s, 0.01)


def _gateway(name: str, extra: str) -> Peer:
    def command(port: int, upstream: int, folder: Path) -> list[str]:
        path = folder / f"{name}.toml"
        path.write_text(gateway_table(port, upstream) + extra)
        return [sys.executable, "-m", "gateway", "run", str(path), "--no-reload"]

    return Peer(name, command)


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    locations = f"""
      location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_set_header Host $host;
                    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }}
    """
    path = folder / "websockets.conf"
    path.write_text(nginx_conf(port, locations))
    return ["nginx", "-p", str(folder), "-c", str(path)]


CONTENDERS = (
    _gateway("gateway", ""),
    _gateway("gateway, relay", 'middleware = ["benchmarks.websockets:MessageView"]\n'),
    Peer("nginx", _nginx, installed=PEERS["nginx"].installed),
    PEERS["haproxy"],
    PEERS["caddy"],
)
REFERENCE = "caddy"


def measure(outstanding: int, rounds: int, seconds: float, only: set[str]) -> dict[str, list[float]]:
    """Echoes per CPU-second of every contender that is installed, a value for each round."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        origin = free_port()
        command = [sys.executable, "-m", "benchmarks.websockets", "origin", str(origin)]
        stack.enter_context(started(command, origin, core=LOAD_CORE, log=folder / "origin.log"))
        running: dict[str, tuple[int, int]] = {}
        for peer in CONTENDERS:
            if not peer.installed() or (only and peer.name not in only and peer.name != REFERENCE):
                continue
            port = free_port()
            log = folder / f"{peer.name}.log"
            process = stack.enter_context(
                started(peer.command(port, origin, folder), port, core=PEER_CORE, log=log, env=peer.env(origin))
            )
            running[peer.name] = (port, process.pid)
        found: dict[str, list[float]] = {peer_name: [] for peer_name in running}
        for _ in range(rounds):
            for peer_name, (port, pid) in running.items():
                found[peer_name].append(measure_slice(port, pid, outstanding, seconds))
    return found


def table(outstanding: int, found: dict[str, list[float]]) -> str:
    """The figures as text: medians, with the spread of the rounds and the median of their ratios."""
    lines = [f"{outstanding} outstanding, {CONNECTIONS} connections, {len(PAYLOAD)} bytes"]
    lines.append(f"  {'':<20}{'echoes/CPU-s':>13}{'spread':>18}{'ratio':>7}")
    reference = found.get(REFERENCE)
    for name, values in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        ratio = "-"
        if reference is not None:
            ratio = f"{statistics.median(mine / theirs for mine, theirs in zip(values, reference, strict=True)):.2f}"
        spread = f"{min(values):.0f}-{max(values):.0f}"
        lines.append(f"  {name:<20}{statistics.median(values):>13.0f}{spread:>18}{ratio:>7}")
    return "\n".join(lines)


def _run(main: Callable[[], None]) -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    main()


def main() -> None:
    if sys.argv[1:2] == ["origin"]:
        _run(lambda: asyncio.run(serve_origin(int(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["call"]:
        port, outstanding, seconds = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
        _run(lambda: print(*asyncio.run(call(port, outstanding, seconds)), flush=True))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outstanding", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a slice")
    parser.add_argument("--only", action="append", default=[], metavar="PEER")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[int, dict[str, list[float]]] = {}
    for outstanding in options.outstanding or [1, 8]:
        results[outstanding] = measure(outstanding, options.rounds, options.seconds, set(options.only))
        print(table(outstanding, results[outstanding]), flush=True)
    if options.json:
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        Path(options.json).write_text(json.dumps({"time": began, "outstanding": results}, indent=1))


if __name__ == "__main__":
    main()
