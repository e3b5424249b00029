"""What a choice of an endpoint costs, and what the policies make of one slow server.

python -m benchmarks.balancing

The cost is the best of many batches of taking and giving back a place, in microseconds of CPU. The slow server is a
simulation in virtual time on the real classes: ten servers that work on 8 requests at once, exponential service times
of 10 ms, 30 ms on the slow one, and Poisson arrivals at three tenths of what the quick ones could do; the same seed for
every policy.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import random
from collections import deque
from typing import Any, get_args

import httpx

from benchmarks.in_process import least_us
from benchmarks.latency import percentiles
from gateway.ticker import Ticker
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import Balance, EndpointSettings, UpstreamSettings

POLICIES: tuple[Balance, ...] = get_args(Balance)
BATCH = 500
SERVERS, PLACES = 10, 8
QUICK_S, SLOW_S = 0.010, 0.030
COSTS = ((1, 1), (3, 1), (10, 1), (500, 1), (500, 10))
"""Endpoints, and how many different weights they have."""
SCOPE: dict[str, Any] = {"type": "http", "client": ("192.0.2.1", 1), "headers": [], "query_string": b""}


class Nowhere(httpx.AsyncBaseTransport):
    """Nothing is ever sent."""


def upstream(balance: Balance, servers: int, weights: int = 1) -> Upstream:
    """An upstream that is ready without I/O; its endpoints have the weights from 1 to ``weights`` in turn."""
    endpoints = [
        EndpointSettings(
            f"http://10.0.{number // 250}.{number % 250}:80",
            "http",
            f"10.0.{number // 250}.1",
            80,
            weight=1 + number % weights,
        )
        for number in range(servers)
    ]
    return Upstream(
        UpstreamSettings("bench", tuple(endpoints), balance=balance, max_connections=100_000),
        transport_factory=lambda *_: Nowhere(),
        ticker=Ticker(),
        rng=random.Random(1),
    )


def cost_us(balance: Balance, servers: int, weights: int, seconds: float) -> float:
    """CPU microseconds of taking a place and giving it back."""
    chosen = upstream(balance, servers, weights)

    def batch() -> None:
        for _ in range(BATCH):
            endpoint = chosen.try_acquire(SCOPE)
            assert endpoint is not None
            chosen.release(endpoint)

    return least_us(batch, BATCH, seconds)


def under_one_slow_server(balance: Balance, requests: int) -> tuple[list[float], float]:
    """Latencies in seconds, and the slow server's part of the requests."""
    chosen, rng = upstream(balance, SERVERS), random.Random(7)
    slow = chosen.endpoints[0]
    busy = dict.fromkeys(chosen.endpoints, 0)
    waiting: dict[Any, deque[float]] = {endpoint: deque() for endpoint in chosen.endpoints}
    rate = 0.3 * (SERVERS - 1) * PLACES / QUICK_S
    ends: list[tuple[float, int, float, Any]] = []
    latencies: list[float] = []
    now = 0.0

    def begin(endpoint: Any, arrived: float, at: float) -> None:
        busy[endpoint] += 1
        service = rng.expovariate(1 / (SLOW_S if endpoint is slow else QUICK_S))
        heapq.heappush(ends, (at + service, len(latencies) + len(ends), arrived, endpoint))

    def finish() -> None:
        at, _, arrived, endpoint = heapq.heappop(ends)
        latencies.append(at - arrived)
        chosen.release(endpoint)
        busy[endpoint] -= 1
        if waiting[endpoint]:
            begin(endpoint, waiting[endpoint].popleft(), at)

    for _ in range(requests):
        now += rng.expovariate(rate)
        while ends and ends[0][0] <= now:
            finish()
        endpoint = chosen.try_acquire(SCOPE)
        assert endpoint is not None
        if busy[endpoint] < PLACES:
            begin(endpoint, now, now)
        else:
            waiting[endpoint].append(now)
    while ends:
        finish()
    return latencies, slow.requests / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each cost")
    parser.add_argument("--requests", type=int, default=50_000, help="of the simulation")
    options = parser.parse_args()
    gc.freeze()
    heads = [f"{servers} endpoints" if weights == 1 else f"{weights} weights" for servers, weights in COSTS]
    print(f"{'µs a choice':<16}" + "".join(f"{head:>15}" for head in heads))
    for name in POLICIES:
        costs = [cost_us(name, servers, weights, options.seconds) for servers, weights in COSTS]
        print(f"{name:<16}" + "".join(f"{cost:>15.2f}" for cost in costs), flush=True)
    print(f"\n{'one slow of 10':<16}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'slow gets':>12}")
    for name in POLICIES:
        if name in ("first", "hash"):
            # They send where they are told, whatever comes of it.
            continue
        latencies, share = under_one_slow_server(name, options.requests)
        marks = "".join(f"{latency_s * 1000:>10.1f}" for latency_s in percentiles(latencies))
        print(f"{name:<16}{marks}{share:>12.1%}", flush=True)


if __name__ == "__main__":
    main()
