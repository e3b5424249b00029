"""How long the slowest requests take, at 70 % of what the contender can do, undisturbed and disturbed.

    python -m benchmarks.tail
    python -m benchmarks.tail steady reload --rounds 5 --rate 5000 --json tail.json

    steady   nothing else happens
    reload   a changed configuration is loaded every second
    idle     1,000 clients have connections open and ask nothing
    slow     100 requests are always waiting for an upstream that takes 2 s, beside the fast one

Each contender is first asked for all it can do; then come rounds at that share of it, contenders in turn. Latency runs
from the moment a request is due; lag is the p99 of how late the load itself was, which nobody but the machine is to
blame for: figures that are not far above it say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import at_rate
from benchmarks.at_rate import Asked
from benchmarks.contenders import Contender, running, serving, workspace
from benchmarks.load import Load
from benchmarks.peers import PEERS, Peer, caddy_file, gateway_table, run_caddy, run_gateway
from benchmarks.processes import free_port
from benchmarks.progress import Progress
from benchmarks.report import machine
from benchmarks.site import Site

SHARE = 0.7
CONNECTIONS = 64
IDLE_CONNECTIONS = 1000
SLOW_S = 2.0
SLOW_REQUESTS = 100


@dataclass(frozen=True)
class Proxy:
    """A running proxy, and how it is made to load a changed configuration."""

    contender: Contender
    reload: Callable[[int], None]


@dataclass(frozen=True)
class Disturbed:
    """One round: what was asked for, what the requests met, and the share of one core that the proxy used."""

    rate: float
    cpu_share: float
    asked: Asked


@contextlib.contextmanager
def gateway(upstream: int, slow: int, folder: Path) -> Iterator[Proxy]:
    """The gateway; SIGHUP makes it read its file again."""

    def table(site: Site, version: int) -> str:
        text = gateway_table(site, route_keys=f"request_headers = {{ set = {{ X-Version = '{version}' }} }}")
        route = '[[routes]]\nname = "slow"\npath = "/slow"\nupstream = "slow"\n'
        return f'{text}{route}[upstreams.slow]\nendpoints = ["http://127.0.0.1:{slow}"]\n'

    def reload(version: int) -> None:
        run_gateway(contender.site, table(contender.site, version))
        os.kill(contender.pid, signal.SIGHUP)

    with running(Peer("gateway", lambda site: run_gateway(site, table(site, 0))), upstream, folder) as contender:
        yield Proxy(contender, reload)


@contextlib.contextmanager
def caddy(upstream: int, slow: int, folder: Path) -> Iterator[Proxy]:
    """Caddy; its administration takes a new file."""
    admin = free_port()

    def text(site: Site, version: int) -> str:
        routes = f"header X-Version {version}\n  reverse_proxy /slow 127.0.0.1:{slow}"
        return caddy_file(site, routes).replace("admin off", f"admin 127.0.0.1:{admin}")

    def reload(version: int) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{admin}/load", text(contender.site, version).encode())
        request.add_header("Content-Type", "text/caddyfile")
        urllib.request.urlopen(request, timeout=10).close()

    with running(
        replace(PEERS["caddy"], command=lambda site: run_caddy(site, text(site, 0))), upstream, folder
    ) as contender:
        yield Proxy(contender, reload)


CONTENDERS = {"gateway": gateway, "caddy": caddy}


@contextlib.contextmanager
def steady(proxy: Proxy) -> Iterator[None]:
    """Nothing else happens."""
    yield


_versions = itertools.count(1)


@contextlib.contextmanager
def reloading(proxy: Proxy) -> Iterator[None]:
    """A changed configuration every second."""
    over = threading.Event()

    def reload() -> None:
        while not over.wait(1.0):
            proxy.reload(next(_versions))

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def beside_idle(proxy: Proxy) -> Iterator[None]:
    """Clients that have asked once and keep their connections."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.contender.site.port)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            client.recv(65536)
        yield


