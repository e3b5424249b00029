"""Requests per CPU-second of the gateway and its peers, in turn, in short slices.

    python -m benchmarks                         the small GET
    python -m benchmarks small hit --rounds 9    named scenarios, more rounds
    python -m benchmarks --all --json out.json
    python -m benchmarks --compare old.json new.json

Every contender runs alone on one core, load and upstream on the other. Within a round each is asked for one slice, so
the machine's drift hits all alike; ratios compare slices of the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.hello import BODY
from benchmarks.load import Slice, run_slice
from benchmarks.peers import PEERS, nginx_origin, redis
from benchmarks.processes import cpu_seconds, free_port, resident_mib, started
from benchmarks.scenarios import SCENARIOS, Scenario

PEER_CORE, LOAD_CORE = 0, 1


@dataclass
class Series:
    """What one contender gave in one scenario, a value for each round."""

    per_cpu_second: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    p999_us: list[float] = field(default_factory=list)
    errors: int = 0
    resident_mib: float = 0.0

    def add(self, measured: Slice, cpu_s: float) -> None:
        """Take one slice."""
        self.per_cpu_second.append(measured.requests / max(cpu_s, 0.01))
        self.p50_us.append(measured.p50_us)
        self.p99_us.append(measured.p99_us)
        self.p999_us.append(measured.p999_us)
        self.errors += measured.errors


def measure(scenario: Scenario, rounds: int, seconds: float, only: set[str]) -> dict[str, Series]:
    """Run one scenario for every contender that is installed."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        # Its workers may run under another user than this process.
        folder.chmod(0o755)
        origin = free_port()
        stack.enter_context(
            started(nginx_origin(origin, folder, BODY), origin, core=LOAD_CORE, log=folder / "origin.log")
        )
        running: dict[str, tuple[str, int]] = {}
        for peer_name in scenario.peers:
            peer = PEERS[peer_name]
            if not peer.installed() or (only and peer_name not in only and peer_name != scenario.reference):
                continue
            port = free_port()
            env = {**peer.env(origin), "GATEWAY_CONFIG": str(folder / "mounted.toml")}
            if peer.store:
                env["BENCH_REDIS"] = str(store := free_port())
                stack.enter_context(started(redis(store, folder), store, core=LOAD_CORE, log=folder / "redis.log"))
            log = folder / f"{peer_name.replace(' ', '-').replace(',', '')}.log"
            command = peer.command(port, origin, folder)
            process = stack.enter_context(started(command, port, core=PEER_CORE, log=log, env=env))
            running[peer_name] = (f"http://127.0.0.1:{port}", process.pid)
            run_slice(running[peer_name][0], scenario.load, 1, folder, LOAD_CORE)
        found = {peer_name: Series() for peer_name in running}
        for number in range(rounds):
            for peer_name, (base, pid) in running.items():
                before = cpu_seconds(pid)
                measured = run_slice(base, scenario.load, seconds, folder, LOAD_CORE)
                found[peer_name].add(measured, cpu_seconds(pid) - before)
                found[peer_name].resident_mib = resident_mib(pid)
            print(f"\r  round {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    reference = found.get(scenario.reference)
    for series in found.values():
        if reference is not None:
            pairs = zip(series.per_cpu_second, reference.per_cpu_second, strict=True)
            series.ratio = [mine / max(theirs, 1e-9) for mine, theirs in pairs]
    return found


def table(scenario_name: str, scenario: Scenario, found: dict[str, Series]) -> str:
    """The figures as text: medians, with the spread of the rounds."""
    lines = [
        f"{scenario_name}: {scenario.load.path}, {scenario.load.connections} connections",
        f"  {'':<28}{'req/CPU-s':>10}{'spread':>16}{'ratio':>7}"
        f"{'p50 ms':>8}{'p99 ms':>8}{'p99.9':>8}{'MiB':>7}{'errors':>8}",
    ]
    for name, series in sorted(found.items(), key=lambda item: -statistics.median(item[1].per_cpu_second)):
        low, high = min(series.per_cpu_second), max(series.per_cpu_second)
        ratio = f"{statistics.median(series.ratio):.2f}" if series.ratio else "-"
        latencies = "".join(
            f"{statistics.median(values) / 1000:>8.2f}" for values in (series.p50_us, series.p99_us, series.p999_us)
        )
        lines.append(
            f"  {name:<28}{statistics.median(series.per_cpu_second):>10.0f}{f'{low:.0f}-{high:.0f}':>16}{ratio:>7}"
            f"{latencies}{series.resident_mib:>7.0f}{series.errors:>8}"
        )
    return "\n".join([*lines, f"  ratio: against {scenario.reference}, median of the rounds' ratios"])


def compare(old_path: str, new_path: str) -> None:
    """How the ratios of two runs differ."""
    old, new = (json.loads(Path(path).read_text())["scenarios"] for path in (old_path, new_path))
    print(f"{'scenario':<10}{'contender':<30}{'old ratio':>10}{'new ratio':>10}{'change':>9}")
    for scenario in old:
        for name in old[scenario]:
            after = new.get(scenario, {}).get(name)
            if after and after["ratio"] and old[scenario][name]["ratio"]:
                a, b = statistics.median(old[scenario][name]["ratio"]), statistics.median(after["ratio"])
                print(f"{scenario:<10}{name:<30}{a:>10.2f}{b:>10.2f}{(b / a - 1) * 100:>+8.1f}%")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = ""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text()
        model = next(
            (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), ""
        )
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0], "system": platform.platform()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--all", action="store_true", help="every scenario")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PEER", help="only this contender and the reference"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"))
    options = parser.parse_args()
    if options.compare:
        compare(*options.compare)
        return
    names = list(SCENARIOS) if options.all else options.scenarios or ["small"]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario named {unknown[0]}; there are {', '.join(SCENARIOS)}")
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {facts['system']}")
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        found = measure(SCENARIOS[name], options.rounds, options.seconds, set(options.only))
        print(table(name, SCENARIOS[name], found), flush=True)
        results[name] = {peer: asdict(series) for peer, series in found.items()}
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": facts, "scenarios": results}, indent=1))


if __name__ == "__main__":
    main()
