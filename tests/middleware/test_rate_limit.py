from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import CapacityError, TooManyRequests
from gateway.middleware import rate_limit_store
from gateway.middleware.rate_limit import RateLimitMiddleware, client_network, key_maker, sender_of
from gateway.middleware.rate_limit_store import CounterStore
from tests.middleware.auth_support import Clock, inside, request
from tests.stores.redis_server import REDIS_SERVER, FailingProxy, running_redis
from tests.support.messages import Sent, answering, call, http_scope

pytestmark = pytest.mark.anyio

APP = answering(200, [(b"x-app", b"1")])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The library has no seam for its clock."""
    found = Clock()
    monkeypatch.setattr("throttled.utils.now_mono_f", found)
    return found


async def admitted(middleware: RateLimitMiddleware, requests: int, client: str = "192.0.2.1") -> int:
    """How many of some requests at once get through."""
    sent = [await call(middleware, http_scope(client=client)) for _ in range(requests)]
    assert {each.status for each in sent} <= {200, 429}
    return sum(each.status == 200 for each in sent)


@pytest.mark.parametrize(
    ("count", "period_s", "burst"), [(10, 1, 1), (10, 1, 10), (100, 1, 50), (60, 60, 5), (5, 3600, 3), (1, 1, 1)]
)
async def test_over_a_period_the_limit_is_exact_to_one_request(
    clock: Clock, count: int, period_s: float, burst: int
) -> None:
    middleware = RateLimitMiddleware(APP, count=count, period_s=period_s, burst=burst)
    assert abs(await admitted(middleware, burst + 5) - burst) <= 1
    # Many more requests than are allowed, spread evenly over two periods.
    passed, end = 0, clock.now + 2 * period_s
    while (now := clock.now + period_s / count / 97) < end:
        clock.now = now
        passed += await admitted(middleware, 1)
    assert abs(passed - 2 * count) <= 1 + 2 * count / 97


async def test_what_was_not_used_comes_back_up_to_the_burst(clock: Clock) -> None:
    middleware = RateLimitMiddleware(APP, count=8, burst=5)
    assert await admitted(middleware, 9) == 5
    clock.now += 0.25
    assert await admitted(middleware, 9) == 2
    clock.now += 3600
    assert await admitted(middleware, 9) == 5


def number(sent: Sent, name: bytes, pattern: bytes) -> int:
    (value,) = sent.values(name)
    match = re.fullmatch(pattern, value)
    assert match is not None, value
    return int(match[1])


async def test_every_answer_says_what_is_left_and_a_refusal_when_to_come_back(clock: Clock) -> None:
    middleware = RateLimitMiddleware(APP, count=2, period_s=60, burst=3)
    left = []
    for _ in range(3):
        sent = await call(middleware, request())
        assert sent.values(b"ratelimit-policy") == [b'"default";q=2;w=60']
        assert sent.values(b"x-app") == [b"1"]
        left.append(number(sent, b"ratelimit", rb'"default";r=([0-9]+);t=[0-9]+'))
    assert left == [2, 1, 0]
    refused = await call(middleware, request())
    assert refused.status == 429
    assert refused.values(b"ratelimit") == [b'"default";r=0;t=90']
    wait_s = number(refused, b"retry-after", b"([0-9]+)")
    clock.now += wait_s - 1
    assert (await call(middleware, request())).status == 429
    clock.now += 1
    assert (await call(middleware, request())).status == 200


async def test_inside_the_gateway_the_fields_go_to_the_exchange(clock: Clock) -> None:
    middleware = RateLimitMiddleware(APP, count=1, burst=1)
    scope = request()
    exchange = inside(scope)
    sent = await call(middleware, scope)
    assert sent.values(b"ratelimit") == []
    assert [name for name, _ in exchange.response_fields] == [b"ratelimit-policy", b"ratelimit"]
    scope = request()
    exchange = inside(scope)
    with pytest.raises(TooManyRequests) as refused:
        await call(middleware, scope)
    assert [name for name, _ in refused.value.headers] == [b"retry-after", b"ratelimit-policy", b"ratelimit"]
    assert exchange.response_fields == []


async def test_each_client_has_its_own_counter(clock: Clock) -> None:
    middleware = RateLimitMiddleware(APP, count=1, burst=2)
    for client in ("192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        assert await admitted(middleware, 3, client) == 2
    assert await admitted(middleware, 3, "2001:db8:0:1:ffff::9") == 0, "the same network of 64 bits"
    assert await admitted(middleware, 3, "::ffff:192.0.2.1") == 0, "the same address"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_client(address: str, network: str) -> None:
    assert client_network(address) == network


async def test_the_exchange_knows_the_client_better_than_the_connection() -> None:
    scope = http_scope(client="10.0.0.1")
    inside(scope, "203.0.113.9")
    assert key_maker("client-ip")(*sender_of(scope), []) == "client:203.0.113.9"


async def test_users_are_counted_by_name_and_the_nameless_by_address() -> None:
    key = key_maker("user")
    scope = request()
    assert key(*sender_of(scope), []) == "client:192.0.2.1"
    exchange = inside(scope)
    assert key(*sender_of(scope), []) == "client:192.0.2.7"
    exchange.user = "ada"
    assert key(*sender_of(scope), []) == "user:ada"
    exchange.user = "é" * 10_000
    assert len(key(*sender_of(scope), [])) < 64


async def test_header_values_are_neither_kept_nor_unbounded() -> None:
    key = key_maker("header:X-API-Key")
    keys = {
        key("", "", [(b"x-api-key", value) for value in values])
        for values in ([], [b"secret"], [b"secret", b"x"], [b"x", b"secret"], [b"a" * 30_000])
    }
    assert len(keys) == 5
    assert all(len(each) < 64 and "secret" not in each for each in keys)


@pytest.mark.parametrize("key", ["", "ip", "header", "header:", "cookie:a"])
def test_other_keys_are_an_error(key: str) -> None:
    with pytest.raises(ValueError, match="unknown rate limit key"):
        RateLimitMiddleware(APP, count=1, key=key)


@pytest.mark.parametrize("setting", [{"count": 0}, {"burst": 0}, {"period_s": 0.5}, {"period_s": 1.5}])
def test_rates_that_cannot_be_counted_are_an_error(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a rate is"):
        RateLimitMiddleware(APP, **{"count": 1, **setting})


async def test_limits_that_share_a_store_do_not_share_counters(clock: Clock) -> None:
    store = CounterStore()
    one, two = (RateLimitMiddleware(APP, count=1, burst=1, store=store, namespace=name) for name in ("a", "b"))
    assert await admitted(one, 2) == await admitted(two, 2) == 1
    again = RateLimitMiddleware(APP, count=1, burst=1, store=store, namespace="a")
    assert await admitted(again, 2) == 0, "a limit that is made anew goes on counting"
    changed = RateLimitMiddleware(APP, count=2, burst=2, store=store, namespace="a")
    assert await admitted(changed, 3) == 2, "a limit that was changed starts anew"


async def test_memory_is_bounded_and_the_busiest_keep_their_counters(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit_store, "MAX_KEYS", 100)
    middleware = RateLimitMiddleware(APP, count=1, period_s=3600, burst=1)
    assert await admitted(middleware, 1, "192.0.2.1") == 1
    for third in range(10):
        for fourth in range(50):
            await admitted(middleware, 1, f"10.0.{third}.{fourth}")
        assert await admitted(middleware, 1, "192.0.2.1") == 0


async def test_websockets_are_counted_and_lifespans_are_not(clock: Clock) -> None:
    middleware = RateLimitMiddleware(APP, count=1, burst=1)
    for _ in range(3):
        assert (await call(middleware, {"type": "lifespan"})).status == 200
    await call(middleware, {**request(), "type": "websocket"})
    assert (await call(middleware, {**request(), "type": "websocket"})).messages == [{"type": "websocket.close"}]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if REDIS_SERVER is None:
        pytest.skip("needs redis-server on PATH")
    with running_redis(tmp_path_factory.mktemp("redis")) as number:
        yield number


@pytest.fixture
async def stores(port: int) -> AsyncIterator[list[CounterStore]]:
    """Two processes' stores on one empty Redis."""
    redis = Redis(port=port)
    await redis.flushdb()
    await redis.aclose()
    found = [CounterStore(f"redis://127.0.0.1:{port}/0", timeout_s=20) for _ in range(2)]
    yield found
    for store in found:
        await store.aclose()


