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
import time
from collections.abc import Iterator

from benchmarks.at_rate import Asked, ask
from benchmarks.contenders import running, serving, workspace
from benchmarks.peers import Peer, run_gateway
from benchmarks.processes import LOAD_CORE, pinned

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
PATIENT = Peer("gateway", lambda site: run_gateway(site, CONFIG.format(port=site.port, upstream=site.upstream)))


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


def shown(asked: Asked) -> str:
    """One slice as text."""
    times = {"p50": asked.p50_us, "p99": asked.p99_us, "lag": asked.lag_us}
    return "  ".join(f"{name} {us / 1000:6.2f}" for name, us in times.items()) + " ms"


def measure(count: int, rounds: int, seconds: float, rate: float) -> None:
    """Print each round, and the medians."""
    with (
        workspace() as folder,
        serving("nginx", folder) as upstream,
        running(PATIENT, upstream, folder) as gateway,
    ):
        url = f"{gateway.site.url}/"
        ask(url, CONNECTIONS, rate, 1.0)
        idle_mib = held_mib = gateway.resident_mib()
        alone: list[Asked] = []
        beside: list[Asked] = []
        for number in range(rounds):
            # Nobody pays for thousands of connections that open or close at that moment.
            time.sleep(SETTLE_S)
            alone.append(ask(url, CONNECTIONS, rate, seconds))
            with slow_clients(gateway.site.port, count):
                time.sleep(SETTLE_S)
                beside.append(ask(url, CONNECTIONS, rate, seconds))
                held_mib = max(held_mib, gateway.resident_mib())
            print(f"{number + 1:>3}  alone {shown(alone[-1])}   beside {shown(beside[-1])}", flush=True)
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
