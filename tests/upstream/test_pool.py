from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectFailed, NoEndpoint, QueueFull, UpstreamTimeout
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import EndpointSettings, OutlierSettings, StickySettings, TlsSettings, UpstreamSettings
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import Clock, FakeTransport, at, make_upstream

pytestmark = pytest.mark.anyio

SCOPE = http_scope()


def take(upstream: Upstream, *tried: Endpoint) -> Endpoint:
    endpoint = upstream.try_acquire(SCOPE, tried)
    assert endpoint is not None
    return endpoint


def taken(upstream: Upstream) -> set[int]:
    """The ports that get requests."""
    ports = set()
    for _ in range(50):
        endpoint = take(upstream)
        ports.add(endpoint.settings.port)
        upstream.release(endpoint)
    return ports


def waiting(upstream: Upstream, *tried: Endpoint, timeout_s: float = 30.0, name: str = "") -> asyncio.Task[Endpoint]:
    return asyncio.create_task(upstream.acquire(SCOPE, list(tried), timeout_s), name=name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def transport_of(endpoint: Endpoint) -> FakeTransport:
    assert isinstance(endpoint.transport, FakeTransport)
    return endpoint.transport


# Choosing.


def test_requests_are_counted_in_flight_and_back() -> None:
    upstream = make_upstream(balance="round-robin")
    first, second = take(upstream), take(upstream)

    assert (first.in_flight, second.in_flight, upstream.in_flight) == (1, 1, 2)
    upstream.release(first)
    upstream.release(second)
    assert upstream.in_flight == 0
    assert [state.requests for state in upstream.snapshot()] == [1, 1]


def test_weightless_drained_and_backup_endpoints_get_nothing() -> None:
    upstream = make_upstream(at(9001), at(9002, weight=0), at(9003, drain=True), at(9004, backup=True))

    assert taken(upstream) == {9001}
    assert upstream.decision == "1 of 4 available: 127.0.0.1:9002 weight 0, 127.0.0.1:9003 drained"
    upstream.drain("127.0.0.1:9001")
    assert taken(upstream) == {9004}


def test_what_was_tried_is_tried_again_only_when_nothing_else_is_left() -> None:
    upstream = make_upstream(at(9001), at(9002), at(9003))
    one, two, three = upstream.endpoints

    assert {take(upstream, one, two) for _ in range(20)} == {three}
    assert {take(upstream, one, two, three) for _ in range(50)} == {one, two, three}


def test_a_backup_gets_what_every_primary_has_failed() -> None:
    upstream = make_upstream(at(9001), at(9002), at(9003, backup=True), at(9004, backup=True, drain=True))
    one, two, backup, _ = upstream.endpoints

    assert {take(upstream, one) for _ in range(20)} == {two}
    assert take(upstream, one, two) is backup
    assert {take(upstream, one, two, backup) for _ in range(50)} == {one, two}
    assert taken(upstream) == {9001, 9002}


def test_a_full_backup_is_not_waited_for() -> None:
    upstream = make_upstream(at(9001), at(9002, backup=True), max_connections=1)
    primary, backup = upstream.endpoints
    assert take(upstream, primary) is backup

    assert take(upstream, primary) is primary


def test_a_single_endpoint_is_tried_again() -> None:
    upstream = make_upstream(at(9001))

    assert take(upstream, upstream.endpoints[0]) is upstream.endpoints[0]


def test_a_full_endpoint_is_worth_waiting_for_when_the_others_were_tried() -> None:
    upstream = make_upstream(max_connections=1, balance="first")
    full = take(upstream)

    assert upstream.try_acquire(SCOPE, [upstream.endpoints[1]]) is None
    upstream.release(full)
    assert take(upstream, upstream.endpoints[1]) is full


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_endpoint_ever_has_more_than_its_connections(count: int) -> None:
    upstream = make_upstream(*[at(9001 + index) for index in range(count)], max_connections=3)
    held = [take(upstream) for _ in range(3 * count)]

    assert upstream.try_acquire(SCOPE) is None
    assert [endpoint.in_flight for endpoint in upstream.endpoints] == [3] * count
    upstream.release(held[0])
    assert take(upstream) is held[0]


def test_backups_are_not_for_full_primaries() -> None:
    upstream = make_upstream(at(9001), at(9002, backup=True), max_connections=1)
    take(upstream)

    assert upstream.try_acquire(SCOPE) is None


def test_no_endpoint_is_said_at_once() -> None:
    upstream = make_upstream(at(9001, drain=True))

    with pytest.raises(NoEndpoint) as caught:
        upstream.try_acquire(SCOPE)
    assert caught.value.headers == [(b"retry-after", b"1")]
    assert "9001" in caught.value.reason
    assert "9001" not in caught.value.detail


def test_an_endpoint_named_twice_is_one() -> None:
    assert len(make_upstream(at(9001), at(9001)).endpoints) == 1


@pytest.mark.parametrize("balance", ["round-robin", "least-requests", "p2c", "random", "hash", "first"])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["take", "release", "sick", "well", "drain", "fill"]))))
def test_only_endpoints_that_can_take_a_request_get_it(balance: str, events: list[tuple[int, str]]) -> None:
    upstream = make_upstream(*[at(9001 + index) for index in range(4)], balance=balance, max_connections=3)
    held: list[Endpoint] = []
    for number, what in events:
        endpoint = upstream.endpoints[number % 4]
        if what == "release" and held:
            upstream.release(held.pop(number % len(held)))
        elif what in ("sick", "well"):
            endpoint.health.healthy = what == "well"
            endpoint.notify()
        elif what == "drain":
            upstream.drain(endpoint.label, not endpoint.drain)
        else:
            can_take = [e for e in upstream.endpoints if e.is_up and not e.drain]
            before = {e: e.in_flight for e in can_take}
            try:
                chosen = upstream.try_acquire(SCOPE, [endpoint] if what == "fill" else [])
            except NoEndpoint:
                assert not can_take
                continue
            if chosen is None:
                assert all(count >= 3 for e, count in before.items() if what != "fill" or e is not endpoint)
            else:
                assert before[chosen] < 3
                held.append(chosen)
    assert upstream.in_flight == len(held)


