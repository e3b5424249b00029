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
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import nginx
from benchmarks.hello import BODY
from benchmarks.load import Load, run_slice
from benchmarks.peers import caddy_file, gateway_table, one_core, run_caddy, run_gateway
from benchmarks.processes import LOAD_CORE, PEER_CORE, cpu_seconds, free_port, pinned, started
from benchmarks.progress import Progress
from benchmarks.report import machine
from benchmarks.site import Site

SHARE = 0.7
CONNECTIONS = 64
IDLE_CONNECTIONS = 1000
SLOW_S = 2.0
SLOW_REQUESTS = 100


@dataclass(frozen=True)
class Contender:
    """A running proxy, and how it is made to load a changed configuration."""

    site: Site
    pid: int
    reload: Callable[[int], None]


@dataclass(frozen=True)
class Disturbed:
    """One round: latencies in microseconds; ``cpu_share`` of one core; ``lag_us`` is how late the load itself was."""

    rate: float
    requests: int
    errors: int
    cpu_share: float
    p50_us: float
    p99_us: float
    p999_us: float
    lag_us: float


@contextlib.contextmanager
def gateway(site: Site, slow: int) -> Iterator[Contender]:
    """The gateway; SIGHUP makes it read its file again."""

    def table(version: int) -> str:
        text = gateway_table(site, route_keys=f"request_headers = {{ set = {{ X-Version = '{version}' }} }}")
        route = '[[routes]]\nname = "slow"\npath = "/slow"\nupstream = "slow"\n'
        return f'{text}{route}[upstreams.slow]\nendpoints = ["http://127.0.0.1:{slow}"]\n'

    command = run_gateway(site, table(0))
    path = Path(next(part for part in command if part.endswith(".toml")))
    with started(command, site.port, core=PEER_CORE, log=site.folder / "gateway.log") as process:

        def reload(version: int) -> None:
            path.write_text(table(version))
            process.send_signal(signal.SIGHUP)

        yield Contender(site, process.pid, reload)


@contextlib.contextmanager
def caddy(site: Site, slow: int) -> Iterator[Contender]:
    """Caddy; its administration takes a new file."""
    admin = free_port()

    def text(version: int) -> str:
        routes = f"header X-Version {version}\n  reverse_proxy /slow 127.0.0.1:{slow}"
        return caddy_file(site, routes).replace("admin off", f"admin 127.0.0.1:{admin}")

    def reload(version: int) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{admin}/load", text(version).encode())
        request.add_header("Content-Type", "text/caddyfile")
        urllib.request.urlopen(request, timeout=10).close()

    command = run_caddy(site, text(0))
    with started(command, site.port, core=PEER_CORE, log=site.folder / "caddy.log", env=one_core(site)) as process:
        yield Contender(site, process.pid, reload)


CONTENDERS = {"gateway": gateway, "caddy": caddy}


@contextlib.contextmanager
def steady(contender: Contender) -> Iterator[None]:
    """Nothing else happens."""
    yield


_versions = itertools.count(1)


@contextlib.contextmanager
def reloading(contender: Contender) -> Iterator[None]:
    """A changed configuration every second."""
    over = threading.Event()

    def reload() -> None:
        while not over.wait(1.0):
            contender.reload(next(_versions))

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def beside_idle(contender: Contender) -> Iterator[None]:
    """Clients that have asked once and keep their connections."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", contender.site.port)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            client.recv(65536)
        yield


@contextlib.contextmanager
def beside_slow(contender: Contender) -> Iterator[None]:
    """Requests that wait for another upstream all the time."""
    command = open_loop(f"{contender.site.url}/slow", SLOW_REQUESTS, SLOW_REQUESTS / SLOW_S, 3600)
    with subprocess.Popen(pinned(LOAD_CORE, command), stdout=subprocess.DEVNULL) as process:
        try:
            # Until as many are waiting as there can be.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SLOW_S)
            yield
        finally:
            process.kill()


SCENARIOS = {"steady": steady, "reload": reloading, "idle": beside_idle, "slow": beside_slow}


def open_loop(url: str, connections: int, rate: float, seconds: float) -> list[str]:
    """The command that asks ``url`` at ``rate``."""
    return [sys.executable, "-m", "benchmarks.open_loop", url, str(connections), str(rate), str(seconds)]


def capacity(contender: Contender) -> float:
    """Requests in a second of the contender's CPU, when it is asked for all it can do."""
    site, used_s = contender.site, partial(cpu_seconds, contender.pid)
    slices = [run_slice(site.url, Load("/", CONNECTIONS), 1, site.folder, used_s) for _ in range(4)]
    return statistics.median(one.per_cpu_second for one in slices[1:])


