"""What thousands of clients that send a header byte a second mean for the others.

    python -m benchmarks.slow_clients
    python -m benchmarks.slow_clients --clients 5000 --rounds 8 --rate 1000

Slices of load at a rate, with the slow clients and without them, take turns on one gateway, so that a slow moment of
the machine meets both. The gateway has a core of its own; the clients, slow and others, and the upstream share the
other one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import nginx
from benchmarks.processes import LOAD_CORE, PEER_CORE, free_port, pinned, resident_mib, started

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000
TICK_S = 0.002
SETTLE_S = 1.0
CONNECTIONS = 16
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


class Asked(NamedTuple):
    """What the others saw in one slice; times in microseconds, ``lag_us`` how late the load itself was."""

    requests: int
    errors: int
    p50_us: float
    p99_us: float
    p999_us: float
    lag_us: float

    def __str__(self) -> str:
        return f"p50 {self.p50_us / 1000:6.2f}  p99 {self.p99_us / 1000:6.2f}  lag {self.lag_us / 1000:6.2f} ms"


def ask(url: str, rate: float, seconds: float) -> Asked:
    """Load at a rate on CONNECTIONS connections."""
    command = [*("-m", "benchmarks.open_loop", url), *map(str, (CONNECTIONS, rate, seconds))]
    done = subprocess.run(pinned(LOAD_CORE, [sys.executable, *command]), capture_output=True, text=True, check=True)
    requests, errors, *times = map(float, done.stdout.split())
    return Asked(round(requests), round(errors), *times)


def measure(count: int, rounds: int, seconds: float, rate: float) -> None:
    """Print each round, and the medians."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream, port = free_port(), free_port()
        origin = nginx.origin(upstream, folder, b'{"ok": true}')
        stack.enter_context(started(origin, upstream, core=LOAD_CORE, log=folder / "origin.log"))
        table = folder / "routes.toml"
        table.write_text(CONFIG.format(port=port, upstream=upstream))
        command = [sys.executable, "-m", "gateway", "run", str(table), "--no-reload"]
        gateway = stack.enter_context(started(command, port, core=PEER_CORE, log=folder / "gateway.log"))
        url = f"http://127.0.0.1:{port}/"
        ask(url, rate, 1.0)
        idle_mib = held_mib = resident_mib(gateway.pid)
        alone: list[Asked] = []
        beside: list[Asked] = []
        for number in range(rounds):
            # Nobody pays for thousands of connections that open or close at that moment.
            time.sleep(SETTLE_S)
            alone.append(ask(url, rate, seconds))
            with slow_clients(port, count):
                time.sleep(SETTLE_S)
                beside.append(ask(url, rate, seconds))
                held_mib = max(held_mib, resident_mib(gateway.pid))
            print(f"{number + 1:>3}  alone {alone[-1]}   beside {beside[-1]}", flush=True)
    errors = sum(one.errors for one in alone + beside)
    print(f"{count} slow clients, {rate:g} requests a second of others, {rounds} rounds, {errors} errors")
    for share in ("p50_us", "p99_us", "lag_us"):
        times = [[getattr(one, share) / 1000 for one in side] for side in (alone, beside)]
        medians = [statistics.median(side) for side in times]
        ratio = statistics.median(later / sooner for sooner, later in zip(*times, strict=True))
        # What other work on the machine does to a slice only adds to it.
        quiet = [statistics.quantiles(side, n=4)[0] for side in times]
        print(
            f"{share[:3]}  median {medians[0]:.2f} ms alone, {medians[1]:.2f} beside them; "
            f"median of the rounds' ratios {ratio:.2f}; quietest quarter {quiet[0]:.2f} and {quiet[1]:.2f} "
            f"({quiet[1] / quiet[0]:.2f})"
        )
    print(f"memory {idle_mib:.1f} MiB, {held_mib:.1f} with them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="of the others, a second")
    parser.add_argument("--hold", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.hold:
        asyncio.run(hold(options.hold, options.clients))
    else:
        measure(options.clients, options.rounds, options.seconds, options.rate)


if __name__ == "__main__":
    main()