# Waiting.


async def test_waiters_are_served_in_the_order_of_arrival() -> None:
    upstream = make_upstream(at(9001), max_connections=1)
    held = take(upstream)
    order: list[int] = []

    async def request(number: int) -> None:
        endpoint = await upstream.acquire(SCOPE, [], 30.0)
        order.append(number)
        await asyncio.sleep(0)
        upstream.release(endpoint)

    tasks = [asyncio.create_task(request(number)) for number in range(10)]
    await settle()
    assert upstream.pending == 10

    upstream.release(held)
    # A place that is passed on is never free for whoever comes by.
    assert upstream.try_acquire(SCOPE) is None
    await asyncio.gather(*tasks)

    assert order == list(range(10))
    assert (upstream.pending, upstream.in_flight) == (0, 0)


async def test_too_many_waiters_are_refused_at_once() -> None:
    upstream = make_upstream(at(9001), max_connections=1, max_pending=2)
    held = take(upstream)
    tasks = [waiting(upstream) for _ in range(2)]
    await settle()

    with pytest.raises(QueueFull):
        await upstream.acquire(SCOPE, [], 30.0)

    upstream.release(held)
    upstream.release(await tasks[0])
    upstream.release(await tasks[1])
    assert upstream.in_flight == 0


@pytest.mark.parametrize("settings", [{"max_pending": 0}, {"queue_timeout_s": 0.0}])
async def test_waiting_can_be_switched_off(settings: dict[str, Any]) -> None:
    upstream = make_upstream(at(9001), max_connections=1, **settings)
    take(upstream)

    with pytest.raises(QueueFull):
        await upstream.acquire(SCOPE, [], 30.0)


@pytest.mark.parametrize(
    ("queue_timeout_s", "timeout_s", "error"),
    [(5.0, 30.0, QueueFull), (5.0, 5.0, QueueFull), (5.0, 2.0, UpstreamTimeout)],
)
async def test_the_wait_ends_in_time(queue_timeout_s: float, timeout_s: float, error: type[Exception]) -> None:
    clock = Clock()
    upstream = make_upstream(at(9001), max_connections=1, queue_timeout_s=queue_timeout_s, clock=clock)
    held = take(upstream)
    task = waiting(upstream, timeout_s=timeout_s)
    await settle()

    upstream.sweep(clock.now + min(queue_timeout_s, timeout_s) - 0.1)
    await settle()
    assert not task.done()
    upstream.sweep(clock.now + min(queue_timeout_s, timeout_s))
    with pytest.raises(error) as caught:
        await task

    assert not getattr(caught.value, "request_sent", False)
    assert upstream.pending == 0
    upstream.release(held)
    assert upstream.in_flight == 0


