"""What coding answers costs: MB of body per CPU-second and the ratio of every coding and level, beside nginx's gzip.

    python -m benchmarks.coding
    python -m benchmarks.coding --rounds 5 --body json --json out.json

Every contender runs alone on one core, load and upstream on the other. MB are those of the body before it is coded; the
rest of what a proxy does is in the figures, and alone in those of "as it is".
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bodies import html_body, json_body
from benchmarks.load import Load, run_slice
from benchmarks.peers import nginx_conf, nginx_origin
from benchmarks.processes import cpu_seconds, free_port, started
from gateway.http.coding import CODINGS

PEER_CORE, LOAD_CORE = 0, 1
LEVELS = ("fast", "balanced", "best")
NGINX_LEVELS = (1, 6, 9)
CONNECTIONS = 8
PLAIN = "as it is"

BODIES = {"json": ("page.json", json_body), "html": ("page.html", html_body)}


@dataclass
class Series:
    """What one contender gave for one body: MB a CPU-second of each round, and the ratio."""

    mb_per_cpu_second: list[float] = field(default_factory=list)
    ratio: float = 0.0


@dataclass(frozen=True)
class Contender:
    """Where one way of coding is to be had, and for which Accept-Encoding."""

    name: str
    port: int
    pid: int
    prefix: str
    coding: str


def _gateway_table(port: int, origin: int) -> str:
    routes = [("/plain", "false")]
    for coding in CODINGS:
        routes += [(f"/{coding}/{level}", f'{{ codings = ["{coding}"], level = "{level}" }}') for level in LEVELS]
    tables = "".join(
        f'[[routes]]\npath = "{prefix}/*"\nstrip_prefix = "{prefix}"\nupstream = "origin"\ncompress = {compress}\n'
        for prefix, compress in routes
    )
    return f"""
[server]
bind = "127.0.0.1:{port}"
access_log = "off"
[upstreams.origin]
endpoints = ["http://127.0.0.1:{origin}"]
{tables}"""


def _nginx_conf(port: int, origin: int) -> str:
    forward = 'proxy_pass http://origin/; proxy_http_version 1.1; proxy_set_header Connection "";'
    levels = "".join(
        f"location /gzip/{level}/ {{ {forward} gzip on; gzip_comp_level {level}; gzip_proxied any;"
        " gzip_types application/json; }\n"
        for level in NGINX_LEVELS
    )
    upstream = f"upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}"
    return nginx_conf(port, f"{levels} location /plain/ {{ {forward} }}", upstream)


@contextlib.contextmanager
def contenders(folder: Path) -> Iterator[list[Contender]]:
    """The gateway and nginx, running in front of one upstream that has the bodies as files."""
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        origin, port = free_port(), free_port()
        command = nginx_origin(origin, folder, b"")
        for name, make in BODIES.values():
            (folder / "files" / name).write_bytes(make())
        conf = folder / "origin.conf"
        conf.write_text(conf.read_text().replace("json json;", "json json; text/html html;"))
        stack.enter_context(started(command, origin, core=LOAD_CORE, log=folder / "origin.log"))
        table = folder / "coding.toml"
        table.write_text(_gateway_table(port, origin))
        gateway = [sys.executable, "-m", "gateway", "run", str(table), "--no-reload"]
        process = stack.enter_context(started(gateway, port, core=PEER_CORE, log=folder / "gateway.log"))
        found = [Contender(f"gateway {PLAIN}", port, process.pid, "/plain", "")]
        found += [
            Contender(f"gateway {coding} {level}", port, process.pid, f"/{coding}/{level}", coding)
            for coding in CODINGS
            for level in LEVELS
        ]
        port = free_port()
        conf = folder / "coding.conf"
        conf.write_text(_nginx_conf(port, origin))
        nginx = ["nginx", "-p", str(folder), "-c", str(conf)]
        process = stack.enter_context(started(nginx, port, core=PEER_CORE, log=folder / "nginx.log"))
        found.append(Contender(f"nginx {PLAIN}", port, process.pid, "/plain", ""))
        found += [
            Contender(f"nginx gzip {level}", port, process.pid, f"/gzip/{level}", "gzip") for level in NGINX_LEVELS
        ]
        yield found


def coded_size(contender: Contender, path: str) -> int:
    """Length of one answer's body; raises when it is not coded as it should be."""
    connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", contender.prefix + path, headers={"Accept-Encoding": contender.coding or "identity"})
        answer = connection.getresponse()
        coding = answer.getheader("Content-Encoding", "")
        if answer.status != 200 or coding != contender.coding:
            raise RuntimeError(f"{contender.name} answered {answer.status} in {coding!r}")
        return len(answer.read())


def measure(body: str, rounds: int, seconds: float) -> dict[str, Series]:
    """One body through every contender, in turn."""
    name, make = BODIES[body]
    path, size = f"/files/{name}", len(make())
    found: dict[str, Series] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as temporary:
        folder = Path(temporary)
        with contenders(folder) as running:
            for contender in running:
                found[contender.name] = Series(ratio=size / coded_size(contender, path))
            for _ in range(rounds):
                for contender in running:
                    headers = (f"Accept-Encoding: {contender.coding or 'identity'}",)
                    load = Load(contender.prefix + path, CONNECTIONS, headers)
                    before = cpu_seconds(contender.pid)
                    measured = run_slice(f"http://127.0.0.1:{contender.port}", load, seconds, folder, LOAD_CORE)
                    cpu_s = max(cpu_seconds(contender.pid) - before, 0.01)
                    found[contender.name].mb_per_cpu_second.append(measured.requests * size / 1e6 / cpu_s)
    return found


def table(body: str, found: dict[str, Series]) -> str:
    """The figures as text: medians, with the spread of the rounds."""
    size = len(BODIES[body][1]())
    lines = [
        f"{body}, {size / 1024:.0f} KiB, {CONNECTIONS} connections",
        f"  {'':<24}{'MB/CPU-s':>9}{'spread':>14}{'ratio':>7}",
    ]
    for name, series in found.items():
        values = series.mb_per_cpu_second
        spread = f"{min(values):.0f}-{max(values):.0f}"
        lines.append(f"  {name:<24}{statistics.median(values):>9.0f}{spread:>14}{series.ratio:>7.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", action="append", choices=sorted(BODIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, dict[str, Series]] = {}
    for body in options.body or list(BODIES):
        results[body] = measure(body, options.rounds, options.seconds)
        print(table(body, results[body]), flush=True)
    if options.json:
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        figures = {body: {name: vars(series) for name, series in found.items()} for body, found in results.items()}
        Path(options.json).write_text(json.dumps({"time": began, "bodies": figures}, indent=1))


if __name__ == "__main__":
    main()