@contextlib.contextmanager
def beside_slow(proxy: Proxy) -> Iterator[None]:
    """Requests that wait for another upstream all the time."""
    command = at_rate.command(f"{proxy.contender.site.url}/slow", SLOW_REQUESTS, SLOW_REQUESTS / SLOW_S, 3600)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            # Until as many are waiting as there can be.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SLOW_S)
            yield
        finally:
            process.kill()


SCENARIOS = {"steady": steady, "reload": reloading, "idle": beside_idle, "slow": beside_slow}


def capacity(contender: Contender) -> float:
    """Requests in a second of the contender's CPU, when it is asked for all it can do."""
    slices = [contender.ask(Load("/", CONNECTIONS), 1) for _ in range(4)]
    return statistics.median(one.per_cpu_second for one in slices[1:])


def run_round(contender: Contender, rate: float, seconds: float) -> Disturbed:
    """Ask at ``rate``."""
    before_s = contender.cpu_s()
    asked = at_rate.ask(f"{contender.site.url}/", CONNECTIONS, rate, seconds)
    return Disturbed(rate, (contender.cpu_s() - before_s) / seconds, asked)


def report(scenario: str, found: dict[str, list[Disturbed]]) -> str:
    """The figures as text: medians of the rounds, in milliseconds."""
    columns = ("p50_us", "p99_us", "p999_us", "lag_us")
    lines = [
        f"{scenario:<10}{'rate/s':>8}{'core':>6}{'p50':>9}{'p99':>9}{'p99.9':>9}{'lag':>9}{'p99 from-to':>16}  errors"
    ]
    for name, rounds in found.items():
        asked = [one.asked for one in rounds]
        times = "".join(f"{statistics.median(getattr(one, key) for one in asked) / 1000:>9.2f}" for key in columns)
        p99_ms = [one.p99_us / 1000 for one in asked]
        core = statistics.median(one.cpu_share for one in rounds)
        spread = f"{min(p99_ms):.1f}-{max(p99_ms):.1f}"
        errors = sum(one.errors for one in asked)
        lines.append(f"  {name:<8}{rounds[0].rate:>8.0f}{core:>6.0%}{times}{spread:>16}{errors:>8}")
    return "\n".join(lines)


def measure(
    names: Sequence[str], rounds: int, seconds: float, rate: float | None
) -> dict[str, dict[str, list[Disturbed]]]:
    """Every scenario for every contender that is installed."""
    results: dict[str, dict[str, list[Disturbed]]] = {}
    progress = Progress((len(names) * rounds * (seconds + 2) + 5) * 2)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workspace())
        upstream = stack.enter_context(serving("nginx", folder))
        slow = stack.enter_context(serving("slow", folder, SLOW_S))
        proxies: dict[str, Proxy] = {}
        rates: dict[str, float] = {}
        for name, start in CONTENDERS.items():
            if not PEERS[name].is_installed:
                continue
            proxies[name] = stack.enter_context(start(upstream, slow, folder))
            progress.scenario = "capacity"
            progress.show(name)
            rates[name] = rate or SHARE * capacity(proxies[name].contender)
        for scenario in names:
            progress.scenario = scenario
            found: dict[str, list[Disturbed]] = {name: [] for name in proxies}
            for number in range(1, rounds + 1):
                for name, proxy in proxies.items():
                    progress.show(f"round {number} of {rounds}: {name}")
                    with SCENARIOS[scenario](proxy):
                        found[name].append(run_round(proxy.contender, rates[name], seconds))
            progress.clear()
            print(report(scenario, found), flush=True)
            results[scenario] = found
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rate", type=float, help="requests a second for every contender, instead of 70 %%")
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    names = options.scenarios or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"no scenario named {name}; there are {', '.join(SCENARIOS)}")
    results = measure(names, options.rounds, options.seconds, options.rate)
    if options.json:
        found = {
            scenario: {
                name: [{"rate": one.rate, "cpu_share": one.cpu_share, **one.asked._asdict()} for one in rounds]
                for name, rounds in contenders.items()
            }
            for scenario, contenders in results.items()
        }
        options.json.write_text(json.dumps({"machine": machine(), "scenarios": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
