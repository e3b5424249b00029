from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import SCOPE_KEY, Exchange
from gateway.upstream.balancing import (
    First,
    LeastRequests,
    PowerOfTwo,
    Random,
    Rendezvous,
    RoundRobin,
    make_balancer,
    make_key,
)
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import Balance
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import at, endpoints_of, make_upstream

TraceFunction: TypeAlias = Callable[[FrameType, str, Any], Any]

WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=8)

MANY_WEIGHTS = st.lists(st.integers(1, 4) | st.integers(1, 1000), min_size=1, max_size=40)

CHANGES = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=8, max_size=8),
        st.lists(st.integers(1, 5), min_size=8, max_size=8),
        st.lists(st.sampled_from([0.125, 0.5, 1.0]), min_size=8, max_size=8),
        st.integers(1, 60),
    ),
    min_size=1,
    max_size=12,
)
"""Who is in of eight endpoints, their weights, how warm they are, and for how many choices that holds."""


def ports(endpoints: list[Endpoint]) -> list[int]:
    return [endpoint.settings.port - 9000 for endpoint in endpoints]


@pytest.mark.parametrize(
    ("weights", "sequence"),
    [
        ((1, 1, 1), [1, 2, 3, 1, 2, 3, 1]),
        ((5, 1, 1), [1, 1, 2, 1, 3, 1, 1]),
        ((2, 1), [1, 2, 1, 1, 2, 1, 1]),
        ((1,), [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_round_robin_is_smooth(weights: tuple[int, ...], sequence: list[int]) -> None:
    endpoints, balancer = endpoints_of(*weights), RoundRobin()

    assert ports([balancer.pick(endpoints, {}) for _ in sequence]) == sequence


@given(WEIGHTS)
def test_a_round_gives_every_endpoint_its_weight(weights: list[int]) -> None:
    endpoints, balancer = endpoints_of(*weights), RoundRobin()

    for _ in range(2):
        counts = Counter(balancer.pick(endpoints, {}) for _ in range(sum(weights)))
        assert [counts[endpoint] for endpoint in endpoints] == weights


def test_round_robin_goes_on_evenly_when_one_is_missing_for_a_while() -> None:
    endpoints, balancer = endpoints_of(1, 1, 1), RoundRobin()
    for _ in range(7):
        balancer.pick(endpoints, {})
    for _ in range(7):
        balancer.pick(endpoints[:2], {})

    counts = Counter(balancer.pick(endpoints, {}) for _ in range(30))

    assert all(9 <= counts[endpoint] <= 11 for endpoint in endpoints)


class Smooth:
    """Round-robin by the definition: every endpoint gains its share, the highest is chosen and pays for all."""

    def __init__(self) -> None:
        self.turns: dict[Endpoint, float] = {}

    def pick(self, endpoints: tuple[Endpoint, ...]) -> Endpoint:
        for endpoint in endpoints:
            self.turns[endpoint] = self.turns.get(endpoint, 0.0) + endpoint.share
        chosen = max(endpoints, key=self.turns.__getitem__)
        self.turns[chosen] -= sum(endpoint.share for endpoint in endpoints)
        return chosen


@given(MANY_WEIGHTS)
def test_round_robin_chooses_as_it_is_defined(weights: list[int]) -> None:
    endpoints, balancer, smooth = endpoints_of(*weights), RoundRobin(), Smooth()

    for _ in range(100):
        assert balancer.pick(endpoints, {}) is smooth.pick(endpoints)


@given(CHANGES)
def test_round_robin_chooses_as_it_is_defined_while_endpoints_and_shares_change(changes: list[Any]) -> None:
    everyone, balancer, smooth = endpoints_of(*[1] * 8), RoundRobin(), Smooth()
    for is_in, weights, warmths, count in changes:
        for endpoint, weight, warmth in zip(everyone, weights, warmths, strict=True):
            endpoint.weight, endpoint.warmth = weight, warmth
        endpoints = tuple(endpoint for endpoint, here in zip(everyone, is_in, strict=True) if here)
        for _ in range(count if endpoints else 0):
            assert balancer.pick(endpoints, {}) is smooth.pick(endpoints)


@given(MANY_WEIGHTS, st.floats(0.1, 1.0))
def test_round_robin_keeps_to_the_shares_at_every_moment(weights: list[int], warmth: float) -> None:
    endpoints, balancer = endpoints_of(*weights), RoundRobin()
    endpoints[0].warmth = warmth
    total = sum(endpoint.share for endpoint in endpoints)
    counts: Counter[Endpoint] = Counter()

    for number in range(1, 100):
        counts[balancer.pick(endpoints, {})] += 1
        owed = {endpoint: number * endpoint.share / total - counts[endpoint] for endpoint in endpoints}
        assert min(owed.values()) > -1.0
        # What all are owed is what all have got too much, so nobody waits longer than it takes to give it back.
        assert sum(owed.values()) == pytest.approx(0.0, abs=1e-9)
        assert max(owed.values()) < len(endpoints)


@pytest.mark.parametrize("seed", range(10))
def test_round_robin_lets_nobody_wait_for_two_rounds_while_others_come_and_go(seed: int) -> None:
    endpoints, balancer, rng = endpoints_of(1, 1, 5, 5, 20), RoundRobin(), random.Random(seed)
    waits = dict.fromkeys(endpoints, 0)
    for _ in range(1000):
        here = tuple(endpoint for endpoint in endpoints if rng.random() < 0.7) or endpoints
        chosen = balancer.pick(here, {})
        for endpoint in here:
            waits[endpoint] += 1
        waits[chosen] = 0

        assert max(waits.values()) < 2 * sum(endpoint.share for endpoint in endpoints)


def least_loaded(endpoints: tuple[Endpoint, ...]) -> set[Endpoint]:
    """Those that may be chosen, by the definition."""
    loads = {endpoint: endpoint.in_flight / endpoint.share for endpoint in endpoints}
    return {endpoint for endpoint, load in loads.items() if load == min(loads.values())}


@given(CHANGES, st.integers())
def test_least_requests_takes_one_of_the_least_loaded_while_all_changes(changes: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    everyone, balancer = endpoints_of(*[1] * 8), LeastRequests(rng)
    held: list[Endpoint] = []
    for is_in, weights, warmths, count in changes:
        for endpoint, weight, warmth in zip(everyone, weights, warmths, strict=True):
            endpoint.weight, endpoint.warmth = weight, warmth
        endpoints = tuple(endpoint for endpoint, here in zip(everyone, is_in, strict=True) if here)
        for _ in range(count if endpoints else 0):
            chosen = balancer.pick(endpoints, {})
            assert chosen in least_loaded(endpoints)
            if rng.random() < 0.9:
                chosen.in_flight += 1
                held.append(chosen)
            if rng.random() < 0.1:
                # A place that was given without a choice: to one that waited, or by the upstream before a reload.
                held.append(rng.choice(everyone))
                held[-1].in_flight += 1
            while held and rng.random() < 0.5:
                ended = held.pop(rng.randrange(len(held)))
                ended.in_flight -= 1
                balancer.on_release(ended)


@pytest.mark.parametrize("shares", [(1, 1, 1, 1), (1, 1, 2, 4), (3, 1, 2, 1)])
def test_least_requests_draws_among_equals_by_their_shares(shares: tuple[int, ...]) -> None:
    endpoints, balancer = endpoints_of(*shares, 1), LeastRequests(random.Random(2))
    for endpoint in endpoints:
        endpoint.in_flight = 2 * endpoint.weight
    endpoints[-1].in_flight = 9
    # One that is taken is no longer among them.
    balancer.pick(endpoints, {}).in_flight += 1
    busier = next(endpoint for endpoint in endpoints[:-1] if endpoint.in_flight > 2 * endpoint.weight)

    counts = Counter(balancer.pick(endpoints, {}) for _ in range(20_000))

    left = [endpoint for endpoint in endpoints[:-1] if endpoint is not busier]
    assert set(counts) == set(left)
    for endpoint in left:
        assert counts[endpoint] / 20_000 == pytest.approx(endpoint.share / sum(other.share for other in left), abs=0.02)


def test_least_requests_goes_by_load_for_the_weight() -> None:
    light, heavy = endpoints_of(1, 4)
    light.in_flight, heavy.in_flight = 2, 7

    assert LeastRequests(random.Random(1)).pick((light, heavy), {}) is heavy
    heavy.in_flight = 9
    assert LeastRequests(random.Random(1)).pick((light, heavy), {}) is light


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers())
def test_least_requests_never_takes_a_busier_one(in_flight: list[int], seed: int) -> None:
    endpoints = endpoints_of(*[1] * len(in_flight))
    for endpoint, count in zip(endpoints, in_flight, strict=True):
        endpoint.in_flight = count

    assert LeastRequests(random.Random(seed)).pick(endpoints, {}).in_flight == min(in_flight)


@pytest.mark.parametrize("name", ["p2c", "least-requests", "random", "hash"])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 1, 1, 1), (4, 3, 2, 1)])
def test_idle_endpoints_get_requests_by_weight(name: Balance, weights: tuple[int, ...]) -> None:
    endpoints = endpoints_of(*weights)
    # A header that is missing: then the hash goes by lot as well.
    balancer = make_balancer(name, "header:X-Key", random.Random(7))

    counts = Counter(balancer.pick(endpoints, http_scope()) for _ in range(20_000))

    for endpoint, weight in zip(endpoints, weights, strict=True):
        assert counts[endpoint] / 20_000 == pytest.approx(weight / sum(weights), abs=0.02)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=2, max_size=2), st.integers())
