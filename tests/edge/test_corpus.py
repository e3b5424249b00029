"""Every row of the corpus through a whole gateway, in one piece and cut into pieces, against a careless upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.edge.corpus import CORPUS, Row, get
from tests.edge.loose import answering, readings, strict_reading
from tests.support.gateway import Answer, Client, Served, proxying, serving, until
from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.anyio

PROBE = b"/probe"


def whole(raw: bytes) -> list[bytes]:
    return [raw]


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[index : index + 1] for index in range(len(raw))]


def after_line_ends(raw: bytes) -> list[bytes]:
    """Cut between CR and LF, and behind the LF: where a parser has to remember what it saw."""
    pieces = raw.replace(b"\r", b"\r\x00cut").replace(b"\n", b"\n\x00cut").split(b"\x00cut")
    return [piece for piece in pieces if piece]


CUTS = {"whole": whole, "at line ends": after_line_ends, "byte by byte": bytewise}
SHORT_BYTES = 1500


def test_the_corpus_is_large_and_its_names_tell_the_rows_apart() -> None:
    assert len(CORPUS) >= 150
    assert len({row.name for row in CORPUS}) == len(CORPUS)
    assert not any(b"/smuggled" in target for row in CORPUS for target in row.forwards)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.name)
async def test_nothing_ambiguous_arrives(row: Row, cut: str) -> None:
    if cut == "byte by byte" and len(row.raw) > SHORT_BYTES:
        return
    async with ScriptedUpstream(answering) as upstream, serving(proxying(upstream.url, retry=False)) as served:
        async with served.client() as client:
            await send(client, CUTS[cut](row.raw))
            forwards = await outcome(client, row, served)
        assert targets(upstream) == forwards
        await fresh_request_works(served)


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.name)
async def test_nothing_ambiguous_arrives_on_a_connection_in_use(row: Row) -> None:
    async with ScriptedUpstream(answering) as upstream, serving(proxying(upstream.url, retry=False)) as served:
        async with served.client() as client:
            for _ in range(2):
                client.write(get(b"/before"))
                assert (await client.answer()).values(b"x-target") == [b"/before"]
            client.write(row.raw)
            forwards = await outcome(client, row, served)
        assert targets(upstream) == [b"/before", b"/before", *forwards]
        await fresh_request_works(served)


async def outcome(client: Client, row: Row, served: Served) -> list[bytes]:
    """What the upstream must have got once everything of the row is answered as it should be."""
    answers = [await client.answer(method) for method in methods(row)]
    assert [answer.status for answer in answers] == list(row.answers)
    forwards = list(row.forwards)
    assert echoes(answers) == forwards[: len(echoes(answers))]
    if row.end == "open":
        client.write(get(PROBE))
        answer = await client.answer()
        assert answer.values(b"x-target") == [PROBE]
        forwards.append(PROBE)
    elif row.end == "closed":
        assert await client.rest() == b""
    else:
        await asyncio.sleep(0.01)
        assert served.connections is not None and len(served.connections) == 1
    return forwards


async def send(client: Client, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        client.write(piece)
        if len(pieces) > 1:
            # Each piece is read for itself: the server runs on this loop.
            await asyncio.sleep(0)
            await asyncio.sleep(0)


def methods(row: Row) -> list[str]:
    """The method of the request that each answer belongs to: HEAD has no body to read."""
    found = ["GET"] * len(row.answers)
    if row.raw.startswith(b"HEAD"):
        found[0] = "HEAD"
    return found


def echoes(answers: Sequence[Answer]) -> list[bytes]:
    """The targets that the upstream says it answered."""
    return [value for answer in answers for value in answer.values(b"x-target")]


def targets(upstream: ScriptedUpstream) -> list[bytes]:
    """What the upstream got, in the reading that every parser, careless or strict, agrees on."""
    found: list[bytes] = []
    for connection in upstream.connections:
        requests = strict_reading(connection.received)
        assert all(reading == requests for reading in readings(connection.received)), connection.received
        found += [target for _, target, _ in requests]
    return found


async def fresh_request_works(served: Served) -> None:
    answer: Any = await served.ask(get(b"/fresh"))
    assert (answer.status, answer.body) == (200, b"/fresh")
    await until(lambda: not served.in_use())
