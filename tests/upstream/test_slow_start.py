from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.slow_start import SlowStart, factor
from tests.upstream.test_endpoint import Clock, at, endpoints_of, make_upstream


@pytest.mark.parametrize(("elapsed_s", "expected"), [(-1.0, 0.1), (0.0, 0.1), (5.0, 0.55), (10.0, 1.0), (11.0, 1.0)])
def test_the_share_grows_evenly(elapsed_s: float, expected: float) -> None:
    assert factor(elapsed_s, 10.0) == pytest.approx(expected)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 60))
def test_the_share_never_shrinks_and_stays_within_bounds(one: float, other: float, duration_s: float) -> None:
    low, high = factor(min(one, other), duration_s), factor(max(one, other), duration_s)

    assert 0.1 <= low <= high <= 1.0


def test_without_a_duration_the_whole_share_comes_at_once() -> None:
    endpoint = endpoints_of(2)[0]
    slow_start = SlowStart(0.0)

    slow_start.begin(endpoint, 5.0)

    assert endpoint.share == 2.0
    assert not slow_start.advance(endpoint, 6.0)


def test_a_warming_endpoint_settles_at_its_weight() -> None:
    endpoint = endpoints_of(2)[0]
    slow_start = SlowStart(10.0)
    slow_start.begin(endpoint, 100.0)

    shares = []
    for now in (100.0, 105.0, 110.0):
        assert slow_start.advance(endpoint, now)
        shares.append(endpoint.share)

    assert shares == pytest.approx([0.2, 1.1, 2.0])
    assert not slow_start.advance(endpoint, 111.0)


def test_an_endpoint_that_comes_back_gets_its_requests_gradually() -> None:
    clock = Clock()
    upstream = make_upstream(at(9001), at(9002), balance="round-robin", slow_start_s=10.0, clock=clock)
    first = upstream.endpoints[0]
    first.health.healthy = False
    upstream.on_change()
    first.health.healthy = True
    upstream._on_health(first)

    def share() -> float:
        taken = [upstream.try_acquire({"headers": []}) for _ in range(110)]
        return taken.count(first) / len(taken)

    assert share() == pytest.approx(1 / 11, abs=0.01)
    clock.now += 5.0
    upstream.sweep(clock.now)
    assert share() == pytest.approx(0.55 / 1.55, abs=0.02)
    clock.now += 5.0
    upstream.sweep(clock.now)
    assert share() == pytest.approx(0.5, abs=0.02)


def test_at_the_start_nothing_is_slow() -> None:
    upstream = make_upstream(at(9001), at(9002), slow_start_s=10.0)

    assert [endpoint.share for endpoint in upstream.endpoints] == [1.0, 1.0]