async def test_cancelled_waiters_leave_no_trace() -> None:
    upstream = make_upstream(at(9001), max_connections=1)
    held = take(upstream)
    first, second, third = (waiting(upstream) for _ in range(3))
    await settle()

    first.cancel()
    # Cancelled, but not yet run: the place must pass it by.
    upstream.release(held)
    await settle()

    assert first.cancelled()
    assert second.done()
    # Given the place, and cancelled before it could take notice.
    upstream.release(await second)
    third.cancel()
    await settle()
    assert third.cancelled()
    assert (upstream.pending, upstream.in_flight) == (0, 0)


async def test_a_waiter_cancelled_by_its_own_failure_is_quiet() -> None:
    clock = Clock()
    upstream = make_upstream(at(9001), max_connections=1, clock=clock)
    held = take(upstream)
    task = waiting(upstream)
    await settle()

    upstream.sweep(clock.now + 60.0)
    task.cancel()
    await settle()

    assert task.cancelled()
    upstream.release(held)
    assert (upstream.pending, upstream.in_flight) == (0, 0)


@pytest.mark.parametrize("seed", range(8))
async def test_ten_thousand_comings_and_goings_add_up(seed: int) -> None:
    rng = random.Random(seed)
    clock = Clock()
    upstream = make_upstream(clock=clock, max_connections=3, max_pending=20, queue_timeout_s=5.0)
    held: list[Endpoint] = []
    tasks: list[asyncio.Task[Endpoint]] = []
    for _ in range(1250):
        what = rng.random()
        if what < 0.5:
            tasks.append(waiting(upstream, timeout_s=rng.uniform(1.0, 10.0)))
        elif what < 0.65 and tasks:
            rng.choice(tasks).cancel()
        elif what < 0.95 and held:
            upstream.release(held.pop(rng.randrange(len(held))))
        else:
            clock.now += 0.5
            upstream.sweep(clock.now)
        if rng.random() < 0.7:
            await asyncio.sleep(0)
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                held.append(task.result())
        assert all(endpoint.in_flight <= 3 for endpoint in upstream.endpoints)
        assert upstream.pending <= 20
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Endpoint):
            held.append(result)
    for endpoint in held:
        upstream.release(endpoint)
    assert (upstream.pending, upstream.in_flight) == (0, 0)
    assert taken(upstream) == {9001, 9002}


async def test_who_waits_gets_an_endpoint_that_comes_back() -> None:
    upstream = make_upstream(max_connections=1)
    sick, full = upstream.endpoints
    sick.health.healthy = False
    sick.notify()
    assert take(upstream) is full
    tasks = [waiting(upstream) for _ in range(2)]
    await settle()

    sick.health.healthy = True
    sick.notify()
    await settle()

    assert [task.done() for task in tasks] == [True, False]
    upstream.release(full)
    assert (await tasks[0], await tasks[1]) == (sick, full)


async def test_who_waits_is_told_when_nothing_is_left_to_wait_for() -> None:
    upstream = make_upstream(at(9001), max_connections=1)
    take(upstream)
    task = waiting(upstream)
    await settle()

    upstream.drain("127.0.0.1:9001")

    with pytest.raises(NoEndpoint):
        await task


async def test_a_retry_waits_for_another_endpoint_than_the_one_that_failed() -> None:
    upstream = make_upstream(max_connections=1, balance="first")
    failed, other = take(upstream), take(upstream)
    retry, fresh = waiting(upstream, failed), waiting(upstream)
    await settle()

    upstream.release(failed)
    assert await fresh is failed
    assert not retry.done()
    upstream.release(other)
    assert await retry is other


# Life.


