"""Contenders and the upstream behind them: processes, each on its core, that end with the block that wanted them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import nginx
from benchmarks.hello import BODY
from benchmarks.load import Load, Slice, run_slice
from benchmarks.peers import Peer
from benchmarks.processes import LOAD_CORE, PEER_CORE, cpu_seconds, free_port, resident_mib, started
from benchmarks.site import Certificate, Site


@dataclass(frozen=True)
class Contender:
    """A peer that runs."""

    site: Site
    pid: int

    def cpu_s(self) -> float:
        """What it has used so far."""
        return cpu_seconds(self.pid)

    def resident_mib(self) -> float:
        """What it holds at the moment."""
        return resident_mib(self.pid)

    def ask(self, load: Load, seconds: float) -> Slice:
        """One slice of load."""
        return run_slice(self.site.url, load, seconds, self.site.folder, self.cpu_s)


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A folder for the files of one run."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        # Workers of nginx and Varnish may run under another user than this process.
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def serving(kind: str, folder: Path, *arguments: object) -> Iterator[int]:
    """The port of an upstream: nginx, or the module of that name, which takes ``arguments``."""
    port = free_port()
    command = [sys.executable, "-m", f"benchmarks.{kind}", "serve", str(port), *map(str, arguments)]
    if kind == "nginx":
        command = nginx.origin(port, folder, BODY)
    with started(command, port, core=LOAD_CORE, log=folder / f"{kind}-{port}.log"):
        yield port


@contextlib.contextmanager
def running(peer: Peer, upstream: int, folder: Path, certificate: Certificate | None = None) -> Iterator[Contender]:
    """``peer`` in a fresh process, and before it what it needs beside it."""
    with contextlib.ExitStack() as stack:
        site = Site(free_port(), upstream, folder, certificate, beside=free_port() if peer.beside else 0)
        if peer.beside:
            log = folder / f"{site.beside}.log"
            stack.enter_context(started(peer.beside(site), site.beside, core=LOAD_CORE, log=log))
        log = folder / f"{site.port}.log"
        process = stack.enter_context(
            started(peer.command(site), site.port, core=PEER_CORE, log=log, env=peer.env(site))
        )
        yield Contender(site, process.pid)
