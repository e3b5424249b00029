"""What coding answers costs: MB of body per CPU-second and the ratio of every coding and level, beside nginx's gzip.

    python -m benchmarks.coding
    python -m benchmarks.coding --rounds 5 --body json --json out.json

MB are those of the body before it is coded; the rest of what a proxy does is in the figures, and alone in those of "as
it is".
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import nginx
from benchmarks.bodies import html_body, json_body
from benchmarks.contenders import Contender, running, serving, workspace
from benchmarks.load import Load
from benchmarks.peers import Peer, gateway_table, run_gateway
from benchmarks.report import machine
from benchmarks.site import Site
from gateway.http.coding import CODINGS

LEVELS = ("fast", "balanced", "best")
NGINX_LEVELS = (1, 6, 9)
CONNECTIONS = 8
PLAIN = "/plain"

BODIES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "json": ("catalogue.json", json_body),
    "html": ("article.html", html_body),
}


@dataclass
class Series:
    """What one way gave for one body: MB a CPU-second of each round, and the ratio."""

    mb_per_cpu_second: list[float] = field(default_factory=list)
    ratio: float = 0.0


@dataclass(frozen=True)
class Way:
    """One way of coding: below which prefix of whom it is to be had, and for which Accept-Encoding."""

    contender: Contender
    prefix: str = PLAIN
    coding: str = ""

    @property
    def accept(self) -> str:
        return self.coding or "identity"


def _gateway(site: Site) -> list[str]:
    prefixes = {PLAIN: "false"}
    for coding in CODINGS:
        prefixes |= {f"/{coding}/{level}": f'{{ codings = ["{coding}"], level = "{level}" }}' for level in LEVELS}
    routes = "".join(
        f'[[routes]]\npath = "{prefix}/*"\nstrip_prefix = "{prefix}"\nupstream = "origin"\ncompress = {compress}\n'
        for prefix, compress in prefixes.items()
    )
    return run_gateway(site, gateway_table(site) + routes)


def _nginx(site: Site) -> list[str]:
    forward = 'proxy_pass http://origin/; proxy_http_version 1.1; proxy_set_header Connection "";'
    levels = "".join(
        f"location /gzip/{level}/ {{ {forward} gzip on; gzip_comp_level {level}; gzip_proxied any;"
        " gzip_types application/json; }\n"
        for level in NGINX_LEVELS
    )
    return nginx.run(site, f"{levels} location {PLAIN}/ {{ {forward} }}")


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[dict[str, Way]]:
    """Every way, by its name, in front of one upstream that has the bodies as files."""
    with (
        serving("nginx", folder) as upstream,
        running(Peer("gateway", _gateway), upstream, folder) as gateway,
        running(Peer("nginx", _nginx), upstream, folder) as peer,
    ):
        for name, make in BODIES.values():
            (folder / "files" / name).write_bytes(make())
        yield {
            "gateway as it is": Way(gateway),
            **{
                f"gateway {coding} {level}": Way(gateway, f"/{coding}/{level}", coding)
                for coding in CODINGS
                for level in LEVELS
            },
            "nginx as it is": Way(peer),
            **{f"nginx gzip {level}": Way(peer, f"/gzip/{level}", "gzip") for level in NGINX_LEVELS},
        }


def coded_size(way: Way, path: str) -> int:
    """Length of one answer's body; raises when it is not coded as it should be."""
    connection = http.client.HTTPConnection("127.0.0.1", way.contender.site.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", way.prefix + path, headers={"Accept-Encoding": way.accept})
        answer = connection.getresponse()
        coding = answer.getheader("Content-Encoding", "")
        if answer.status != 200 or coding != way.coding:
            raise RuntimeError(f"{way.prefix}{path} was answered with {answer.status}, coded as {coding!r}")
        return len(answer.read())


def measure(body: str, rounds: int, seconds: float) -> dict[str, Series]:
    """One body in every way, in turn."""
    name, make = BODIES[body]
    path, size = f"/files/{name}", len(make())
    with workspace() as folder, ways(folder) as running:
        found = {name: Series(ratio=size / coded_size(way, path)) for name, way in running.items()}
        for _ in range(rounds):
            for name, way in running.items():
                load = Load(way.prefix + path, CONNECTIONS, (f"Accept-Encoding: {way.accept}",))
                measured = way.contender.ask(load, seconds)
                found[name].mb_per_cpu_second.append(measured.per_cpu_second * size / 1e6)
    return found


def table(body: str, found: Mapping[str, Series]) -> str:
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
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, Series]] = {}
    for body in options.body or list(BODIES):
        results[body] = measure(body, options.rounds, options.seconds)
        print(table(body, results[body]), flush=True)
    if options.json:
        figures = {body: {name: vars(series) for name, series in found.items()} for body, found in results.items()}
        options.json.write_text(json.dumps({"machine": machine(), "bodies": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
