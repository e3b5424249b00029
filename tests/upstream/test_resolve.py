from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import httpx
import pytest

from gateway.errors import ConnectFailed
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.resolve import lookup_host
from gateway.upstream.settings import EndpointSettings, UpstreamSettings
from gateway.upstream.transports import transport_for
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import Clock, FakeTransport, at, make_upstream

pytestmark = pytest.mark.anyio

SHOP = at(80, "shop.internal")


class Names:
    """A resolver that knows what the test told it."""

    def __init__(self, **names: list[str]) -> None:
        self.answers: dict[str, list[str] | Exception] = {
            name.replace("_", "."): answer for name, answer in names.items()
        }
        self.asked: list[str] = []
        self.hangs = False

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.get(host, socket.gaierror(-2, "Name or service not known"))
        if isinstance(answer, Exception):
            raise answer
        return answer


class World:
    """An upstream, its resolver, its time and its transports."""

    def __init__(self, names: Names, *endpoints: EndpointSettings, resolve_s: float = 30.0, **settings: Any) -> None:
        self.names = names
        self.clock = Clock()
        self.transports: list[tuple[EndpointSettings, FakeTransport]] = []
        self.upstream = make_upstream(
            *(endpoints or (SHOP,)),
            clock=self.clock,
            resolver=names,
            transport=self._transport,
            resolve_s=resolve_s,
            **settings,
        )

    def _transport(self, endpoint: EndpointSettings) -> FakeTransport:
        self.transports.append((endpoint, FakeTransport()))
        return self.transports[-1][1]

    @property
    def labels(self) -> list[str]:
        return [endpoint.label for endpoint in self.upstream.endpoints]

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()

    async def resolve_again(self) -> None:
        """Let a whole interval pass, however the jitter fell."""
        self.clock.advance(0.0)
        await self.later(33.0)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_every_address_of_a_name_is_an_endpoint() -> None:
    world = World(Names(shop_internal=["10.0.0.1", "::7", "10.0.0.1"]))
    await world.upstream.start()

    assert world.labels == ["shop.internal:80/10.0.0.1", "shop.internal:80/::7"]
    assert [endpoint.authority for endpoint in world.upstream.endpoints] == [b"shop.internal"] * 2
    assert [made.address for made, _ in world.transports] == ["10.0.0.1", "::7"]
    assert {made.host for made, _ in world.transports} == {"shop.internal"}
    await world.upstream.aclose()


async def test_addresses_and_sockets_need_no_resolver() -> None:
    unix = EndpointSettings("unix:/run/shop.sock", "unix", "localhost", 80, uds="/run/shop.sock")
    world = World(Names(), at(9001), at(9001, "::1"), unix)
    await world.upstream.start()
    await world.resolve_again()

    assert world.names.asked == []
    assert world.labels == ["127.0.0.1:9001", "[::1]:9001", "unix:/run/shop.sock"]
    await world.upstream.aclose()


async def test_without_an_interval_a_name_stays_one_endpoint() -> None:
    world = World(Names(), resolve_s=0.0)
    await world.upstream.start()
    await world.later(100.0)

    assert (world.labels, world.names.asked) == (["shop.internal:80"], [])
    assert world.transports[0][0].address == ""
    await world.upstream.aclose()


async def test_addresses_come_and_go_while_the_others_stay() -> None:
    world = World(Names(shop_internal=["10.0.0.1", "10.0.0.2"]))
    await world.upstream.start()
    stays = world.upstream.endpoints[1]
    world.names.answers["shop.internal"] = ["10.0.0.3", "10.0.0.2"]

    await world.resolve_again()

    assert world.labels == ["shop.internal:80/10.0.0.2", "shop.internal:80/10.0.0.3"]
    assert world.upstream.endpoints[0] is stays
    assert [transport.closed for _, transport in world.transports] == [1, 0, 0]
    await world.upstream.aclose()
    assert [transport.closed for _, transport in world.transports] == [1, 1, 1]