async def test_closing_closes_every_transport_once_and_sends_waiters_away() -> None:
    clock = Clock()
    upstream = make_upstream(clock=clock, max_connections=1)
    await upstream.start()
    held = [take(upstream), take(upstream)]
    task = waiting(upstream)
    await settle()

    await upstream.aclose()
    await upstream.aclose()

    with pytest.raises(NoEndpoint):
        await task
    with pytest.raises(NoEndpoint):
        upstream.try_acquire(SCOPE)
    for endpoint in held:
        upstream.release(endpoint)
    assert [transport_of(endpoint).closed for endpoint in held] == [1, 1]


async def test_time_passes_only_between_start_and_close() -> None:
    clock = Clock()
    upstream = make_upstream(at(9001), clock=clock, max_connections=1)
    await upstream.start()
    take(upstream)
    task = waiting(upstream)
    await settle()

    clock.advance(5.0)

    with pytest.raises(QueueFull):
        await task
    await upstream.aclose()
    assert not clock.ticker._sweeps


class StartingTransport(FakeTransport):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.started = 0
        self.error = error

    async def start(self) -> None:
        self.started += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


APP = EndpointSettings("asgi:shop.main:app", "asgi", "localhost", 80, app="shop.main:app")


async def test_transports_that_start_are_started_once_over_all_reloads() -> None:
    transport = StartingTransport()
    upstream = make_upstream(APP, transport=lambda endpoint: transport)
    await upstream.start()
    later = upstream.successor(UpstreamSettings("shop", (APP,), panic=0.1))
    await later.start()
    await upstream.aclose()
    assert (transport.started, transport.closed) == (1, 0)
    await later.aclose()
    assert transport.closed == 1


async def test_a_start_that_fails_is_told() -> None:
    transport = StartingTransport(RuntimeError("no database"))
    upstream = make_upstream(APP, transport=lambda endpoint: transport)

    with pytest.raises(RuntimeError, match="no database"):
        await upstream.start()
    await upstream.aclose()
    assert transport.closed == 1


# Changes at run time.


async def test_endpoints_can_be_added_and_removed() -> None:
    upstream = make_upstream(at(9001))
    await upstream.start()
    upstream.add(at(9002))
    assert taken(upstream) == {9001, 9002}

    with pytest.raises(ValueError, match="already"):
        upstream.add(at(9002))
    upstream.remove("127.0.0.1:9001")
    assert taken(upstream) == {9002}
    await upstream.aclose()


async def test_a_removed_endpoint_finishes_its_requests() -> None:
    upstream = make_upstream(at(9001))
    await upstream.start()
    held = take(upstream)

    upstream.remove(held.label)

    with pytest.raises(NoEndpoint):
        upstream.try_acquire(SCOPE)
    assert (upstream.in_flight, transport_of(held).closed) == (1, 0)
    upstream.release(held)
    await settle()
    assert (upstream.in_flight, transport_of(held).closed) == (0, 1)
    await upstream.aclose()


