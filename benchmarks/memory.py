"""Resident memory: at rest, for an idle connection, for a request in flight, and over very many requests.

    python -m benchmarks.memory                          the first three, of the gateway and its peers
    python -m benchmarks.memory --requests 1000000       the last, of the gateway

A connection is idle after its first answer. A request in flight waits for the upstream's answer on a connection of its
own, so it includes what that costs. The mix of the long run goes through routing, cache, compression, files, uploads
and connections that last for one request; what counts is that memory stops growing once all of it has been met.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import nginx
from benchmarks.hello import BODY
from benchmarks.load import Load, run_slice
from benchmarks.peers import PEERS, Peer
from benchmarks.processes import LOAD_CORE, PEER_CORE, cpu_seconds, free_port, resident_mib, started
from benchmarks.progress import Progress
from benchmarks.site import Site

CONTENDERS = ("gateway", "gateway under stock uvicorn", "uvicorn hello-world", "caddy", "haproxy", "nginx")
FOR_EVER_S = 3600
SETTLE_S = 0.5

MIX = (
    Load("/"),
    Load("/varied/", varied=True),
    Load("/cached"),
    Load("/files/64k", connections=16),
    Load("/files/page.json", 16, ("Accept-Encoding: gzip",)),
    Load("/upload", connections=16, upload_bytes=64 * nginx.KIB),
    Load("/", cold=True),
)


@contextlib.contextmanager
def running(peer: Peer, upstream: int, folder: Path) -> Iterator[tuple[Site, int]]:
    """A fresh process of ``peer``; where it serves, and its id."""
    site = Site(free_port(), upstream, folder)
    log = folder / f"{site.port}.log"
    with started(peer.command(site), site.port, core=PEER_CORE, log=log, env=peer.env(site)) as process:
        yield site, process.pid


def ask(port: int, target: str) -> socket.socket:
    """A connection on which one request has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return connection


def each_kib(pid: int, port: int, target: str, count: int, *, answered: bool) -> float:
    """What resident memory grows by for each of ``count`` connections that ask for ``target``, in KiB."""
    before = resident_mib(pid)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(ask(port, target))
            if answered:
                connection.recv(65536)
        time.sleep(SETTLE_S)
        return (resident_mib(pid) - before) * 1024 / count


def compare(names: Sequence[str], connections: int) -> None:
    """Print base, idle and in flight for every contender that is installed."""
    print(f"{'':<28}{'base MiB':>10}{'idle KiB':>10}{'in flight KiB':>15}   of {connections} each")
    with tempfile.TemporaryDirectory(prefix="gateway-memory-") as folder_name, contextlib.ExitStack() as stack:
        folder = Path(folder_name)
        folder.chmod(0o755)
        upstream = free_port()
        command = [sys.executable, "-m", "benchmarks.slow", str(upstream), str(FOR_EVER_S)]
        stack.enter_context(started(command, upstream, core=LOAD_CORE, log=folder / "upstream.log"))
        for name in names:
            if not PEERS[name].is_installed:
                continue
            found = []
            # Each figure from a fresh process: what one test has left free the next one would fill.
            for target, answered in (("/", True), ("/slow", False)):
                with running(PEERS[name], upstream, folder) as (site, pid):
                    with ask(site.port, "/") as connection:
                        connection.recv(65536)
                    time.sleep(SETTLE_S)
                    base = resident_mib(pid)
                    found.append(each_kib(pid, site.port, target, connections, answered=answered))
            in_flight = "-" if name == "uvicorn hello-world" else f"{found[1]:.1f}"
            print(f"  {name:<26}{base:>10.1f}{found[0]:>10.1f}{in_flight:>15}", flush=True)


def soak(requests: int) -> None:
    """Print how the gateway's memory goes while it serves ``requests`` of the mix."""
    with tempfile.TemporaryDirectory(prefix="gateway-memory-") as folder_name, contextlib.ExitStack() as stack:
        folder = Path(folder_name)
        folder.chmod(0o755)
        origin = free_port()
        command = nginx.origin(origin, folder, BODY)
        stack.enter_context(started(command, origin, core=LOAD_CORE, log=folder / "origin.log"))
        site, pid = stack.enter_context(running(PEERS["gateway, cache"], origin, folder))
        print(f"{'requests':>10}{'errors':>8}{'MiB':>8}\n{0:>10}{0:>8}{resident_mib(pid):>8.1f}", flush=True)
        done = errors = shown = 0
        progress = Progress(requests / 7000)
        progress.scenario = "mix"
        while done < requests:
            for load in MIX:
                progress.show(f"{done:,} of {requests:,} requests")
                slice_ = run_slice(site.url, load, 1, folder, partial(cpu_seconds, pid))
                done, errors = done + slice_.requests, errors + slice_.errors
            if done - shown >= requests / 10 or done >= requests:
                shown = done
                progress.clear()
                print(f"{done:>10}{errors:>8}{resident_mib(pid):>8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CONTENDERS, metavar="PEER", help=", ".join(CONTENDERS))
    parser.add_argument("--connections", type=int, default=1000, help="idle ones, and requests in flight")
    parser.add_argument("--requests", type=int, default=0, help="how many in the long run")
    options = parser.parse_args()
    if options.requests:
        soak(options.requests)
    else:
        compare(options.only or CONTENDERS, options.connections)


if __name__ == "__main__":
    main()
