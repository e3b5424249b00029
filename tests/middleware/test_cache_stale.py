"""stale-while-revalidate and stale-if-error, RFC 5861."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import BadRequest, ConnectFailed, GatewayError, NoEndpoint, ResponseBroken
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.middleware import cache_handle
from gateway.middleware.cache import Cache
from tests.middleware.cache_origin import Answer, Clock, Origin, cached, get, is_hit, settle, status_of

pytestmark = pytest.mark.anyio

ETAG = (b"etag", b'"1"')


def cc(value: bytes) -> tuple[bytes, bytes]:
    return b"cache-control", value


async def finished(cache: Cache) -> None:
    await asyncio.gather(*cache.background)


@pytest.mark.parametrize("setting", ["answer", "route"])
async def test_stale_answer_is_given_while_it_is_validated(setting: str) -> None:
    clock = Clock()
    gate = asyncio.Event()
    value = b"max-age=60, stale-while-revalidate=30" if setting == "answer" else b"max-age=60"
    origin = Origin(clock, Answer(headers=[cc(value), ETAG]), Answer(headers=[cc(value)], pieces=[b"new"], gate=gate))
    app = cached(origin, clock, stale_while_revalidate_s=30 if setting == "route" else 0)
    await get(app)
    clock.now += 70
    for _ in range(5):
        sent = await get(app)
        assert sent.body == b"body"
        assert status_of(sent) == b"gateway; hit; ttl=-10"
        assert sent.values(b"age") == [b"70"]
    await settle()
    assert origin.count == 2
    assert origin.asked()[b"if-none-match"] == b'"1"'
    gate.set()
    await finished(app.cache)
    sent = await get(app)
    assert is_hit(sent)
    assert sent.body == b"new"


async def test_validation_behind_takes_nothing_of_the_client_with_it() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60, stale-while-revalidate=30"), ETAG]))
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    exchange = Exchange("GET", b"/")
    exchange.public_host, exchange.route, exchange.request_id = b"example.com", "shop", "id"

    def cut() -> None:
        raise AssertionError

    extensions = {"gateway.abort": cut, "tls": {"version": 4}}
    await get(app, b"/", **{SCOPE_KEY: exchange, "extensions": extensions})
    await finished(app.cache)
    scope = origin.scopes[-1]
    assert scope["extensions"] == {"tls": {"version": 4}}
    assert scope[SCOPE_KEY] is not exchange
    assert (scope[SCOPE_KEY].route, scope[SCOPE_KEY].request_id) == ("shop", "id")
    assert exchange.cache == "stale"


async def test_validation_behind_gets_an_empty_request_body() -> None:
    clock = Clock()
    bodies: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(await receive())
        await origin(scope, receive, send)

    origin = Origin(clock, Answer(headers=[cc(b"max-age=60, stale-while-revalidate=30")]))
    middleware = cached(app, clock)
    await get(middleware)
    clock.now += 70
    await get(middleware)
    await finished(middleware.cache)
    assert bodies[1] == {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("outcome", ["error", "broken", "private", "503"])
async def test_validation_behind_that_fails(outcome: str) -> None:
    clock = Clock()
    value = cc(b"max-age=60, stale-while-revalidate=30")
    second = {
        "error": Answer(error_before_head=ConnectFailed("refused")),
        "broken": Answer(headers=[value], error=ResponseBroken("cut")),
        "private": Answer(headers=[cc(b"private")], pieces=[b"secret"]),
        "503": Answer(status=503),
    }[outcome]
    origin = Origin(clock, Answer(headers=[value]), second, Answer(headers=[value], pieces=[b"new"]))
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    assert (await get(app)).body == b"body"
    await finished(app.cache)
    # What was given once more is still there, unless the resource turned out not to be for a cache.
    assert (await get(app)).body == (b"new" if outcome == "private" else b"body")
    await finished(app.cache)


async def test_defect_behind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60, stale-while-revalidate=30")]),
        Answer(error_before_head=RuntimeError("a defect")),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    with caplog.at_level(logging.ERROR, "gateway.cache"):
        await get(app)
        await finished(app.cache)
    assert "a defect" in caplog.text


async def test_validations_behind_are_bounded_and_end_with_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_handle, "MAX_BEHIND", 3)
    clock = Clock()
    blocked = Answer(gate=asyncio.Event())
    answers = [Answer(headers=[cc(b"max-age=60, stale-while-revalidate=30")]) for _ in range(9)]
    origin = Origin(clock, *answers, blocked)
    app = cached(origin, clock)
    for number in range(9):
        await get(app, b"/%d" % number)
    clock.now += 70
    for number in range(9):
        assert (await get(app, b"/%d" % number)).body == b"body"
    await settle()
    assert origin.count == 12
    tasks = list(app.cache.background)
    await app.aclose()
    assert len(tasks) == 3
    assert all(task.cancelled() for task in tasks)
    assert not app.cache.background


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        pytest.param(Answer(status=500), b"; fwd-status=500", id="500"),
        pytest.param(Answer(status=503, pieces=[b"a", b"b"]), b"; fwd-status=503", id="503"),
        pytest.param(Answer(error_before_head=ConnectFailed("refused")), b"", id="refused"),
        pytest.param(Answer(error_before_head=NoEndpoint("none")), b"", id="no-endpoint"),
        pytest.param(Answer(error_before_head=RuntimeError("defect")), b"", id="defect"),
    ],
)
@pytest.mark.parametrize("setting", ["answer", "route", "request"])
async def test_stale_answer_stands_for_an_upstream_that_fails(failure: Answer, status: bytes, setting: str) -> None:
    clock = Clock()
    value = b"max-age=60, stale-if-error=30" if setting == "answer" else b"max-age=60"
    asked = [cc(b"stale-if-error=30")] if setting == "request" else []
    origin = Origin(clock, Answer(headers=[cc(value), ETAG]), failure)
    app = cached(origin, clock, stale_if_error_s=30 if setting == "route" else 0)
    await get(app)
    clock.now += 90
    sent = await get(app, b"/", *asked)
    assert (sent.status, sent.body) == (200, b"body")
    assert status_of(sent) == b"gateway; fwd=stale" + status + b"; ttl=-30; detail=stale-if-error"
    clock.now += 1
    if failure.error_before_head is None:
        assert (await get(app, b"/", *asked)).status == failure.status
    else:
        with pytest.raises(type(failure.error_before_head)):
            await get(app, b"/", *asked)


async def test_other_errors_are_passed_on() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60, stale-if-error=30"), ETAG]),
        Answer(status=404, pieces=[b"gone"]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    assert (await get(app)).status == 404


async def test_fault_of_the_client_is_not_covered_up() -> None:
    clock = Clock()
    origin = Origin(
        clock, Answer(headers=[cc(b"max-age=60, stale-if-error=30"), ETAG]), Answer(error_before_head=BadRequest("x"))
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    with pytest.raises(BadRequest):
        await get(app)


@pytest.mark.parametrize("directive", [b"must-revalidate", b"proxy-revalidate", b"no-cache"])
async def test_answers_that_forbid_it_are_never_given_stale(directive: bytes) -> None:
    clock = Clock()
    value = b"max-age=60, stale-while-revalidate=99, stale-if-error=99, " + directive
    origin = Origin(clock, Answer(headers=[cc(value), ETAG]), Answer(status=503))
    app = cached(origin, clock, stale_while_revalidate_s=99, stale_if_error_s=99)
    await get(app)
    clock.now += 70
    assert (await get(app, b"/", cc(b"max-stale"))).status == 503


async def test_all_who_wait_get_the_stale_answer() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60, stale-if-error=30"), ETAG]),
        Answer(error_before_head=ConnectFailed("refused"), gate=gate),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 70
    waiting = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    gate.set()
    assert {sent.body for sent in await asyncio.gather(*waiting)} == {b"body"}
    assert origin.count == 2


async def test_all_who_wait_share_the_failure_of_the_upstream() -> None:
    clock = Clock()
    gate = asyncio.Event()
    error = ConnectFailed("refused")
    origin = Origin(clock, Answer(error_before_head=error, gate=gate))
    app = cached(origin, clock)
    waiting = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert origin.count == 1
    assert all(isinstance(result, ConnectFailed) and result.reason == "refused" for result in results)
    assert len({id(result) for result in results}) == 10


async def test_failure_of_the_leading_client_is_not_that_of_the_others() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(error_before_head=BadRequest("x"), gate=gate), Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    waiting = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(result, GatewayError) for result in results) == 1
    assert origin.count == 2