@pytest.mark.redis
async def test_processes_that_share_a_redis_share_the_limit(stores: list[CounterStore], port: int) -> None:
    first, second = (
        RateLimitMiddleware(APP, count=1, period_s=3600, burst=40, store=store, namespace="r") for store in stores
    )
    sent = await asyncio.gather(*(call(app, request()) for app in (first, second) for _ in range(40)))
    assert abs(sum(each.status == 200 for each in sent) - 40) <= 1
    redis = Redis(port=port, decode_responses=True)
    (key,) = await redis.keys("*")
    assert key == "gw:limit:v1:gcra:r:1/3600+40:client:192.0.2.1"
    assert 0 < await redis.ttl(key) <= 40 * 3600
    await redis.aclose()


@pytest.mark.redis
async def test_nobody_opens_the_limit_by_asking_faster_than_it_counts(
    port: int, stores: list[CounterStore], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit_store, "TURN_S", 60.0)
    store = CounterStore(f"redis://127.0.0.1:{port}/0")
    app = RateLimitMiddleware(APP, count=1, period_s=3600, burst=40, store=store, namespace="f")
    sent = await asyncio.gather(*(call(app, request()) for _ in range(2000)))
    assert sum(each.status == 200 for each in sent) == 40
    assert caplog.text == ""
    await store.aclose()


