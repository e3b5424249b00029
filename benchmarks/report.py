"""A run as text and as JSON, and two runs side by side."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Series
from benchmarks.scenarios import Scenario

Results = dict[str, dict[str, Series]]


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def table(name: str, scenario: Scenario, found: Mapping[str, Series]) -> str:
    """One scenario: medians, with the spread of the rounds."""
    load, unit = scenario.load, "msg" if scenario.load.frames else "req"
    lines = [
        f"{name}: {scenario.about}; {load.connections} connections",
        f"  {'':<34}{f'{unit}/CPU-s':>10}{'spread':>16}{'ratio':>7}{'spread':>13}"
        f"{'p50 ms':>8}{'p99 ms':>8}{'p99.9':>8}{'MiB':>7}{'errors':>8}",
    ]
    for peer, series in sorted(found.items(), key=lambda item: -statistics.median(item[1].per_cpu_second)):
        low, high = min(series.per_cpu_second), max(series.per_cpu_second)
        ratio, spread = "-", ""
        if series.ratio and peer != scenario.reference:
            ratio, spread = f"{statistics.median(series.ratio):.2f}", f"{min(series.ratio):.2f}-{max(series.ratio):.2f}"
        latencies = "".join(
            f"{statistics.median(values) / 1000:>8.2f}" for values in (series.p50_us, series.p99_us, series.p999_us)
        )
        lines.append(
            f"  {peer:<34}{statistics.median(series.per_cpu_second):>10.0f}{f'{low:.0f}-{high:.0f}':>16}{ratio:>7}"
            f"{spread:>13}{latencies}{series.resident_mib:>7.0f}{series.errors:>8}"
        )
    if scenario.reference in found:
        lines.append(f"  ratio: of {scenario.reference}, median of the rounds' ratios")
    return "\n".join(lines)


def write_json(path: Path, facts: Mapping[str, Any], scenarios: Mapping[str, Scenario], results: Results) -> None:
    """A run for ``--compare`` and for scripts."""
    found = {
        name: {
            "reference": scenarios[name].reference,
            "contenders": {peer: asdict(series) for peer, series in contenders.items()},
        }
        for name, contenders in results.items()
    }
    path.write_text(json.dumps({"machine": facts, "scenarios": found}, indent=1) + "\n")


def comparison(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How two runs differ: in ratios, which hold across machines and days, where there is a reference."""
    lines = [
        f"old: {_origin(old)}",
        f"new: {_origin(new)}",
        f"{'scenario':<10}{'contender':<34}{'old':>8}{'new':>8}{'change':>9}{'p99 ms':>16}{'MiB':>12}",
    ]
    for name, scenario in old["scenarios"].items():
        reference = scenario["reference"]
        others = new["scenarios"].get(name, {}).get("contenders", {})
        for peer, before in scenario["contenders"].items():
            after = others.get(peer)
            if after is None:
                continue
            has_ratio = bool(before["ratio"] and after["ratio"]) and peer != reference
            key = "ratio" if has_ratio else "per_cpu_second"
            a, b = statistics.median(before[key]), statistics.median(after[key])
            digits = 2 if has_ratio else 0
            mark = "" if _overlap(before[key], after[key]) else " *"
            p99 = " > ".join(f"{statistics.median(run['p99_us']) / 1000:.1f}" for run in (before, after))
            memory = f"{before['resident_mib']:.0f} > {after['resident_mib']:.0f}"
            change = f"{(b / a - 1) * 100:+.1f}%"
            lines.append(f"{name:<10}{peer:<34}{a:>8.{digits}f}{b:>8.{digits}f}{change:>9}{p99:>16}{memory:>12}{mark}")
    lines.append(
        "ratios to the scenario's reference, where there is one; *: the middle halves of the rounds do not overlap"
    )
    return "\n".join(lines)


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    (low, high), (other_low, other_high) = _middle_half(first), _middle_half(second)
    return low <= other_high and other_low <= high


def _middle_half(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return quartiles[0], quartiles[2]


def _origin(run: Mapping[str, Any]) -> str:
    facts = run["machine"]
    return f"{facts['time']}, {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}"
