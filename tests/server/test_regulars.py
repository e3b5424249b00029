"""Clients that come again with the same words are let in as before, and nothing is kept that must not be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
from starlette.types import Scope

from gateway.exchange import Admitted
from gateway.express.table import Express
from gateway.server.framing import PlainSection
from gateway.server.regulars import Regulars
from tests.support.gateway import Served, make_gateway, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

EXPRESS = cast(Express, object())


def words(*fields: tuple[bytes, bytes], express: Express = EXPRESS, is_admitted: bool = True) -> PlainSection:
    lines = b"".join(b"\r\n%b: %b" % field for field in fields)
    section = PlainSection(lines + b"\r\n\r\n", list(fields), True)
    section.express = express
    section.admitted = cast(Admitted, object()) if is_admitted else None
    return section


PLAIN = words((b"host", b"a"), (b"accept", b"*/*"))


def test_what_comes_once_is_not_remembered() -> None:
    regulars = Regulars()
    for number in range(1000):
        regulars.meet(f"10.0.{number >> 8}.{number & 255}", PLAIN)
    assert not len(regulars)


def test_what_comes_again_is_remembered_for_that_client_alone() -> None:
    regulars = Regulars()
    for _ in range(2):
        assert regulars.find("10.0.0.1") is None
        regulars.meet("10.0.0.1", PLAIN)
    assert regulars.find("10.0.0.1") is PLAIN
    assert regulars.find("10.0.0.2") is None


def test_the_last_words_count() -> None:
    regulars, other = Regulars(), words((b"host", b"b"))
    for said in (PLAIN, PLAIN, other, other):
        regulars.meet("10.0.0.1", said)
    assert regulars.find("10.0.0.1") is other


@pytest.mark.parametrize(
    "said",
    [
        words((b"host", b"a"), (b"cookie", b"secret")),
        words((b"host", b"a"), (b"authorization", b"secret")),
        words((b"host", b"a"), (b"x-api-key", b"secret")),
        words((b"host", b"a"), is_admitted=False),
        words((b"host", b"a"), (b"x-filler", b"a" * 4096)),
    ],
    ids=["a cookie", "a password", "a key", "what has to be judged anew", "many"],
)
def test_some_words_are_not_remembered(said: PlainSection) -> None:
    regulars = Regulars()
    for _ in range(3):
        regulars.meet("10.0.0.1", said)
    assert not len(regulars)


def test_there_is_an_end_to_what_is_remembered() -> None:
    regulars = Regulars()
    for number in range(3000):
        for _ in range(2):
            regulars.meet(f"client {number}", PLAIN)
    assert len(regulars) == 512
    assert regulars.find("client 2999") is not None


def test_what_words_meant_in_another_table_is_forgotten() -> None:
    regulars, later = Regulars(), cast(Express, object())
    for _ in range(2):
        regulars.meet("10.0.0.1", PLAIN)
    regulars.keep_only(EXPRESS)
    assert len(regulars) == 1
    regulars.meet("10.0.0.2", words((b"host", b"a"), express=later))
    assert not len(regulars)


# The whole gateway.


class Judged:
    """The header sections that were judged."""

    def __init__(self, served: Served) -> None:
        self.scopes: list[Scope] = []
        self._express = served.gateway.generation.express
        self._admit = self._express.admit
        self._express.admit = self._note  # type: ignore[method-assign]

    def _note(self, scope: Scope) -> Admitted | None:
        self.scopes.append(scope)
        return self._admit(scope)


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(respond(response(200, body=b"ok"))) as upstream:
        yield upstream


async def ask(served: Served, raw: bytes) -> dict[bytes, bytes]:
    """The fields of the answer on a new connection, without those that differ each time."""
    answer = await served.ask(raw)
    assert (answer.status, answer.body) == (200, b"ok")
    return {name: value for name, value in answer.fields if name not in (b"date", b"x-request-id")}


async def test_a_client_that_comes_again_is_judged_twice_and_served_the_same(origin: ScriptedUpstream) -> None:
    raw = request("GET", b"/a?b", [(b"Accept", b"*/*"), (b"X-Forwarded-For", b"10.9.8.7"), (b"Connection", b"X-Own")])
    async with serving(proxying(origin.url)) as served:
        judged = Judged(served)
        answers = [await ask(served, raw) for _ in range(5)]
        exchanges = await served.ended(5)
    assert len(judged.scopes) == 2
    assert answers == [answers[0]] * 5
    ids = [own for seen in origin.requests for own in seen.values(b"x-request-id")]
    assert len({*ids}) == 5
    heads = [seen.head.replace(own, b"id") for seen, own in zip(origin.requests, ids, strict=True)]
    assert heads == [heads[0]] * 5
    assert {(exchange.client, exchange.host, exchange.scheme) for exchange in exchanges} == {
        (exchanges[0].client, exchanges[0].host, "http")
    }


async def test_a_regular_may_say_something_else(origin: ScriptedUpstream) -> None:
    usual, other = request("GET", b"/", [(b"X-Who", b"usual")]), request("GET", b"/", [(b"X-Who", b"other")])
    async with serving(proxying(origin.url)) as served:
        for raw in (usual, usual, other, usual, other, other, usual):
            await ask(served, raw)
    who = [seen.values(b"x-who") for seen in origin.requests]
    assert who == [[b"usual"], [b"usual"], [b"other"], [b"usual"], [b"other"], [b"other"], [b"usual"]]


async def test_a_client_with_a_cookie_is_judged_each_time(origin: ScriptedUpstream) -> None:
    async with serving(proxying(origin.url)) as served:
        judged = Judged(served)
        for _ in range(4):
            await ask(served, request("GET", b"/", [(b"Cookie", b"a=1")]))
        assert served.connections is not None and not len(served.connections.regulars)
    assert len(judged.scopes) == 4


async def test_a_regular_is_served_by_the_new_table_after_a_reload(origin: ScriptedUpstream) -> None:
    async with serving(proxying(origin.url)) as served:
        for _ in range(3):
            assert b"x-table" not in await ask(served, request())
        rules = {"set": {"X-Table": "2"}}
        await served.gateway.reload(make_gateway(proxying(origin.url, response_headers=rules)).config)
        for _ in range(3):
            assert (await ask(served, request()))[b"x-table"] == b"2"
        # What no client asks for again goes with the next sweep.
        assert served.connections is not None and len(served.connections.regulars) == 1
        await served.gateway.reload(make_gateway(proxying(origin.url)).config)
        served.connections.sweep(0.0)
        assert not len(served.connections.regulars)