async def test_an_added_application_joins_when_it_has_started(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = StartingTransport(), StartingTransport(RuntimeError("no database"))
    made: list[FakeTransport] = [FakeTransport(), good, bad]
    upstream = make_upstream(at(9001), transport=lambda endpoint: made.pop(0))
    await upstream.start()
    upstream.add(APP)
    assert len(upstream.endpoints) == 1
    await settle()
    assert [endpoint.label for endpoint in upstream.endpoints] == ["127.0.0.1:9001", "asgi:shop.main:app"]
    upstream.remove("asgi:shop.main:app")

    upstream.add(APP)
    await settle()

    assert len(upstream.endpoints) == 1
    assert "no database" in caplog.text
    await upstream.aclose()
    assert (good.closed, bad.closed) == (1, 1)


async def test_an_application_that_is_removed_while_it_starts_does_not_join() -> None:
    app = StartingTransport()
    made: list[FakeTransport] = [FakeTransport(), app]
    upstream = make_upstream(at(9001), transport=lambda endpoint: made.pop(0))
    await upstream.start()
    upstream.add(APP)

    upstream.remove("asgi:shop.main:app")
    await settle()

    assert len(upstream.endpoints) == 1
    assert (app.started, app.closed) == (1, 1)
    await upstream.aclose()


def test_an_endpoint_can_be_drained_and_brought_back() -> None:
    upstream = make_upstream()
    upstream.drain("127.0.0.1:9001")
    assert taken(upstream) == {9002}
    upstream.drain("127.0.0.1:9001", on=False)
    assert taken(upstream) == {9001, 9002}


def test_weights_can_be_changed() -> None:
    upstream = make_upstream(balance="round-robin")
    upstream.set_weight("127.0.0.1:9001", 3)

    assert [take(upstream).settings.port for _ in range(8)].count(9001) == 6
    upstream.set_weight("127.0.0.1:9001", 0)
    assert taken(upstream) == {9002}
    with pytest.raises(ValueError, match="at least 0"):
        upstream.set_weight("127.0.0.1:9001", -1)


@pytest.mark.parametrize(
    "change", [Upstream.remove, Upstream.drain, lambda upstream, label: upstream.set_weight(label, 1)]
)
def test_unknown_labels_are_refused(change: Any) -> None:
    with pytest.raises(LookupError, match=r"127\.0\.0\.1:9009"):
        change(make_upstream(), "127.0.0.1:9009")


# Reloads.


async def reload(upstream: Upstream, *endpoints: EndpointSettings, **settings: Any) -> Upstream:
    later = upstream.successor(UpstreamSettings("shop", endpoints, **settings))
    await later.start()
    return later


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "wait", "succeed", "fail", "cancel", "reload", "time", "settle"]), st.integers(0, 1000)
    ),
    max_size=60,
)
_TABLES = [
    (at(9001), at(9002)),
    (at(9001), at(9003, weight=3)),
    (at(9002, drain=True), at(9003), at(9004, backup=True)),
    (at(9001),),
]


@given(events=_EVENTS)
def test_whatever_happens_in_any_order_what_is_in_flight_comes_back_to_zero(events: list[tuple[str, int]]) -> None:
    asyncio.run(_interleave(events))


async def _interleave(events: list[tuple[str, int]]) -> None:
    clock = Clock()
    outlier = OutlierSettings(failures=2, ejection_s=1.0)
    settings: dict[str, Any] = {"max_connections": 2, "max_pending": 5, "outlier": outlier}
    current = make_upstream(*_TABLES[0], clock=clock, **settings)
    await current.start()
    generations, seen = [current], set(current.endpoints)
    held: list[tuple[Upstream, Endpoint]] = []
    tasks: dict[asyncio.Task[Endpoint], Upstream] = {}

    def collect() -> None:
        for task in [task for task in tasks if task.done()]:
            upstream = tasks.pop(task)
            if not task.cancelled() and task.exception() is None:
                held.append((upstream, task.result()))

    for what, number in events:
        if what == "ask":
            try:
                endpoint = current.try_acquire(SCOPE, current.endpoints[: number % 3])
            except NoEndpoint:
                continue
            if endpoint is not None:
                held.append((current, endpoint))
        elif what == "wait":
            tasks[waiting(current, timeout_s=1.0 + number % 10)] = current
        elif what in ("succeed", "fail") and held:
            upstream, endpoint = held.pop(number % len(held))
            upstream.release(endpoint)
            upstream.record(endpoint, ok=what == "succeed")
        elif what == "cancel" and tasks:
            list(tasks)[number % len(tasks)].cancel()
        elif what == "reload":
            current = await reload(current, *_TABLES[number % len(_TABLES)], **settings)
            generations.append(current)
            seen.update(current.endpoints)
        elif what == "time":
            clock.advance(number / 100)
        elif what == "settle":
            await settle()
        collect()
        assert all(endpoint.in_flight >= 0 for endpoint in seen)
    for task in tasks:
        task.cancel()
    await settle()
    collect()
    assert sum(endpoint.in_flight for endpoint in seen) == len(held)
    for upstream, endpoint in held:
        upstream.release(endpoint)
    assert [endpoint.in_flight for endpoint in seen] == [0] * len(seen)
    assert [upstream.pending for upstream in generations] == [0] * len(generations)
    for upstream in generations:
        await upstream.aclose()
    assert {transport_of(endpoint).closed for endpoint in seen} == {1}


