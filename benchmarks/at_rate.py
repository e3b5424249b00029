"""Load at a rate from a process of its own, and what came of it."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

from benchmarks.processes import LOAD_CORE, pinned


class Asked(NamedTuple):
    """What the requests met; times in microseconds, ``lag_us`` is the p99 of how late the load itself was."""

    requests: int
    errors: int
    p50_us: float
    p99_us: float
    p999_us: float
    lag_us: float


def command(url: str, connections: int, rate: float, seconds: float) -> list[str]:
    """What asks ``url`` so many times a second, on the core of the load."""
    arguments = map(str, (connections, rate, seconds))
    return pinned(LOAD_CORE, [sys.executable, "-m", "benchmarks.open_loop", url, *arguments])


def ask(url: str, connections: int, rate: float, seconds: float) -> Asked:
    """Ask, and wait for the end."""
    done = subprocess.run(command(url, connections, rate, seconds), stdout=subprocess.PIPE, text=True, check=True)
    requests, errors, *times = map(float, done.stdout.split())
    return Asked(round(requests), round(errors), *times)