@pytest.mark.redis
async def test_who_waits_too_long_for_a_turn_goes_on_uncounted_and_one_line_says_so(
    stores: list[CounterStore], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit_store, "TURN_S", 0.0)
    app = RateLimitMiddleware(APP, count=1, period_s=3600, burst=1, store=stores[0], namespace="t")
    sent = await asyncio.gather(*(call(app, request()) for _ in range(200)))
    counted = [each for each in sent if each.values(b"ratelimit")]
    assert len(counted) < 200
    assert sum(each.status == 200 for each in counted) == 1
    assert len(caplog.records) == 1
    assert "not counted" in caplog.text
    caplog.clear()
    assert (await call(app, request())).status == 429


@pytest.mark.redis
async def test_over_redis_too_a_period_brings_what_it_should(stores: list[CounterStore], port: int) -> None:
    redis = Redis(port=port)

    async def now() -> float:
        # Its own clock, which it counts by: ours may run on while that one is set right.
        seconds, microseconds = await redis.time()
        return float(seconds + microseconds / 1e6)

    # The burst outlasts every pause of a busy machine: what came meanwhile is asked for afterwards.
    apps = [RateLimitMiddleware(APP, count=50, burst=100, store=store, namespace="p") for store in stores]
    started, passed, is_used_up = await now(), 0, False
    while not is_used_up or await now() - started < 1.0:
        for app in apps:
            is_used_up = (await call(app, request())).status == 429
            passed += not is_used_up
    elapsed = await now() - started
    await redis.aclose()
    assert abs(passed - (100 + 50 * elapsed)) <= 2


@pytest.mark.redis
@pytest.mark.parametrize("on_error", ["open", "closed"])
async def test_a_redis_that_is_away_decides_nothing_and_is_logged_once(
    port: int, on_error: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit_store, "RETRY_S", 0.0)
    async with FailingProxy(port) as proxy:
        store = CounterStore(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=20)
        middleware = RateLimitMiddleware(APP, count=1, period_s=3600, store=store, on_error=on_error, namespace="x")
        assert (await call(middleware, request())).status == 200
        await proxy.close()
        for _ in range(5):
            sent = await call(middleware, request())
            assert sent.status == (200 if on_error == "open" else 503)
            assert sent.values(b"ratelimit") == []
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "away" in caplog.text
        await proxy.open()
        sent = await call(middleware, request())
        assert (sent.status, len(sent.values(b"ratelimit"))) == (200, 1)
        assert len(caplog.records) == 2
        assert "back" in caplog.text
        scope = request()
        inside(scope)
        await proxy.close()
        if on_error == "closed":
            with pytest.raises(CapacityError):
                await call(middleware, scope)
        await store.aclose()


@pytest.mark.redis
async def test_a_redis_that_failed_is_left_alone_for_a_while(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit_store, "RETRY_S", 3600.0)
    async with FailingProxy(port) as proxy:
        store = CounterStore(f"redis://127.0.0.1:{proxy.port}/0")
        middleware = RateLimitMiddleware(APP, count=1, store=store)
        proxy.silent = True
        await call(middleware, request())
        connections = proxy.connections
        for _ in range(20):
            assert (await call(middleware, request())).status == 200
        assert proxy.connections == connections
        await store.aclose()


@pytest.mark.redis
async def test_an_answer_that_is_an_error_is_a_failure_of_the_store(
    port: int, stores: list[CounterStore], caplog: pytest.LogCaptureFixture
) -> None:
    redis = Redis(port=port)
    await redis.lpush("gw:limit:v1:gcra:e:1/1+50:client:192.0.2.1", "no number")
    await redis.aclose()
    middleware = RateLimitMiddleware(APP, count=1, store=stores[0], namespace="e")
    assert (await call(middleware, request())).status == 200
    assert "WRONGTYPE" in caplog.text


async def test_a_closed_memory_store_is_no_trouble() -> None:
    await CounterStore().aclose()