def run_round(contender: Contender, rate: float, seconds: float) -> Disturbed:
    """Ask at ``rate``."""
    before_s = cpu_seconds(contender.pid)
    command = open_loop(f"{contender.site.url}/", CONNECTIONS, rate, seconds)
    done = subprocess.run(pinned(LOAD_CORE, command), stdout=subprocess.PIPE, text=True, check=True)
    requests, errors, *percentiles = map(float, done.stdout.split())
    share = (cpu_seconds(contender.pid) - before_s) / seconds
    return Disturbed(rate, round(requests), round(errors), share, *percentiles)


def report(scenario: str, found: dict[str, list[Disturbed]]) -> str:
    """The figures as text: medians of the rounds, in milliseconds."""
    columns = ("p50_us", "p99_us", "p999_us", "lag_us")
    lines = [
        f"{scenario:<10}{'rate/s':>8}{'core':>6}{'p50':>9}{'p99':>9}{'p99.9':>9}{'lag':>9}{'p99 from-to':>16}  errors"
    ]
    for name, rounds in found.items():
        times = "".join(f"{statistics.median(getattr(one, key) for one in rounds) / 1000:>9.2f}" for key in columns)
        p99_ms = [one.p99_us / 1000 for one in rounds]
        core = statistics.median(one.cpu_share for one in rounds)
        spread = f"{min(p99_ms):.1f}-{max(p99_ms):.1f}"
        errors = sum(one.errors for one in rounds)
        lines.append(f"  {name:<8}{rounds[0].rate:>8.0f}{core:>6.0%}{times}{spread:>16}{errors:>8}")
    return "\n".join(lines)


def measure(
    names: Sequence[str], rounds: int, seconds: float, rate: float | None
) -> dict[str, dict[str, list[Disturbed]]]:
    """Every scenario for every contender that is installed."""
    results: dict[str, dict[str, list[Disturbed]]] = {}
    progress = Progress((len(names) * rounds * (seconds + 2) + 5) * 2)
    with tempfile.TemporaryDirectory(prefix="gateway-tail-") as folder_name, contextlib.ExitStack() as stack:
        folder = Path(folder_name)
        folder.chmod(0o755)
        origin, slow = free_port(), free_port()
        upstream = nginx.origin(origin, folder, BODY)
        stack.enter_context(started(upstream, origin, core=LOAD_CORE, log=folder / "origin.log"))
        command = [sys.executable, "-m", "benchmarks.slow", str(slow), str(SLOW_S)]
        stack.enter_context(started(command, slow, core=LOAD_CORE, log=folder / "slow.log"))
        running: dict[str, Contender] = {}
        rates: dict[str, float] = {}
        for name, start in CONTENDERS.items():
            try:
                running[name] = stack.enter_context(start(Site(free_port(), origin, folder), slow))
            except FileNotFoundError:
                continue
            progress.scenario = "capacity"
            progress.show(name)
            rates[name] = rate or SHARE * capacity(running[name])
        for scenario in names:
            progress.scenario = scenario
            found: dict[str, list[Disturbed]] = {name: [] for name in running}
            for number in range(1, rounds + 1):
                for name, contender in running.items():
                    progress.show(f"round {number} of {rounds}: {name}")
                    with SCENARIOS[scenario](contender):
                        found[name].append(run_round(contender, rates[name], seconds))
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
            scenario: {name: [vars(one) for one in rounds] for name, rounds in contenders.items()}
            for scenario, contenders in results.items()
        }
        options.json.write_text(json.dumps({"machine": machine(), "scenarios": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