async def test_a_reload_keeps_what_did_not_change() -> None:
    clock = Clock()
    upstream = make_upstream(at(9001), at(9002), at(9003), clock=clock)
    await upstream.start()
    one, two, three = upstream.endpoints
    for _ in range(5):
        upstream.record(one, ok=False, error="reset")
    held = [take(upstream, one, three), take(upstream, one, two)]

    later = await reload(upstream, at(9001), at(9002, weight=5), at(9004), balance="first")

    assert later.endpoints[:2] == (one, two)
    assert (one.ejection.until, one.failures, two.in_flight, two.weight) == (clock.now + 10.0, 5, 1, 5)
    assert take(later) is two
    for endpoint in held:
        upstream.release(endpoint)
    await upstream.aclose()
    assert [transport_of(endpoint).closed for endpoint in (one, two, three)] == [0, 0, 1]
    assert (later.in_flight, take(later)) == (1, two)
    await later.aclose()
    assert [transport_of(endpoint).closed for endpoint in (one, two, three)] == [1, 1, 1]


async def test_a_place_freed_before_a_reload_goes_to_the_old_waiter_first_and_then_to_the_new() -> None:
    upstream = make_upstream(at(9001), max_connections=1)
    await upstream.start()
    held = take(upstream)
    old = waiting(upstream)
    await settle()
    later = await reload(upstream, at(9001), max_connections=1, panic=0.1)
    new = waiting(later)
    await settle()
    assert (upstream.pending, later.pending) == (1, 1)

    upstream.release(held)
    assert await old is held
    assert not new.done()
    upstream.release(held)
    assert await new is held
    later.release(held)
    assert take(later) is held
    await upstream.aclose()
    await later.aclose()


async def test_more_connections_after_a_reload_let_waiters_in() -> None:
    upstream = make_upstream(at(9001), max_connections=1)
    await upstream.start()
    held = take(upstream)
    task = waiting(upstream)
    await settle()

    later = await reload(upstream, at(9001), max_connections=2)

    assert await task is held
    assert later.try_acquire(SCOPE) is None
    await upstream.aclose()
    await later.aclose()


async def test_a_failure_seen_by_requests_of_the_old_upstream_counts_for_the_new() -> None:
    upstream = make_upstream()
    await upstream.start()
    later = await reload(upstream, at(9001), at(9002), outlier=OutlierSettings(failures=2))
    bad = upstream.endpoints[0]

    upstream.record(bad, ok=False)
    upstream.record(bad, ok=False)

    assert taken(later) == taken(upstream) == {9002}
    await upstream.aclose()
    await later.aclose()


@pytest.mark.parametrize(
    "settings", [{"tls": TlsSettings(verify=False)}, {"keep_alive_s": 1.0}, {"connect_timeout_s": 1.0}]
)
async def test_other_transport_settings_mean_other_transports_but_the_same_health(settings: dict[str, Any]) -> None:
    upstream = make_upstream()
    await upstream.start()
    sick, well = upstream.endpoints
    sick.health.healthy = False
    for _ in range(5):
        upstream.record(well, ok=False)

    later = await reload(upstream, at(9001), at(9002), health=None, **settings)

    assert all(new.transport is not old.transport for new, old in zip(later.endpoints, upstream.endpoints, strict=True))
    assert later.endpoints[1].failures == 5
    assert later.endpoints[1].ejection is well.ejection
    await upstream.aclose()
    assert [transport_of(endpoint).closed for endpoint in (sick, well)] == [1, 1]
    await later.aclose()


@pytest.mark.parametrize("balance", ["p2c", "least-requests"])
async def test_after_a_reload_the_least_busy_is_known_whoever_lets_requests_go(balance: str) -> None:
    upstream = make_upstream(at(9001), at(9002), balance=balance)
    await upstream.start()
    held = [take(upstream) for _ in range(10)]
    later = await reload(upstream, at(9001), at(9002), balance="least-requests", panic=0.1)
    one, two = later.endpoints
    while one.in_flight < 10 or two.in_flight < 10:
        take(later)
    for endpoint in held:
        if endpoint is one:
            upstream.release(endpoint)

    missing = two.in_flight - one.in_flight
    assert missing > 0
    assert [take(later) for _ in range(missing)] == [one] * missing
    await upstream.aclose()
    await later.aclose()