async def test_requests_to_a_vanished_address_are_finished() -> None:
    world = World(Names(shop_internal=["10.0.0.1"]))
    await world.upstream.start()
    held = [world.upstream.try_acquire(http_scope()) for _ in range(2)]
    world.names.answers["shop.internal"] = ["10.0.0.2"]
    await world.resolve_again()
    gone = world.transports[0][1]

    assert (gone.closed, world.upstream.in_flight) == (0, 2)
    for endpoint in held:
        assert endpoint is not None
        assert gone.closed == 0
        world.upstream.record(endpoint, ok=False)
        world.upstream.release(endpoint)
        await settle()

    assert (gone.closed, world.upstream.in_flight) == (1, 0)
    await world.upstream.aclose()
    assert gone.closed == 1


@pytest.mark.parametrize("failure", [socket.gaierror(-3, "try again"), UnicodeError("label too long"), []])
async def test_a_failing_resolver_keeps_the_last_answer(
    failure: list[str] | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.upstream")
    world = World(Names(shop_internal=["10.0.0.1"]))
    await world.upstream.start()
    world.names.answers["shop.internal"] = failure
    for _ in range(4):
        await world.resolve_again()

    assert world.labels == ["shop.internal:80/10.0.0.1"]
    assert world.upstream.decision == "1 of 1 available: shop.internal is not resolved"
    world.names.answers["shop.internal"] = ["10.0.0.1"]
    await world.resolve_again()
    assert world.upstream.decision == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await world.upstream.aclose()


async def test_a_name_that_is_unknown_at_the_start_is_asked_for_again_soon() -> None:
    world = World(Names())
    await world.upstream.start()
    with pytest.raises(ConnectFailed, match=r"shop\.internal is not resolved"):
        world.upstream.try_acquire(http_scope())
    world.names.answers["shop.internal"] = ["10.0.0.1"]

    await world.later(1.0)

    assert world.upstream.try_acquire(http_scope()) is world.upstream.endpoints[0]
    await world.upstream.aclose()


async def test_the_start_does_not_wait_for_ever() -> None:
    names = Names(shop_internal=["10.0.0.1"])
    names.hangs = True
    world = World(names, connect_timeout_s=0.001)
    await world.upstream.start()

    assert world.labels == []
    names.hangs = False
    await world.later(1.0)
    await world.later(1.1)

    assert world.labels == ["shop.internal:80/10.0.0.1"]
    await world.upstream.aclose()


async def test_a_lookup_that_hangs_is_given_up_and_repeated() -> None:
    world = World(Names(shop_internal=["10.0.0.1"]), connect_timeout_s=5.0)
    await world.upstream.start()
    world.names.hangs = True
    await world.resolve_again()
    asked = len(world.names.asked)
    await world.later(4.9)
    assert world.upstream.decision == ""
    await world.later(0.1)
    assert world.upstream.decision == "1 of 1 available: shop.internal is not resolved"

    await world.resolve_again()

    assert len(world.names.asked) == asked + 1
    assert world.labels == ["shop.internal:80/10.0.0.1"]
    await world.upstream.aclose()


async def test_closing_ends_lookups_that_hang() -> None:
    tasks = asyncio.all_tasks()
    names = Names()
    names.hangs = True
    world = World(names, connect_timeout_s=0.001)
    await world.upstream.start()

    await world.upstream.aclose()

    assert asyncio.all_tasks() == tasks


async def test_a_resolver_that_breaks_is_logged_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Names())
    world.names.answers["shop.internal"] = ZeroDivisionError()
    await world.upstream.start()
    await settle()
    assert "shop" in caplog.text
    world.names.answers["shop.internal"] = ["10.0.0.1"]

    await world.later(1.0)

    assert world.labels == ["shop.internal:80/10.0.0.1"]
    await world.upstream.aclose()


