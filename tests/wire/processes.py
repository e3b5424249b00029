"""Real processes for the long proofs: a gateway and servers behind it, on ports of their own."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.ports import port_of_its_own

ROOT = Path(__file__).resolve().parents[2]
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


class Process:
    """A process that can be killed and started again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Run it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal and wait."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def rss_bytes(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096


@contextlib.contextmanager
def gateway_process(config: str, folder: Path) -> Iterator[tuple[Process, int]]:
    """``gateway run`` on this configuration, which binds port 0; the process and its port."""
    path = folder / "routes.toml"
    path.write_text(config)
    process = Process([sys.executable, "-m", "gateway", "run", str(path), "--no-reload"], folder / "gateway.log")
    process.start()
    try:
        yield process, int(_wait_for(process, _LISTENING)[1])
    finally:
        process.kill(signal.SIGTERM)


@contextlib.contextmanager
def origin_process(name: str, folder: Path) -> Iterator[tuple[Process, int]]:
    """A server of ``tests.wire.origin``; it keeps its port when it is started again."""
    port = port_of_its_own()
    process = Process([sys.executable, "-m", "tests.wire.origin", name, str(port)], folder / f"{name}.log")
    process.start()
    try:
        wait_until_open(port)
        yield process, port
    finally:
        process.kill()


def wait_until_open(port: int) -> None:
    """Until somebody listens there."""
    for _ in range(3000):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"nobody listens on port {port}")


def _wait_for(process: Process, pattern: re.Pattern[str]) -> re.Match[str]:
    for _ in range(3000):
        if (found := pattern.search(process.output)) is not None:
            return found
        time.sleep(0.01)
    raise AssertionError(process.output)
