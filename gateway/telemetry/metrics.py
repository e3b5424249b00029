"""Counts what exchanges did, and shows it in the Prometheus text format.

Recording is a few additions to plain numbers: 0.5 us, where bound prometheus-client metrics would take 2. The library
makes the exposition. Several workers are added up through files that each writes into one folder.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.exchange import Exchange

DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
KNOWN_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])

RequestKey = tuple[str, str, str]
"""Route, method, status class: all from bounded sets, whatever clients send."""


class RequestCounts:
    """What the exchanges of one route, method and status class add up to."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "duration_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.bytes_in = 0
        self.bytes_out = 0
        self.duration_s = 0.0


@dataclass(frozen=True)
class Gauge:
    """One reading: name without prefix, what it means, labels and value."""

    name: str
    help: str
    labels: tuple[tuple[str, str], ...]
    value: float
    is_counter: bool = False
    merge: Literal["sum", "max", "min"] = "sum"
    """What several workers' readings make together."""


Reader = Callable[[], Iterable[Gauge]]
"""Reads the state of something at the time of a scrape."""


class Metrics:
    """The counters of one process; ``record`` is a Recorder of exchanges.

    ``folder`` is shared by several workers: each writes its counters there with ``publish``, and ``families`` adds
    those of the others to its own.
    """

    def __init__(self, *, folder: Path | None = None) -> None:
        self.requests: dict[RequestKey, RequestCounts] = {}
        self.attempts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.cache: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._counts: dict[tuple[str, str, int], RequestCounts] = {}
        """Those of ``requests`` by route, method and status as they come."""
        self.in_flight = 0
        self._folder = folder
        self._readers: list[Reader] = []

    def add_reader(self, reader: Reader) -> None:
        """Have ``reader`` asked at every scrape."""
        self._readers.append(reader)

    def record(self, exchange: Exchange) -> None:
        """Count one exchange that has ended."""
        counts = self._counts.get((exchange.route, exchange.method, exchange.status)) or self._find(exchange)
        duration_s = exchange.finished - exchange.started
        counts.buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        counts.duration_s += duration_s
        counts.bytes_in += exchange.body_bytes_in
        counts.bytes_out += exchange.body_bytes_out
        if exchange.attempts:
            for attempt in exchange.attempts:
                self.attempts[exchange.upstream, attempt.endpoint, attempt.outcome] += 1
        if exchange.cache:
            self.cache[exchange.route, exchange.cache] += 1

    def _find(self, exchange: Exchange) -> RequestCounts:
        """The counts of what is like ``exchange``; remembered, but for methods that clients made up."""
        method = exchange.method if exchange.method in KNOWN_METHODS else "other"
        key = (exchange.route, method, _CLASSES.get(exchange.status // 100, "none"))
        counts = self.requests.get(key)
        if counts is None:
            counts = self.requests[key] = RequestCounts()
        if method != "other":
            self._counts[exchange.route, method, exchange.status] = counts
        return counts

    def publish(self) -> None:
        """Write this worker's counters for the others; does nothing without a folder."""
        if self._folder is None:
            return
        path = self._folder / f"{os.getpid()}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self._state()))
        partial.replace(path)

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        # Whichever worker answers the next scrape must not know less than this one says: a counter that falls counts
        # as one that began anew.
        self.publish()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self.families))
        return generate_latest(registry)

    def families(self) -> Iterator[Any]:
        """The metric families of this process and, where they share a folder, of its fellow workers."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        state = self._state()
        for other in self._others():
            _add(state, other)
        labels = ["route", "method", "status"]
        requests = CounterMetricFamily("gateway_requests", "Requests answered.", labels=labels)
        received = CounterMetricFamily("gateway_request_bytes", "Bytes of request bodies.", labels=labels)
        sent = CounterMetricFamily("gateway_response_bytes", "Bytes of response bodies.", labels=labels)
        duration = HistogramMetricFamily(
            "gateway_request_duration_seconds", "From the request to the end of its answer.", labels=labels
        )
        for key, (buckets, bytes_in, bytes_out, duration_s) in state["requests"].items():
            values = key.split("\n")
            requests.add_metric(values, sum(buckets))
            received.add_metric(values, bytes_in)
            sent.add_metric(values, bytes_out)
            duration.add_metric(values, list(_cumulative(buckets)), duration_s)
        attempts = CounterMetricFamily(
            "gateway_attempts", "Tries at endpoints, by outcome.", labels=["upstream", "endpoint", "outcome"]
        )
        for key, count in state["attempts"].items():
            attempts.add_metric(key.split("\n"), count)
        cache = CounterMetricFamily("gateway_cache", "Cache results.", labels=["route", "result"])
        for key, count in state["cache"].items():
            cache.add_metric(key.split("\n"), count)
        yield from (requests, received, sent, duration, attempts, cache)
        gauges: dict[str, Any] = {}
        for name, help_text, names, values, value, is_counter, _ in state["gauges"]:
            kind = CounterMetricFamily if is_counter else GaugeMetricFamily
            family = gauges.setdefault(name, kind(f"gateway_{name}", help_text, labels=names))
            family.add_metric(values, value)
        yield from gauges.values()

    def _state(self) -> dict[str, Any]:
        gauges: dict[tuple[Any, ...], list[Any]] = {}
        for reader in self._readers:
            for gauge in reader():
                names, values = [name for name, _ in gauge.labels], [value for _, value in gauge.labels]
                kind = (gauge.is_counter, gauge.merge)
                gauges[gauge.name, *values] = [gauge.name, gauge.help, names, values, gauge.value, *kind]
        return {
            "requests": {
                "\n".join(key): [counts.buckets, counts.bytes_in, counts.bytes_out, counts.duration_s]
                for key, counts in self.requests.items()
            },
            "attempts": {"\n".join(key): count for key, count in self.attempts.items()},
            "cache": {"\n".join(key): count for key, count in self.cache.items()},
            "gauges": list(gauges.values()),
        }

    def _others(self) -> Iterator[dict[str, Any]]:
        if self._folder is None:
            return
        own = f"{os.getpid()}.json"
        for path in sorted(self._folder.glob("*.json")):
            if path.name != own:
                state = json.loads(path.read_text())
                if not _is_running(int(path.stem)):
                    # What a dead worker counted stays counted; what it held is gone.
                    state["gauges"] = []
                yield state


class _Families:
    """A collector in the shape that prometheus-client asks for."""

    def __init__(self, collect: Callable[[], Iterator[Any]]) -> None:
        self.collect = collect


_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


def _cumulative(buckets: Sequence[int]) -> Iterator[tuple[str, int]]:
    total = 0
    for bound, count in zip((*map(str, DURATION_BUCKETS_S), "+Inf"), buckets, strict=True):
        total += count
        yield bound, total


def _add(state: dict[str, Any], other: dict[str, Any]) -> None:
    for key, (buckets, *numbers) in other["requests"].items():
        mine = state["requests"].setdefault(key, [[0] * len(buckets), 0, 0, 0.0])
        mine[0] = [left + right for left, right in zip(mine[0], buckets, strict=True)]
        mine[1:] = [left + right for left, right in zip(mine[1:], numbers, strict=True)]
    for table in ("attempts", "cache"):
        for key, count in other[table].items():
            state[table][key] = state[table].get(key, 0) + count
    gauges = {(entry[0], *entry[3]): entry for entry in state["gauges"]}
    for entry in other["gauges"]:
        mine = gauges.get((entry[0], *entry[3]))
        if mine is None:
            state["gauges"].append(entry)
        else:
            mine[4] = _MERGES[entry[6]]((mine[4], entry[4]))


_MERGES: dict[str, Callable[[tuple[float, float]], float]] = {"sum": sum, "max": max, "min": min}


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
