"""One scenario, asked of every contender in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.contenders import Contender, running, serving, workspace
from benchmarks.load import Slice
from benchmarks.peers import PEERS, Peer
from benchmarks.progress import Progress
from benchmarks.scenarios import Scenario
from benchmarks.site import make_certificate

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


def measure(
    scenario: Scenario, rounds: int, seconds: float, only: Collection[str], progress: Progress
) -> dict[str, Series]:
    """Run one scenario for every contender that is installed, and in ``only`` unless that is empty."""
    wanted = [PEERS[name] for name in scenario.peers if not only or name in only or name == scenario.reference]
    with contending(scenario, [peer for peer in wanted if peer.is_installed]) as contenders:
        found = {name: Series() for name in contenders}
        for name, contender in contenders.items():
            progress.show(f"{name} warms up")
            _warm_up(name, contender, scenario)
        for number in range(1, rounds + 1):
            for name, contender in contenders.items():
                progress.show(f"round {number} of {rounds}: {name}")
                found[name].add(contender.ask(scenario.load, seconds))
                found[name].resident_mib = max(found[name].resident_mib, contender.resident_mib())
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
        if contender.ask(scenario.load, WARM_UP_S).requests:
            return
    raise RuntimeError(f"{name} does not answer")


@contextlib.contextmanager
def contending(scenario: Scenario, peers: Iterable[Peer]) -> Iterator[dict[str, Contender]]:
    """The upstream and every peer, each a process of its own; those that nobody asks anything sleep."""
    with workspace() as folder, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(serving(scenario.upstream, folder))
        certificate = make_certificate(folder) if scenario.tls else None
        yield {peer.name: stack.enter_context(running(peer, upstream, folder, certificate)) for peer in peers}
