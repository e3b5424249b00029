"""How long the commands take to start, with warm caches.

    python -m benchmarks.start [CONFIG] [--rounds 15]

``gateway run`` until it has answered a request, ``gateway check`` until it has ended; wall clock, and CPU of the
process. Beside them what an interpreter and uvicorn's hello-world take.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import cpu_seconds, free_port

START_TIMEOUT_S = 15.0

Measured = tuple[float, float]
"""Seconds on the clock, and of CPU."""


def ended(command: list[str]) -> Measured:
    """Until the command has ended."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, used_s


def answered(command: Callable[[int], list[str]]) -> Measured:
    """Until a server, started by ``command`` on a port, has answered a request."""
    port = free_port()
    began = time.perf_counter()
    with subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while time.perf_counter() - began < START_TIMEOUT_S:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    if client.recv(65536):
                        return time.perf_counter() - began, cpu_seconds(process.pid)
                time.sleep(0.001)
            raise RuntimeError(f"no answer within {START_TIMEOUT_S:g} s")
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="routes.toml", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    python, config = sys.executable, str(options.config)
    run = [python, "-m", "gateway", "run", config, "--no-reload"]
    hello = [python, "-m", "uvicorn", "benchmarks.hello:app", "--loop", "uvloop"]
    commands: dict[str, Callable[[], Measured]] = {
        "python -c pass": lambda: ended([python, "-c", "pass"]),
        "gateway check": lambda: ended([python, "-m", "gateway", "check", config]),
        "gateway run": lambda: answered(lambda port: [*run, "--bind", f"127.0.0.1:{port}"]),
        "uvicorn hello-world": lambda: answered(lambda port: [*hello, "--port", str(port)]),
    }
    found: dict[str, list[Measured]] = {name: [] for name in commands}
    # The first round warms the caches.
    for number in range(options.rounds + 1):
        for name, measure in commands.items():
            measured = measure()
            if number:
                found[name].append(measured)
    print(f"{'':<22}{'ms':>7}{'from-to':>12}{'CPU ms':>9}")
    for name, values in found.items():
        wall, cpu = ([1000 * value for value in column] for column in zip(*values, strict=True))
        spread = f"{min(wall):.0f}-{max(wall):.0f}"
        print(f"{name:<22}{statistics.median(wall):>7.0f}{spread:>12}{statistics.median(cpu):>9.0f}")


if __name__ == "__main__":
    main()
