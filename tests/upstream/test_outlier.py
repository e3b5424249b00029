from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NoEndpoint
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.outlier import Ejection, OutlierDetector
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import OutlierSettings, UpstreamSettings
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import Clock, at, make_upstream

SETTINGS = OutlierSettings(failures=3, interval_s=10.0, ejection_s=10.0, max_ejection_s=60.0, max_ejected=0.5)


def fail(detector: OutlierDetector, ejection: Ejection, *times: float) -> list[bool]:
    return [detector.failed(ejection, now, may_eject=True) for now in times]


def test_failures_in_a_row_eject() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()

    assert fail(detector, ejection, 1.0, 2.0, 3.0) == [False, False, True]
    assert ejection.until == 13.0
    assert not ejection.lets_in


def test_a_success_in_between_starts_the_count_again() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    fail(detector, ejection, 1.0, 2.0)

    assert not detector.succeeded(ejection, 2.5)

    assert fail(detector, ejection, 3.0, 4.0, 5.0) == [False, False, True]


def test_failures_in_a_row_eject_however_slowly_they_come() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()

    assert fail(detector, ejection, 100.0, 110.0, 120.0) == [False, False, True]


def test_an_interval_without_a_failure_starts_the_count_again() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()

    assert not any(fail(detector, ejection, *[10.5 * number for number in range(20)]))
    assert fail(detector, ejection, 210.0, 210.0, 210.0) == [False, False, True]


def eject_and_open(detector: OutlierDetector, ejection: Ejection, now: float) -> float:
    """Eject at ``now``, or after a failed trial; gives the time at which the next trial is due."""
    while ejection.lets_in and not detector.failed(ejection, now, may_eject=True):
        pass
    assert ejection.until is not None
    assert not detector.advance(ejection, ejection.until - 0.1, 0)
    assert detector.advance(ejection, ejection.until, 0)
    return ejection.until


def test_each_ejection_is_longer_up_to_the_longest() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    now = 0.0
    lengths = []
    for _ in range(6):
        until = eject_and_open(detector, ejection, now)
        lengths.append(until - now)
        now = until

    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_time_in_service_is_credited() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    now = 0.0
    for _ in range(3):
        now = eject_and_open(detector, ejection, now)
    assert detector.succeeded(ejection, now)
    assert ejection.lets_in

    assert eject_and_open(detector, ejection, now + 25.0) == now + 25.0 + 20.0
    now += 45.0
    assert detector.succeeded(ejection, now)
    assert eject_and_open(detector, ejection, now + 1000.0) == now + 1000.0 + 10.0


def test_one_trial_at_a_time_decides() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    now = eject_and_open(detector, ejection, 0.0)
    allowed = [ejection.lets_in]
    ejection.begin_trial(now)
    allowed.append(ejection.lets_in)

    assert allowed == [True, False]
    assert not detector.advance(ejection, now + 9.9, 1)
    assert detector.succeeded(ejection, now + 9.9)
    assert (ejection.until, ejection.half_open, ejection.lets_in) == (None, False, True)


@pytest.mark.parametrize(("later_s", "in_flight"), [(0.1, 0), (10.0, 1)])
def test_a_trial_without_a_result_makes_way_for_another(later_s: float, in_flight: int) -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    now = eject_and_open(detector, ejection, 0.0)
    ejection.begin_trial(now)

    assert detector.advance(ejection, now + later_s, in_flight)
    assert ejection.lets_in


def test_late_results_of_older_requests_do_not_shorten_an_ejection() -> None:
    detector, ejection = OutlierDetector(SETTINGS), Ejection()
    fail(detector, ejection, 1.0, 1.0, 1.0)

    assert not detector.succeeded(ejection, 2.0)
    assert fail(detector, ejection, 2.0, 2.0, 2.0) == [False, False, False]
    assert ejection.until == 11.0


@pytest.mark.parametrize(("share", "endpoints", "allowed"), [(0.5, 1, 0), (0.5, 2, 1), (0.5, 3, 1), (0.1, 10, 1)])
def test_the_share_is_never_exceeded(share: float, endpoints: int, allowed: int) -> None:
    assert OutlierDetector(OutlierSettings(max_ejected=share)).allowed(endpoints) == allowed


def fail_until_out(upstream: Upstream, endpoint: Endpoint, times: int = 5) -> bool:
    for _ in range(times):
        upstream.record(endpoint, ok=False, error="reset")
    return endpoint.ejection.until is not None


