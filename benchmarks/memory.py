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
import time
from collections.abc import Sequence

from benchmarks.contenders import Contender, running, serving, workspace
from benchmarks.load import Load
from benchmarks.nginx import KIB
from benchmarks.peers import PEERS
from benchmarks.progress import Progress

CONTENDERS = ("gateway", "gateway under stock uvicorn", "uvicorn hello-world", "caddy", "haproxy", "nginx")
FOR_EVER_S = 3600
SETTLE_S = 0.5

MIX = (
    Load("/"),
    Load("/varied/", varied=True),
    Load("/cached"),
    Load("/files/64k", connections=16),
    Load("/files/page.json", 16, ("Accept-Encoding: gzip",)),
    Load("/upload", connections=16, upload_bytes=64 * KIB),
    Load("/", cold=True),
)


def ask(port: int, target: str) -> socket.socket:
    """A connection on which one request has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return connection


def each_kib(contender: Contender, target: str, count: int, *, answered: bool) -> float:
    """What resident memory grows by for each of ``count`` connections that ask for ``target``, in KiB."""
    before = contender.resident_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(ask(contender.site.port, target))
            if answered:
                connection.recv(65536)
        time.sleep(SETTLE_S)
        return (contender.resident_mib() - before) * 1024 / count


def compare(names: Sequence[str], connections: int) -> None:
    """Print base, idle and in flight for every contender that is installed."""
    print(f"{'':<28}{'base MiB':>10}{'idle KiB':>10}{'in flight KiB':>15}   of {connections} each")
    with workspace() as folder, serving("slow", folder, FOR_EVER_S) as upstream:
        for name in names:
            if not PEERS[name].is_installed:
                continue
            found = []
            # Each figure from a fresh process: what one test has left free the next one would fill.
            for target, answered in (("/", True), ("/slow", False)):
                with running(PEERS[name], upstream, folder) as contender:
                    with ask(contender.site.port, "/") as connection:
                        connection.recv(65536)
                    time.sleep(SETTLE_S)
                    base = contender.resident_mib()
                    found.append(each_kib(contender, target, connections, answered=answered))
            in_flight = "-" if name == "uvicorn hello-world" else f"{found[1]:.1f}"
            print(f"  {name:<26}{base:>10.1f}{found[0]:>10.1f}{in_flight:>15}", flush=True)


def soak(requests: int) -> None:
    """Print how the gateway's memory goes while it serves ``requests`` of the mix."""
    with (
        workspace() as folder,
        serving("nginx", folder) as upstream,
        running(PEERS["gateway, cache"], upstream, folder) as contender,
    ):
        print(f"{'requests':>10}{'errors':>8}{'MiB':>8}\n{0:>10}{0:>8}{contender.resident_mib():>8.1f}", flush=True)
        done = errors = shown = 0
        progress = Progress(requests / 7000)
        progress.scenario = "mix"
        while done < requests:
            for load in MIX:
                progress.show(f"{done:,} of {requests:,} requests")
                measured = contender.ask(load, 1)
                done, errors = done + measured.requests, errors + measured.errors
            if done - shown >= requests / 10 or done >= requests:
                shown = done
                progress.clear()
                print(f"{done:>10}{errors:>8}{contender.resident_mib():>8.1f}", flush=True)


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
