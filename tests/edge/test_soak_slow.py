"""Thousands of clients that send a header byte a second cost memory and nothing else, and are cut in time."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.edge.process import ROOT, Process, gateway_process

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(300)]

WANTED = 5000
HEADER_TIMEOUT_S = 15.0
MARGIN_S = 10.0
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000
CONFIG = f"""
[server]
bind = "127.0.0.1:0"
access_log = "off"
[server.limits]
header_timeout = "{HEADER_TIMEOUT_S:g}s"
[[routes]]
path = "/"
respond = {{ body = "ok" }}
"""


class Slow(asyncio.Protocol):
    """A client that sends a byte now and then, and notes how it ends."""

    def __init__(self, ended: asyncio.Event) -> None:
        self.transport: asyncio.Transport
        self.opened = time.monotonic()
        self.closed = 0.0
        self.received = b""
        self._sent = 0
        self._ended = ended

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = time.monotonic()
        self._ended.set()

    def send_byte(self) -> None:
        if not self.closed and not self.transport.is_closing():
            self.transport.write(HEAD[self._sent : self._sent + 1])
            self._sent += 1


def clients_possible() -> int:
    """As many as files may be open here, with some left for the rest; the gateway raises its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard - 300)


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


async def steady(gateway: Process, seconds: float) -> dict[str, float]:
    """What a well-behaved client sees, from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.edge.steady", str(gateway.port), str(seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found: dict[str, float] = json.loads(output)
    return found


async def test_slow_clients_are_cut_while_others_are_served(tmp_path: Path, capsys: Any) -> None:
    count = clients_possible()
    async with gateway_process(tmp_path, CONFIG) as gateway:
        quiet = await steady(gateway, 5)
        idle_mib = resident_mib(gateway.pid)
        ended = asyncio.Event()
        clients: list[Slow] = []
        loop = asyncio.get_running_loop()
        for start in range(0, count, 100):
            made = [loop.create_connection(lambda: Slow(ended), "127.0.0.1", gateway.port) for _ in range(100)]
            clients += [protocol for _, protocol in await asyncio.gather(*made[: count - start])]
            for unused in made[count - start :]:
                unused.close()
        sending = asyncio.create_task(send_bytes(clients))
        busy = await steady(gateway, 6)
        held_mib = resident_mib(gateway.pid)
        still_open = sum(not client.closed for client in clients)
        async with asyncio.timeout(HEADER_TIMEOUT_S + MARGIN_S):
            while not all(client.closed for client in clients):
                ended.clear()
                await ended.wait()
        sending.cancel()
        after = await steady(gateway, 1)
        lives = sorted(client.closed - client.opened for client in clients)
        with capsys.disabled():
            print(
                f"\n{count} slow clients, {still_open} of them open while others were measured\n"
                f"alone  {quiet}\nbeside {busy}\n"
                f"memory {idle_mib:.1f} MiB idle, {held_mib:.1f} MiB with them: "
                f"{(held_mib - idle_mib) * 1024 / count:.1f} KiB each\n"
                f"cut after {lives[0]:.1f} to {lives[-1]:.1f} s, header_timeout {HEADER_TIMEOUT_S:g} s"
            )
    assert quiet["failures"] == busy["failures"] == after["failures"] == 0
    assert busy["count"] > 100
    assert all(client.received.startswith(b"HTTP/1.1 408 ") for client in clients)
    assert lives[-1] < HEADER_TIMEOUT_S + MARGIN_S


async def send_bytes(clients: list[Slow]) -> None:
    """A byte a second from each, spread over the second."""
    groups = [clients[start::100] for start in range(100)]
    due = asyncio.get_running_loop().time()
    while True:
        for group in groups:
            for client in group:
                client.send_byte()
            due += 0.01
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