def test_an_ejected_endpoint_gets_nothing_and_comes_back_after_one_good_trial() -> None:
    clock = Clock()
    upstream = make_upstream(clock=clock)
    bad, good = upstream.endpoints
    assert fail_until_out(upstream, bad)
    assert {upstream.try_acquire(http_scope()) for _ in range(20)} == {good}
    assert upstream.decision == "1 of 2 available: 127.0.0.1:9001 ejected"
    assert upstream.snapshot()[0].ejected_until == clock.now + 10.0
    assert upstream.snapshot()[0].last_error == "reset"

    clock.now += 9.9
    upstream.sweep(clock.now)
    assert {upstream.try_acquire(http_scope()) for _ in range(20)} == {good}
    clock.now += 0.1
    upstream.sweep(clock.now)

    taken = [upstream.try_acquire(http_scope()) for _ in range(50)]
    assert taken.count(bad) == 1
    upstream.record(bad, ok=True)
    upstream.release(bad)
    assert {upstream.try_acquire(http_scope()) for _ in range(200)} == {bad, good}
    assert upstream.decision == ""


def test_a_failed_trial_ejects_for_longer() -> None:
    clock = Clock()
    upstream = make_upstream(clock=clock, balance="first")
    bad, good = upstream.endpoints
    assert fail_until_out(upstream, bad)
    clock.now += 10.0
    upstream.sweep(clock.now)

    assert upstream.try_acquire(http_scope()) is bad
    upstream.release(bad)
    upstream.record(bad, ok=False)

    assert bad.ejection.until == clock.now + 20.0
    assert upstream.try_acquire(http_scope()) is good


def test_a_trial_whose_client_left_is_tried_again() -> None:
    clock = Clock()
    upstream = make_upstream(clock=clock, balance="first")
    bad, good = upstream.endpoints
    assert fail_until_out(upstream, bad)
    clock.now += 10.0
    upstream.sweep(clock.now)
    assert upstream.try_acquire(http_scope()) is bad
    upstream.release(bad)
    assert upstream.try_acquire(http_scope()) is good

    upstream.sweep(clock.now + 0.1)

    assert upstream.try_acquire(http_scope()) is bad


def test_the_only_endpoint_is_never_ejected() -> None:
    upstream = make_upstream(at(9001), outlier=OutlierSettings(max_ejected=1.0))

    assert not fail_until_out(upstream, upstream.endpoints[0], 100)
    assert upstream.try_acquire(http_scope()) is upstream.endpoints[0]


def test_the_last_one_that_is_up_is_never_ejected() -> None:
    upstream = make_upstream(at(9001), at(9002), at(9003), outlier=OutlierSettings(max_ejected=1.0))
    one, two, three = upstream.endpoints
    one.health.healthy = False
    upstream.on_change()

    assert fail_until_out(upstream, two)
    assert not fail_until_out(upstream, three)


@given(
    st.integers(1, 8),
    st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["fail", "ok", "wait"])), max_size=200),
)
def test_ejection_keeps_its_bounds_whatever_happens(count: int, share: float, events: list[tuple[int, str]]) -> None:
    clock = Clock()
    settings = OutlierSettings(failures=2, ejection_s=3.0, max_ejection_s=9.0, max_ejected=share)
    upstream = make_upstream(*[at(9001 + index) for index in range(count)], clock=clock, outlier=settings)
    for number, what in events:
        endpoint = upstream.endpoints[number % count]
        if what == "wait":
            clock.now += 1.0
            upstream.sweep(clock.now)
        else:
            upstream.record(endpoint, ok=what == "ok")
        out = [endpoint for endpoint in upstream.endpoints if endpoint.ejection.until is not None]
        assert len(out) <= share * count
        assert len(out) < count
        taken = upstream.try_acquire(http_scope())
        assert taken is not None
        upstream.release(taken)


def test_results_count_but_do_not_eject_when_it_is_off() -> None:
    upstream = make_upstream(outlier=None)

    assert not fail_until_out(upstream, upstream.endpoints[0], 50)
    upstream.record(upstream.endpoints[0], ok=True)
    assert upstream.snapshot()[0].failures == 50


def test_with_everything_out_the_refusal_comes_at_once_and_says_when_to_come_back() -> None:
    clock = Clock()
    upstream = make_upstream(clock=clock)
    bad, other = upstream.endpoints
    assert fail_until_out(upstream, bad)
    other.health.healthy = False
    upstream.on_change()

    with pytest.raises(NoEndpoint) as caught:
        upstream.try_acquire(http_scope())
    assert caught.value.headers == [(b"retry-after", b"10")]
    assert "9001 ejected" in caught.value.reason

    clock.now += 10.0
    upstream.sweep(clock.now)
    assert upstream.try_acquire(http_scope()) is bad


def test_a_reload_without_detection_lets_the_ejected_back_in() -> None:
    upstream = make_upstream()
    bad = upstream.endpoints[0]
    assert fail_until_out(upstream, bad)
    later = upstream.successor(UpstreamSettings("shop", (at(9001), at(9002)), outlier=None))

    async def reload() -> None:
        await later.start()
        assert {later.try_acquire(http_scope()) for _ in range(50)} == set(later.endpoints)
        await upstream.aclose()
        await later.aclose()

    asyncio.run(reload())
