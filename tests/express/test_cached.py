"""What a cache makes of requests that go past its store on the short way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.express.support import warm
from tests.support.gateway import proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

DATE = (b"Date", b"Sat, 28 Nov 2026 00:00:00 GMT")
NO_STORE = response(200, [(b"Cache-Control", b"no-store"), DATE], b"mine")
FRESH = response(200, [(b"Cache-Control", b"max-age=999999999"), DATE], b"ours")


class Changing:
    """An upstream whose answer changes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(self.answer)


def status_of(answer: Any) -> bytes:
    (value,) = answer.values(b"cache-status")
    found: bytes = value
    return found


async def test_what_becomes_shareable_is_stored_with_the_next_request(server: str) -> None:
    changing = Changing(NO_STORE)
    async with (
        ScriptedUpstream(changing) as upstream,
        warm(proxying(upstream.url, cache=True), server=server) as (_, ways, client),
    ):
        seen = []
        for answer in (NO_STORE, NO_STORE, FRESH, FRESH, FRESH, FRESH):
            changing.answer = answer
            client.write(request())
            seen.append((status_of(await client.answer()).partition(b"; ttl=")[0], ways.short))
        refused = b"gateway; fwd=uri-miss; fwd-status=200; detail=no-store"
        assert seen[:2] == [(refused, 1), (refused, 2)]
        # Known to be for each alone, it was asked for alone.
        assert seen[2] == (b"gateway; fwd=uri-miss; fwd-status=200", 3)
        assert seen[3] == (b"gateway; fwd=uri-miss; fwd-status=200; stored", 3)
        assert seen[4:] == [(b"gateway; hit", 4), (b"gateway; hit", 5)]
        assert len(upstream.requests) == 5


@pytest.mark.parametrize(
    ("directives", "body", "detail"),
    [
        # Stale at once, and nothing to ask with whether it still holds: it is never kept.
        (b"no-cache", b"mine", b""),
        (b"max-age=999999999", b"x" * 200, b'; detail="too large"'),
        (b"no-store", b"x" * 200, b'; detail="too large"'),
    ],
)
async def test_what_is_never_kept_goes_on_being_asked_for_alone(
    server: str, directives: bytes, body: bytes, detail: bytes
) -> None:
    answer = response(200, [(b"Cache-Control", directives), DATE], body)
    async with ScriptedUpstream(respond(answer)) as upstream:
        table = {**proxying(upstream.url, cache=True), "cache": {"max_object": "100B"}}
        async with warm(table, server=server) as (_, ways, client):
            for count in range(1, 5):
                client.write(request())
                assert status_of(await client.answer()) == b"gateway; fwd=uri-miss; fwd-status=200" + detail
                assert ways.short == count


async def test_those_with_answers_of_their_own_keep_nobody_from_sharing(server: str) -> None:
    async with (
        ScriptedUpstream(respond(FRESH)) as upstream,
        serving(proxying(upstream.url, cache=True), server=server) as served,
        served.client() as client,
    ):
        seen = []
        for _ in range(4):
            for fields in ([(b"Authorization", b"Bearer a")], []):
                client.write(request(fields=fields))
                answer = await client.answer()
            seen.append(status_of(answer).partition(b"; ttl=")[0])
        passed = b"gateway; fwd=uri-miss; fwd-status=200"
        assert seen == [passed, passed + b"; stored", b"gateway; hit", b"gateway; hit"]


async def test_what_can_be_asked_about_is_kept_again(server: str) -> None:
    changing = Changing(NO_STORE)
    async with (
        ScriptedUpstream(changing) as upstream,
        warm(proxying(upstream.url, cache=True), server=server) as (_, _, client),
    ):
        changing.answer = response(200, [(b"Cache-Control", b"no-cache"), (b"ETag", b'"a"'), DATE], b"ours")
        for _ in range(3):
            client.write(request())
            assert (await client.answer()).body == b"ours"
        assert upstream.requests[-1].values(b"if-none-match") == [b'"a"']


async def test_a_client_that_leaves_is_recorded_with_what_the_cache_had_to_do_with_it(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(NO_STORE)
        await connection.read_request()
        await connection.wait_eof()

    for fields, result in (([(b"Cookie", b"a=1")], "bypass"), ([], "miss")):
        async with (
            ScriptedUpstream(script) as upstream,
            warm(proxying(upstream.url, cache=True, max_concurrent=1), server=server) as (served, _, client),
        ):
            client.write(request(fields=fields))
            await until(lambda: len(upstream.requests) == 2)
            client.leave()
            exchange = (await served.ended(2))[1]
            assert (exchange.status, exchange.outcome, exchange.cache) == (499, "client-left", result)
            assert not served.gateway.runtime.in_flight_on("all").count


async def test_cookies_of_one_client_reach_nobody_else(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            asked = await connection.read_request()
            body = b"".join(asked.values(b"cookie"))
            await connection.send(response(200, [(b"Cache-Control", b"max-age=999999999"), DATE], body))

    async with (
        ScriptedUpstream(script) as upstream,
        warm(proxying(upstream.url, cache=True), server=server) as (_, ways, client),
    ):
        for cookie in (b"a=1", b"a=2", b"", b"a=1", b""):
            client.write(request(fields=[(b"Cookie", cookie)] if cookie else []))
            assert (await client.answer()).body == cookie
        assert ways.short == 5
        assert len(upstream.requests) == 4
