"""One scenario, asked of every contender in turn."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import nginx
from benchmarks.hello import BODY
from benchmarks.load import Slice, run_slice
from benchmarks.peers import PEERS, Peer
from benchmarks.processes import LOAD_CORE, PEER_CORE, cpu_seconds, free_port, resident_mib, started
from benchmarks.progress import Progress
from benchmarks.scenarios import Scenario
from benchmarks.site import Site, make_certificate

WARM_UP_S = 1.0
WARM_UPS = 20


@dataclass
class Series:
    """What one contender gave in one scenario, a value for each round."""

    per_cpu_second: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    """Against the reference in the same round."""
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    p999_us: list[float] = field(default_factory=list)
    requests: int = 0
    errors: int = 0
    resident_mib: float = 0.0
    """The most after any round."""

    def add(self, measured: Slice) -> None:
        """Take one slice."""
        self.per_cpu_second.append(measured.per_cpu_second)
        self.p50_us.append(measured.p50_us)
        self.p99_us.append(measured.p99_us)
        self.p999_us.append(measured.p999_us)
        self.requests += measured.requests
        self.errors += measured.errors


@dataclass(frozen=True)
class Contender:
    """A peer that runs."""

    site: Site
    pid: int


def measure(
    scenario: Scenario, rounds: int, seconds: float, only: Collection[str], progress: Progress
) -> dict[str, Series]:
    """Run one scenario for every contender that is installed, and in ``only`` unless that is empty."""
    wanted = [PEERS[name] for name in scenario.peers if not only or name in only or name == scenario.reference]
    with contending(scenario, [peer for peer in wanted if peer.is_installed]) as running:
        found = {name: Series() for name in running}
        for name, contender in running.items():
            progress.show(f"{name} warms up")
            _warm_up(name, contender, scenario)
        for number in range(1, rounds + 1):
            for name, contender in running.items():
                progress.show(f"round {number} of {rounds}: {name}")
                found[name].add(_slice(contender, scenario, seconds))
                found[name].resident_mib = max(found[name].resident_mib, resident_mib(contender.pid))
    progress.clear()
    reference = found.get(scenario.reference)
    for series in found.values():
        if reference is not None:
            pairs = zip(series.per_cpu_second, reference.per_cpu_second, strict=True)
            series.ratio = [mine / max(theirs, 1e-9) for mine, theirs in pairs]
    return found


def _warm_up(name: str, contender: Contender, scenario: Scenario) -> None:
    # The port may be open long before somebody answers on it: a large table takes seconds.
    for _ in range(WARM_UPS):
        if _slice(contender, scenario, WARM_UP_S).requests:
            return
    raise RuntimeError(f"{name} does not answer")


def _slice(contender: Contender, scenario: Scenario, seconds: float) -> Slice:
    site = contender.site
    return run_slice(site.url, scenario.load, seconds, site.folder, partial(cpu_seconds, contender.pid))


@contextlib.contextmanager
def contending(scenario: Scenario, peers: Collection[Peer]) -> Iterator[dict[str, Contender]]:
    """The upstream and every peer, each a process of its own; those that nobody asks anything sleep."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        # Workers of nginx and Varnish may run under another user than this process.
        folder.chmod(0o755)
        origin = free_port()
        command = nginx.origin(origin, folder, BODY)
        if scenario.upstream != "nginx":
            command = [sys.executable, "-m", f"benchmarks.{scenario.upstream}", "serve", str(origin)]
        stack.enter_context(started(command, origin, core=LOAD_CORE, log=folder / "origin.log"))
        certificate = make_certificate(folder) if scenario.tls else None
        running: dict[str, Contender] = {}
        for peer in peers:
            site = Site(free_port(), origin, folder, certificate)
            process = stack.enter_context(
                started(
                    peer.command(site),
                    site.port,
                    core=PEER_CORE,
                    log=folder / f"{site.port}.log",
                    env=peer.env(site),
                )
            )
            running[peer.name] = Contender(site, process.pid)
        yield running