async def test_every_request_that_ends_is_told_only_where_that_is_news() -> None:
    upstream = make_upstream(balance="p2c")
    await upstream.start()
    endpoint = upstream.endpoints[0]
    seen = [endpoint.is_followed]

    later = await reload(upstream, at(9001), at(9002), balance="least-requests")
    seen.append(endpoint.is_followed)
    last = await reload(later, at(9001), at(9002), balance="round-robin")
    await later.aclose()
    seen.append(endpoint.is_followed)
    last.remove(endpoint.label)
    await upstream.aclose()

    # Where no owner is left, the last request closes the endpoint.
    assert [*seen, endpoint.is_followed] == [False, True, False, True]
    await last.aclose()


@pytest.mark.parametrize(
    ("settings", "tried", "has_choice", "has_another"),
    [
        ({}, 0, True, True),
        ({}, 1, True, False),
        ({"sticky": StickySettings()}, 0, False, True),
        ({"max_connections": 1}, 0, True, False),
    ],
)
def test_whether_a_request_has_another_endpoint_to_go_to(
    settings: dict[str, Any], tried: int, has_choice: bool, has_another: bool
) -> None:
    upstream = make_upstream(balance="first", **settings)
    one, two = upstream.endpoints
    if "max_connections" in settings:
        take(upstream, one)

    assert upstream.has_choice is has_choice
    assert upstream.has_another(one, [two] * tried) is has_another


async def test_an_attempt_that_goes_on_without_its_request_holds_its_place() -> None:
    upstream = make_upstream(at(9001), max_connections=1, outlier=OutlierSettings(failures=1, max_ejected=1.0))
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    endpoint = take(upstream)
    upstream.release_after(endpoint, outcome)
    waiter = waiting(upstream)
    await settle()
    assert (endpoint.in_flight, waiter.done()) == (1, False)

    outcome.set_exception(ConnectFailed("unreachable"))

    assert await waiter is endpoint
    assert (endpoint.in_flight, endpoint.failures, endpoint.last_error) == (1, 1, "unreachable")


async def test_changes_at_run_time_survive_a_reload_where_the_configuration_says_nothing_new() -> None:
    upstream = make_upstream(at(9001), at(9002), at(9003))
    await upstream.start()
    upstream.drain("127.0.0.1:9001")
    upstream.set_weight("127.0.0.1:9002", 9)
    upstream.remove("127.0.0.1:9003")
    upstream.add(at(9004))

    later = await reload(upstream, at(9001), at(9002, weight=2), at(9003), panic=0.1)

    states = {state.label[-4:]: (state.weight, state.drain) for state in later.snapshot()}
    assert states == {"9001": (1, True), "9002": (2, False), "9004": (1, False)}
    await upstream.aclose()
    await later.aclose()


@pytest.mark.parametrize("is_started", [False, True])
async def test_a_reload_that_is_given_up_leaves_nothing_behind(is_started: bool) -> None:
    upstream = make_upstream(max_connections=2)
    await upstream.start()
    before = upstream.endpoints
    later = upstream.successor(UpstreamSettings("shop", (at(9001, drain=True), at(9003)), max_connections=1))
    new = later.endpoints[1]
    if is_started:
        await later.start()
        assert taken(later) == {9003}

    await later.aclose()

    assert [endpoint.owners for endpoint in before] == [[upstream], [upstream]]
    assert [endpoint.limit for endpoint in before] == [2, 2]
    assert taken(upstream) == {9001, 9002}
    assert [transport_of(endpoint).closed for endpoint in (*before, new)] == [0, 0, 1]
    await upstream.aclose()


async def test_a_new_endpoint_starts_slowly_beside_those_that_serve() -> None:
    upstream = make_upstream(at(9001), slow_start_s=10.0)
    await upstream.start()

    later = await reload(upstream, at(9001), at(9002), slow_start_s=10.0)

    assert [endpoint.share for endpoint in later.endpoints] == pytest.approx([1.0, 0.1])
    await upstream.aclose()
    await later.aclose()


def test_the_retry_budget_follows_the_requests_in_flight() -> None:
    upstream = make_upstream(retry_budget=0.5)
    assert upstream.retry_budget.limit == 3
    for _ in range(20):
        take(upstream)
    assert upstream.retry_budget.limit == 10
