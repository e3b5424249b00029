"""What exchanges add up to, and how a scrape shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exchange import Attempt, Exchange
from gateway.telemetry.metrics import Gauge, Metrics


def ended(*, method: str = "GET", route: str = "shop", status: int = 200, duration_s: float = 0.02) -> Exchange:
    exchange = Exchange(method, b"/", clock=lambda: 100.0)
    exchange.finished = 100.0 + duration_s
    exchange.route = route
    exchange.status = status
    exchange.body_bytes_in = 3
    exchange.body_bytes_out = 7
    return exchange


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by sample name and label values, in the order of the label names."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = [value for _, value in sorted(sample.labels.items())]
            found[sample.name, *labels] = sample.value
    return found


def test_exchanges_are_counted_by_route_method_and_status_class() -> None:
    metrics = Metrics()
    for status in (200, 204, 404, 502):
        metrics.record(ended(status=status))
    values = samples(metrics)
    assert values["gateway_requests_total", "GET", "shop", "2xx"] == 2
    assert values["gateway_requests_total", "GET", "shop", "4xx"] == 1
    assert values["gateway_request_bytes_total", "GET", "shop", "2xx"] == 6
    assert values["gateway_response_bytes_total", "GET", "shop", "2xx"] == 14


def test_durations_fall_into_cumulative_buckets() -> None:
    metrics = Metrics()
    for duration_s in (0.0005, 0.02, 99.0):
        metrics.record(ended(duration_s=duration_s))
    values = samples(metrics)
    name = "gateway_request_duration_seconds"
    assert values[f"{name}_bucket", "0.001", "GET", "shop", "2xx"] == 1
    assert values[f"{name}_bucket", "0.025", "GET", "shop", "2xx"] == 2
    assert values[f"{name}_bucket", "30.0", "GET", "shop", "2xx"] == 2
    assert values[f"{name}_bucket", "+Inf", "GET", "shop", "2xx"] == 3
    assert values[f"{name}_count", "GET", "shop", "2xx"] == 3


def test_methods_that_clients_invent_share_one_label() -> None:
    metrics = Metrics()
    for number in range(50):
        metrics.record(ended(method=f"X{number}"))
    assert list(metrics.requests) == [("shop", "other", "2xx")]


def test_attempts_and_cache_results_are_counted() -> None:
    metrics = Metrics()
    exchange = ended()
    exchange.upstream = "shop"
    exchange.cache = "miss"
    for endpoint, outcome in (("a:1", "ConnectFailed"), ("b:1", "ok")):
        attempt = Attempt(endpoint, 0.0)
        attempt.outcome = outcome
        exchange.attempts.append(attempt)
    metrics.record(exchange)
    values = samples(metrics)
    assert values["gateway_attempts_total", "a:1", "ConnectFailed", "shop"] == 1
    assert values["gateway_attempts_total", "b:1", "ok", "shop"] == 1
    assert values["gateway_cache_total", "miss", "shop"] == 1


def test_readers_are_asked_at_every_scrape() -> None:
    metrics = Metrics()
    value = 1.0
    metrics.add_reader(lambda: [Gauge("endpoint_in_flight", "Requests.", (("endpoint", "a:1"),), value)])
    assert samples(metrics)["gateway_endpoint_in_flight", "a:1"] == 1
    value = 5.0
    assert samples(metrics)["gateway_endpoint_in_flight", "a:1"] == 5


def test_label_values_with_quotes_and_newlines_are_escaped() -> None:
    metrics = Metrics()
    metrics.add_reader(lambda: [Gauge("g", "G.", (("name", 'a"b\\c'),), 1.0)])
    assert samples(metrics)["gateway_g", 'a"b\\c'] == 1


def test_workers_that_share_a_folder_are_added_up_and_the_dead_keep_their_counts(tmp_path: Path) -> None:
    other = Metrics()
    other.record(ended())
    other.add_reader(lambda: [Gauge("in_flight", "Requests.", (), 9.0)])
    # No process has this id: process ids end far below it.
    (tmp_path / "4194999.json").write_text(json.dumps(other._state()))
    metrics = Metrics(folder=tmp_path)
    metrics.record(ended())
    metrics.record(ended(status=404))
    metrics.add_reader(lambda: [Gauge("in_flight", "Requests.", (), 2.0)])
    metrics.publish()
    values = samples(metrics)
    assert values["gateway_requests_total", "GET", "shop", "2xx"] == 2
    assert values["gateway_requests_total", "GET", "shop", "4xx"] == 1
    assert values["gateway_in_flight",] == 2, "a dead worker holds nothing"


def test_no_counter_falls_when_another_worker_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Metrics(folder=tmp_path), Metrics(folder=tmp_path)
    seen = []
    for turn in range(6):
        process, metrics = ((4194998, first), (4194999, second))[turn % 2]
        monkeypatch.setattr("gateway.telemetry.metrics.os.getpid", lambda process=process: process)
        for _ in range(3):
            metrics.record(ended())
        lines = metrics.exposition().decode().splitlines()
        seen += [float(line.split()[-1]) for line in lines if line.startswith("gateway_requests_total")]
    assert seen == [3, 6, 9, 12, 15, 18]
