"""What thousands of clients that send a header byte a second mean for the others.

    python -m benchmarks.slow_clients
    python -m benchmarks.slow_clients --clients 5000 --rounds 8

Slices of load with the slow clients and without them take turns on one gateway, so that a slow moment of the machine
meets both. The gateway has a core of its own; the clients, slow and others, and the upstream share the other one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import nginx
from benchmarks.load import Load, Slice, run_slice
from benchmarks.processes import LOAD_CORE, PEER_CORE, cpu_seconds, free_port, pinned, resident_mib, started

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000
TICK_S = 0.002
CONFIG = """
[server]
bind = "127.0.0.1:{port}"
access_log = "off"
[server.limits]
header_timeout = "600s"
[[routes]]
path = "/*"
upstream = "http://127.0.0.1:{upstream}"
"""


async def hold(port: int, count: int) -> None:
    """Open ``count`` connections, say so, and send a byte a second on each, evenly spread, until stopped."""
    made: list[asyncio.StreamWriter] = []
    while len(made) < count:
        opened = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", port) for _ in range(min(100, count - len(made))))
        )
        made += [writer for _, writer in opened]
    print("open", flush=True)
    groups = round(1 / TICK_S)
    loop = asyncio.get_running_loop()
    due, position = loop.time(), 0
    while True:
        byte = HEAD[position // groups : position // groups + 1]
        for writer in made[position % groups :: groups]:
            writer.write(byte)
        position += 1
        due += TICK_S
        await asyncio.sleep(max(0.0, due - loop.time()))


@contextlib.contextmanager
def slow_clients(port: int, count: int) -> Iterator[None]:
    """``count`` of them, in a process of their own, for as long as the context lasts."""
    command = [sys.executable, "-m", "benchmarks.slow_clients", "--hold", str(port), "--clients", str(count)]
    process = subprocess.Popen(pinned(LOAD_CORE, command), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"open\n":
            raise RuntimeError("the slow clients could not connect")
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(count: int, rounds: int, seconds: float, connections: int) -> None:
    """Print each round, and the medians."""
    load = Load("/", connections=connections)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream, port = free_port(), free_port()
        origin = nginx.origin(upstream, folder, b'{"ok": true}')
        stack.enter_context(started(origin, upstream, core=LOAD_CORE, log=folder / "origin.log"))
        table = folder / "routes.toml"
        table.write_text(CONFIG.format(port=port, upstream=upstream))
        command = [sys.executable, "-m", "gateway", "run", str(table), "--no-reload"]
        gateway = stack.enter_context(started(command, port, core=PEER_CORE, log=folder / "gateway.log"))
        ask = functools.partial(
            run_slice, f"http://127.0.0.1:{port}", load, seconds, folder, lambda: cpu_seconds(gateway.pid)
        )
        ask()
        idle_mib = resident_mib(gateway.pid)
        held_mib = idle_mib
        alone: list[Slice] = []
        beside: list[Slice] = []
        for number in range(rounds):
            alone.append(ask())
            with slow_clients(port, count):
                beside.append(ask())
                held_mib = max(held_mib, resident_mib(gateway.pid))
            print(f"{number + 1:>3}  alone {_shown(alone[-1])}   beside {_shown(beside[-1])}", flush=True)
    errors = sum(one.errors for one in alone + beside)
    print(f"{count} slow clients, {connections} others, {rounds} rounds of {seconds:g} s, {errors} errors; medians:")
    for share in ("p50_us", "p99_us"):
        without, with_them = (statistics.median(getattr(one, share) for one in side) for side in (alone, beside))
        ratios = [getattr(b, share) / getattr(a, share) for a, b in zip(alone, beside, strict=True)]
        print(
            f"{share[:3]}  {without / 1000:.2f} ms alone, {with_them / 1000:.2f} ms beside them, "
            f"ratio by round {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    requests = [sum(one.requests for one in side) for side in (alone, beside)]
    print(
        f"requests {requests[1] / requests[0]:.2f} of those alone; memory {idle_mib:.1f} MiB, {held_mib:.1f} with them"
    )


def _shown(one: Slice) -> str:
    return f"{one.requests:>6} requests, p50 {one.p50_us / 1000:6.2f} ms, p99 {one.p99_us / 1000:6.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=16, help="of the others")
    parser.add_argument("--hold", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.hold:
        asyncio.run(hold(options.hold, options.clients))
    else:
        measure(options.clients, options.rounds, options.seconds, options.connections)


if __name__ == "__main__":
    main()