async def test_a_reload_keeps_the_answers_without_asking() -> None:
    world = World(Names(shop_internal=["10.0.0.1", "10.0.0.2"]))
    await world.upstream.start()
    before = world.upstream.endpoints
    asked = len(world.names.asked)

    later = world.upstream.successor(UpstreamSettings("shop", (SHOP, at(9001)), balance="first"))
    await later.start()

    assert later.endpoints[:2] == before
    assert len(world.names.asked) == asked
    await world.upstream.aclose()
    assert [transport.closed for _, transport in world.transports] == [0, 0, 0]
    world.names.answers["shop.internal"] = ["10.0.0.2"]
    await world.resolve_again()
    assert [endpoint.label for endpoint in later.endpoints] == ["shop.internal:80/10.0.0.2", "127.0.0.1:9001"]
    await later.aclose()
    assert [transport.closed for _, transport in world.transports] == [1, 1, 1]


async def test_a_superseded_upstream_leaves_the_lookups_to_its_successor() -> None:
    world = World(Names(shop_internal=["10.0.0.1"]))
    await world.upstream.start()
    later = world.upstream.successor(UpstreamSettings("shop", (SHOP,), panic=0.1))
    await later.start()
    asked = len(world.names.asked)
    await world.resolve_again()
    assert len(world.names.asked) == asked + 1

    await later.aclose()
    await world.resolve_again()

    assert len(world.names.asked) == asked + 2
    await world.upstream.aclose()


async def test_changes_at_run_time_hold_for_addresses_that_come_later() -> None:
    world = World(Names(shop_internal=["10.0.0.1"]))
    await world.upstream.start()
    world.upstream.set_weight("shop.internal:80", 7)
    world.names.answers["shop.internal"] = ["10.0.0.1", "10.0.0.2"]

    await world.resolve_again()

    assert [state.weight for state in world.upstream.snapshot()] == [7, 7]
    await world.upstream.aclose()


async def test_an_address_that_was_removed_stays_away_until_the_name_is_added_again() -> None:
    world = World(Names(shop_internal=["10.0.0.1", "10.0.0.2"]))
    await world.upstream.start()
    world.upstream.remove("shop.internal:80/10.0.0.1")
    await world.resolve_again()
    assert world.labels == ["shop.internal:80/10.0.0.2"]

    world.upstream.remove("shop.internal:80")
    assert world.labels == []
    world.upstream.add(SHOP)
    await world.later(0.1)

    assert world.labels == ["shop.internal:80/10.0.0.1", "shop.internal:80/10.0.0.2"]
    await world.upstream.aclose()


async def test_the_system_resolver_gives_addresses() -> None:
    addresses = await lookup_host("localhost", 80)

    assert "127.0.0.1" in addresses or "::1" in addresses


async def test_a_name_that_is_removed_while_it_is_looked_up_stays_away() -> None:
    world = World(Names(), at(9001))
    await world.upstream.start()
    world.names.hangs = True
    world.upstream.add(SHOP)
    await world.later(0.1)
    assert world.names.asked == ["shop.internal"]

    world.upstream.remove("shop.internal:80")
    await settle()

    assert (world.labels, world.upstream.decision) == (["127.0.0.1:9001"], "")
    await world.upstream.aclose()


async def test_a_name_of_which_one_address_is_dead_is_served_by_the_other() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    clock = Clock()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = make_upstream(
        at(server.sockets[0].getsockname()[1], "localhost"),
        clock=clock,
        resolver=Names(localhost=["127.0.0.2", "127.0.0.1"]),
        transport=lambda endpoint: transport_for(
            endpoint.scheme, ticker=clock.ticker, host=endpoint.address, port=endpoint.port
        ),
    )
    await upstream.start()
    dead, alive = upstream.endpoints

    for _ in range(40):
        tried: list[Endpoint] = []
        while True:
            endpoint = upstream.try_acquire(http_scope(), tried)
            assert endpoint is not None
            try:
                response = await endpoint.transport.handle_async_request(httpx.Request("GET", endpoint.url))
            except ConnectFailed as error:
                upstream.release(endpoint)
                upstream.record(endpoint, ok=False, error=error.reason)
                tried.append(endpoint)
                continue
            await response.aclose()
            upstream.release(endpoint)
            upstream.record(endpoint, ok=True)
            break

    assert (dead.requests, alive.requests) == (5, 40)
    assert upstream.decision == f"1 of 2 available: {dead.label} ejected"
    await upstream.aclose()
    server.close()
    await server.wait_closed()
