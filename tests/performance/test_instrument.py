"""The instrument itself: what it makes of the figures, and that it asks what it says."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import tomllib
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from benchmarks.hello import BODY
from benchmarks.hello import app as hello
from benchmarks.in_process import least_us, request_us, scope
from benchmarks.latency import percentile, percentiles
from benchmarks.load import Load, Slice, request_bytes
from benchmarks.measure import Series
from benchmarks.open_loop import Load as OpenLoad
from benchmarks.peers import PEERS
from benchmarks.report import comparison, table
from benchmarks.scenarios import SCENARIOS
from benchmarks.site import Site
from gateway.app import Gateway
from tests.performance.peers import answer, read_answer, serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"


def series(*per_cpu_second: float, ratio: tuple[float, ...] = ()) -> Series:
    found = Series(ratio=list(ratio), resident_mib=10.0)
    for value in per_cpu_second:
        found.add(Slice(requests=round(value), errors=0, cpu_s=1.0, p50_us=1000.0, p99_us=2000.0, p999_us=3000.0))
    return found


def run(contenders: dict[str, Series]) -> dict[str, object]:
    facts = {"time": "now", "cpu": "one", "cores": 2, "python": "3"}
    found = {"reference": "caddy", "contenders": {name: vars(one) for name, one in contenders.items()}}
    return {"machine": facts, "scenarios": {"small": found}}


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([7], 0.99, 7), ([1, 2, 3, 4], 0.5, 3), (list(range(100)), 0.99, 99)],
)
def test_percentiles_of_few_and_of_many(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_percentiles_take_values_in_any_order() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == (2.0, 3.0, 3.0)


def test_requests_per_cpu_second_are_those_of_the_time_that_was_used() -> None:
    assert Slice(100, 0, 0.5, 0.0, 0.0, 0.0).per_cpu_second == 200


def test_the_table_has_the_fastest_first_and_the_median_of_the_ratios() -> None:
    found = {"caddy": series(10, 20, 30, ratio=(1, 1, 1)), "gateway": series(40, 50, 60, ratio=(4, 2.5, 2))}
    lines = table("small", SCENARIOS["small"], found).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["gateway", "caddy"]
    assert lines[2].split() == ["gateway", "50", "40-60", "2.50", "2.00-4.00", "1.00", "2.00", "3.00", "10", "0"]


def test_a_change_beyond_the_spread_is_marked() -> None:
    old = run({"gateway": series(10, 11, 12, ratio=(1.0, 1.1, 1.2)), "caddy": series(10, 10, 10, ratio=(1, 1, 1))})
    same = run({"gateway": series(10, 11, 12, ratio=(1.1, 1.2, 1.3)), "caddy": series(9, 10, 11, ratio=(1, 1, 1))})
    faster = run({"gateway": series(20, 21, 22, ratio=(2.0, 2.1, 2.2)), "caddy": series(9, 10, 11, ratio=(1, 1, 1))})
    assert not comparison(old, same).splitlines()[3].endswith("*")
    marked = comparison(old, faster).splitlines()[3]
    assert marked.split()[2:5] == ["1.10", "2.10", "+90.9%"] and marked.endswith("*")


def test_every_scenario_asks_contenders_that_exist() -> None:
    for name, scenario in SCENARIOS.items():
        assert set(scenario.peers) <= set(PEERS) and scenario.reference in scenario.peers, name


def test_the_request_of_a_load_has_its_fields_and_its_body() -> None:
    assert request_bytes("http://127.0.0.1:1", Load("/a", headers=("Accept: */*",), upload_bytes=3, cold=True)) == (
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: */*\r\nContent-Length: 3\r\nConnection: close\r\n\r\nxxx"
    )


def test_the_bodies_of_the_small_requests_are_what_nginx_can_return() -> None:
    assert b"'" not in BODY and b"$" not in BODY


def closing(connection: socket.socket) -> None:
    """Answer one request, and close when the next one comes."""
    read_answer(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    connection.recv(1)


@pytest.mark.parametrize("serve", [answer, closing])
def test_what_is_due_is_asked_until_it_is_answered(serve: object) -> None:
    with serving(serve) as url:  # type: ignore[arg-type]
        load = OpenLoad(f"{url}/a")
        asyncio.run(load.run(connections=2, rate=500, seconds=0.1))
    assert load.errors == 0
    assert len(load.latencies_us) > 10


def documented(pattern: str) -> set[str]:
    return set(re.findall(pattern, DOCUMENT.read_text()))


def test_every_command_of_the_document_exists() -> None:
    assert {"access", "balancing", "cache", "coding"} <= documented(r"python -m benchmarks\.(\w+)")
    for name in documented(r"python -m benchmarks\.(\w+)"):
        assert importlib.util.find_spec(f"benchmarks.{name}"), name
    words = {word for bench in documented(r'BENCH="(\w[^"-]*)') for word in bench.split()}
    assert {"small", "hit", "echo8"} <= words <= set(SCENARIOS)
    assert documented(r'--only "([^"]+)"') <= set(PEERS)


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("gateway") and "10,000" not in name])
def test_the_tables_of_the_gateways_say_what_their_names_do(name: str, tmp_path: Path) -> None:
    peer = PEERS[name]
    site = Site(1, 2, tmp_path, beside=3 if peer.beside else 0)
    file = peer.env(site).get("GATEWAY_CONFIG") or peer.command(site)[-2]
    table = tomllib.loads(Path(file).read_text())
    Gateway.from_config(table)
    (route,) = table["routes"]
    assert route["cache"] == ("cache" in name)
    assert ("max_concurrent" in route) == ("guarded" in name)
    assert ("cache" in table) == ("Redis" in name)


def test_what_is_measured_in_process_is_asked_with_success() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 403})

    assert asyncio.run(request_us(hello, [scope(b"/a?b=c")] * 10)) >= 0
    with pytest.raises(AssertionError, match="403"):
        asyncio.run(request_us(refuse, [scope(b"/a")]))


def test_the_cost_of_a_batch_is_for_each_of_what_it_does() -> None:
    done: list[int] = []
    assert least_us(lambda: done.append(1), 1000, seconds=0.001) < 1e6
    assert done
