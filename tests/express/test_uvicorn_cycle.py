"""Under uvicorn a whole answer is written past its messages wherever nobody looks at them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.express import uvicorn_cycle
from gateway.express.uvicorn_cycle import UvicornCycles
from tests.support.gateway import UVICORN, Answer, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

CACHED = response(200, [(b"Cache-Control", b"max-age=60")], b"hello")
ROUTES = [pytest.param({}, id="proxied"), pytest.param({"cache": True}, id="hit")]


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of what was written past the messages."""
    found: list[int] = []
    write = UvicornCycles.write

    def counted(self: UvicornCycles, cycle: Any, status: int, lines: bytes, body: bytes) -> None:
        found.append(status)
        write(self, cycle, status, lines, body)

    monkeypatch.setattr(UvicornCycles, "write", counted)
    return found


async def _second(route: dict[str, Any], raw: bytes = b"", **options: Any) -> Answer:
    """The second answer on a connection: by then connections idle, and the store has what it may have."""
    async with (
        ScriptedUpstream(respond(CACHED)) as upstream,
        serving(proxying(upstream.url, **route), server=UVICORN, options=options) as served,
        served.client() as client,
    ):
        client.write(request())
        await client.answer()
        client.write(raw or request())
        answer = await client.answer()
        if not answer.keeps_alive:
            assert await client.reader.read() == b""
        return answer


@pytest.mark.parametrize("route", ROUTES)
async def test_a_whole_answer_is_written_at_once(route: dict[str, Any], written: list[int]) -> None:
    answer = await _second(route)
    assert answer.status == 200 and answer.body == b"hello" and answer.complete
    assert written[-1:] == [200]


@pytest.mark.parametrize("route", ROUTES)
async def test_the_last_answer_of_a_connection_closes_it(route: dict[str, Any], written: list[int]) -> None:
    answer = await _second(route, request(fields=[(b"Connection", b"close")]))
    assert answer.body == b"hello" and not answer.keeps_alive
    assert written[-1:] == [200]


@pytest.mark.parametrize("route", ROUTES)
async def test_the_fields_of_the_server_are_there_and_one_date(route: dict[str, Any], written: list[int]) -> None:
    own = [("Date", "Sat, 28 Nov 2026 12:00:00 GMT"), ("Server", "shop"), ("X-Pod", "7")]
    answer = await _second(route, headers=own)
    assert written
    assert answer.value(b"server") == b"shop" and answer.value(b"x-pod") == b"7"
    assert answer.value(b"date") is not None


@pytest.mark.parametrize("route", ROUTES)
async def test_fields_of_the_server_that_decide_about_more_are_left_to_it(
    route: dict[str, Any], written: list[int]
) -> None:
    async with (
        ScriptedUpstream(respond(CACHED)) as upstream,
        serving(
            proxying(upstream.url, **route), server=UVICORN, options={"headers": [("Connection", "close")]}
        ) as served,
    ):
        for _ in range(2):
            assert (await served.ask(request())).status == 200
    assert not written


@pytest.fixture
def access_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("uvicorn.access")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


@pytest.mark.parametrize("route", ROUTES)
async def test_the_servers_access_log_has_its_lines(
    route: dict[str, Any], access_lines: list[str], written: list[int]
) -> None:
    await _second(route, access_log=True)
    assert len(access_lines) == 2 and not written


@pytest.mark.parametrize("route", ROUTES)
async def test_its_other_protocol_has_messages(route: dict[str, Any], written: list[int]) -> None:
    assert (await _second(route, http="h11")).body == b"hello"
    assert not written


@pytest.mark.parametrize("route", ROUTES)
async def test_a_cycle_of_another_shape_has_messages(
    route: dict[str, Any], written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_cycle, "_USED", (*uvicorn_cycle._USED, "what_a_later_one_has"))
    assert (await _second(route)).body == b"hello"
    assert not written


async def test_a_method_that_somebody_has_wrapped_has_messages(
    written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    send = RequestResponseCycle.send

    async def watched(self: RequestResponseCycle, message: Any) -> None:
        seen.append(message["type"])
        await send(self, message)

    async with ScriptedUpstream(respond(CACHED)) as upstream, serving(proxying(upstream.url), server=UVICORN) as served:
        monkeypatch.setattr(RequestResponseCycle, "send", watched)
        async with served.client() as client:
            for _ in range(2):
                client.write(request())
                assert (await client.answer()).body == b"hello"
    assert len(seen) == 4 and not written


async def test_pipelined_requests_are_answered_in_order(written: list[int]) -> None:
    async with (
        ScriptedUpstream(respond(CACHED)) as upstream,
        serving(proxying(upstream.url, cache=True), server=UVICORN) as served,
        served.client() as client,
    ):
        client.write(request())
        await client.answer()
        client.write(request() * 3 + request(target=b"/other") + request())
        ages = [await client.answer() for _ in range(5)]
    assert [b"hit" in (answer.value(b"cache-status") or b"") for answer in ages] == [True, True, True, False, True]
    assert len(written) >= 4