def test_two_choices_among_two_take_the_less_loaded(state: list[tuple[int, int]], seed: int) -> None:
    endpoints = endpoints_of(*[weight for weight, _ in state])
    for endpoint, (_, in_flight) in zip(endpoints, state, strict=True):
        endpoint.in_flight = in_flight

    picked = PowerOfTwo(random.Random(seed)).pick(endpoints, {})

    assert picked.in_flight / picked.share == min(endpoint.in_flight / endpoint.share for endpoint in endpoints)


@given(WEIGHTS.filter(lambda weights: len(weights) > 1), st.integers())
def test_two_choices_never_take_the_busiest_alone(weights: list[int], seed: int) -> None:
    endpoints = endpoints_of(*weights)
    endpoints[0].in_flight = 1000
    balancer = PowerOfTwo(random.Random(seed))

    assert all(balancer.pick(endpoints, {}) is not endpoints[0] for _ in range(20))


def test_two_choices_spread_held_requests_nearly_evenly() -> None:
    endpoints = endpoints_of(*[1] * 10)
    balancer = PowerOfTwo(random.Random(3))
    for _ in range(1000):
        balancer.pick(endpoints, {}).in_flight += 1

    assert all(90 <= endpoint.in_flight <= 110 for endpoint in endpoints)


def served_under_load(name: Balance, service_s: tuple[float, ...], requests: int = 6000) -> Counter[int]:
    """Requests by endpoint when one comes every 10 ms and each keeps its endpoint as busy as ``service_s`` says."""
    upstream = make_upstream(*[at(9001 + number) for number in range(len(service_s))], balance=name, seed=5)
    ends: list[tuple[float, int]] = []
    counts: Counter[int] = Counter()
    for number in range(requests):
        now = 0.01 * number
        while ends and ends[0][0] <= now:
            upstream.release(upstream.endpoints[heapq.heappop(ends)[1]])
        endpoint = upstream.try_acquire(http_scope())
        assert endpoint is not None
        chosen = upstream.endpoints.index(endpoint)
        counts[chosen] += 1
        heapq.heappush(ends, (now + service_s[chosen], chosen))
    return counts


