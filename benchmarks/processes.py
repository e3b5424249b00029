"""Processes under measurement: started pinned to one core, their CPU time read from the kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PEER_CORE, LOAD_CORE = 0, 1
"""Contenders run on the one, load and upstream on the other."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 15.0


def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """``command`` kept on one core where the machine can do that."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *command] if taskset and (os.cpu_count() or 1) > core else list(command)


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, *, core: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server on ``port``, ready to answer; ended with everything it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(core, command),
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            _wait_until_listening(process, port, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(
                f"{process.args!r} does not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and its descendants have used."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * page
    return total / 2**20