@pytest.mark.parametrize("name", ["p2c", "least-requests"])
@pytest.mark.parametrize("service_s", [(0.02, 0.02, 1.0), (1.0, 0.02, 0.03, 0.02)])
def test_a_slow_server_gets_less_than_a_third_of_the_even_share(name: Balance, service_s: tuple[float, ...]) -> None:
    counts = served_under_load(name, service_s)

    even = sum(counts.values()) / len(service_s)
    assert counts[service_s.index(1.0)] < even / 3
    assert served_under_load("round-robin", service_s)[service_s.index(1.0)] == even


def steps(upstream: Upstream) -> int:
    """Instructions of the interpreter for a request that comes and goes, once all is prepared."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> TraceFunction:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    def one_request() -> None:
        endpoint = upstream.try_acquire(scope)
        assert endpoint is not None
        upstream.release(endpoint)

    scope = http_scope()
    one_request()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        one_request()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", get_args(Balance))
def test_a_choice_costs_no_more_for_more_endpoints(name: Balance) -> None:
    few, many = (
        make_upstream(*[at(9001 + number, weight=1 + number % 3) for number in range(count)], balance=name)
        for count in (6, 600)
    )

    assert steps(many) < 1.5 * steps(few)


def test_first_takes_the_first() -> None:
    endpoints = endpoints_of(1, 1, 1)

    assert First().pick(endpoints, {}) is endpoints[0]
    assert First().pick(endpoints[1:], {}) is endpoints[1]


def test_new_weights_come_with_a_new_tuple() -> None:
    endpoints, balancer = endpoints_of(1, 1), Random(random.Random(1))
    balancer.pick(endpoints, {})
    endpoints[0].weight = 0

    assert {balancer.pick(tuple(list(endpoints)), {}) for _ in range(50)} == {endpoints[1]}


def test_every_policy_of_the_configuration_exists() -> None:
    names: list[Balance] = ["round-robin", "least-requests", "p2c", "random", "hash", "first"]
    endpoints = endpoints_of(1)
    for name in names:
        assert make_balancer(name, "client-ip", random.Random(1)).pick(endpoints, http_scope()) is endpoints[0]


KEYS = [b"client-%d" % number for number in range(3000)]


def by_key(endpoints: tuple[Endpoint, ...], seed: int = 1) -> dict[bytes, Endpoint]:
    balancer = Rendezvous(lambda scope: scope["key"], random.Random(seed))
    return {key: balancer.pick(endpoints, {"key": key}) for key in KEYS}


def test_a_key_stays_with_its_endpoint_in_every_process() -> None:
    one, other = by_key(endpoints_of(1, 1, 1), seed=1), by_key(endpoints_of(1, 1, 1), seed=2)

    assert {key: endpoint.label for key, endpoint in one.items()} == {key: e.label for key, e in other.items()}


def test_what_is_remembered_of_a_key_goes_with_the_endpoints_it_was_chosen_from() -> None:
    endpoints = endpoints_of(1, 1, 1)
    balancer = Rendezvous(lambda scope: scope["key"], random.Random(1))
    first = balancer.pick(endpoints, {"key": b"a"})
    others = tuple(endpoint for endpoint in endpoints if endpoint is not first)

    assert balancer.pick(others, {"key": b"a"}) in others
    assert balancer.pick(endpoints, {"key": b"a"}) is first


def test_a_long_key_is_hashed_like_any_other() -> None:
    endpoints = endpoints_of(1, 1, 1)
    balancer = Rendezvous(lambda scope: scope["key"], random.Random(1))

    chosen = [balancer.pick(endpoints, {"key": b"%d" % number * 200}) for number in range(100)]

    assert set(chosen) == set(endpoints)
    assert chosen == [balancer.pick(endpoints, {"key": b"%d" % number * 200}) for number in range(100)]


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3), (5, 1)])
def test_keys_spread_by_weight(weights: tuple[int, ...]) -> None:
    endpoints = endpoints_of(*weights)
    counts = Counter(by_key(endpoints).values())

    for endpoint, weight in zip(endpoints, weights, strict=True):
        assert counts[endpoint] / len(KEYS) == pytest.approx(weight / sum(weights), abs=0.04)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (4, 3, 2, 1)])
def test_an_endpoint_that_goes_moves_only_its_own_keys(weights: tuple[int, ...]) -> None:
    endpoints = endpoints_of(*weights)
    before = by_key(endpoints)
    for gone in endpoints:
        after = by_key(tuple(endpoint for endpoint in endpoints if endpoint is not gone))
        assert {key for key in KEYS if before[key] is not after[key]} == {k for k in KEYS if before[k] is gone}


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 1, 2), (1, 1)])
def test_an_endpoint_that_comes_moves_no_more_than_its_share(weights: tuple[int, ...]) -> None:
    endpoints = endpoints_of(*weights)
    keys = [{"key": b"%d" % number} for number in range(20_000)]
    balancer = Rendezvous(lambda scope: scope["key"], random.Random(1))
    before = [balancer.pick(endpoints[:-1], key) for key in keys]
    after = [balancer.pick(endpoints, key) for key in keys]

    moved = [new for old, new in zip(before, after, strict=True) if old is not new]
    assert set(moved) == {endpoints[-1]}
    assert len(moved) / len(keys) == pytest.approx(weights[-1] / sum(weights), abs=0.02)


def test_a_heavier_endpoint_only_gains_keys() -> None:
    endpoints = endpoints_of(1, 1, 1)
    before = by_key(endpoints)
    endpoints[0].weight = 3
    after = by_key(endpoints)

    moved = [key for key in KEYS if before[key] is not after[key]]
    assert moved
    assert all(after[key] is endpoints[0] for key in moved)


def with_exchange(client: str) -> dict[str, Any]:
    exchange = Exchange("GET", b"/")
    exchange.client = client
    return {**http_scope(), SCOPE_KEY: exchange}


@pytest.mark.parametrize(
    ("hash_on", "scope", "key"),
    [
        ("client-ip", http_scope(client="192.0.2.7"), b"192.0.2.7"),
        ("client-ip", with_exchange("198.51.100.4"), b"198.51.100.4"),
        ("client-ip", with_exchange(""), b"192.0.2.1"),
        ("client-ip", {**http_scope(), "client": None}, None),
        ("path", http_scope(target=b"/a%2Fb?q=1"), b"/a%2Fb"),
        ("header:X-Key", http_scope(headers=[(b"x-key", b"1"), (b"x-key", b"2")]), b"1"),
        ("header:X-Key", http_scope(headers=[(b"x-key", b"")]), None),
        ("header:X-Key", http_scope(), None),
        ("cookie:sid", http_scope(headers=[(b"cookie", b"a=1; sid=x=y"), (b"cookie", b"sid=z")]), b"x=y"),
        ("cookie:sid", http_scope(headers=[(b"cookie", b"SID=1; xsid=2")]), None),
        ("query:v", http_scope(target=b"/?u=1&v=2&v=3"), b"2"),
        ("query:v", http_scope(target=b"/?vv=2&v"), None),
        ("query:für wen", http_scope(target=b"/?f%C3%BCr+wen=2"), b"2"),
    ],
)
def test_what_is_hashed(hash_on: str, scope: dict[str, Any], key: bytes | None) -> None:
    assert make_key(hash_on)(scope) == key


@pytest.mark.parametrize("hash_on", ["", "host", "header:", "client"])
def test_unknown_keys_are_refused(hash_on: str) -> None:
    with pytest.raises(ValueError, match="hashed"):
        make_key(hash_on)
