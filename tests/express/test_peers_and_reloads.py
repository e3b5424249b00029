"""Clients that are trusted and clients that are not, on old connections and new ones, before and after a reload: what
is known of one says nothing about another, and both ways make the same of each request.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.express.support import close_short_ways
from tests.support.gateway import Client, make_gateway, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

Fields = list[tuple[bytes, bytes]]

_PEERS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_TRUSTED = (["127.0.0.2"], ["127.0.0.2", "127.0.0.3", "192.0.2.0/24"])
_SOURCES = ("x-forwarded-for", "forwarded", "header:X-My-IP")
_ROUTES: tuple[dict[str, Any], ...] = (
    {},
    {"host_header": "upstream"},
    {"host_header": "shop.internal"},
    {"request_headers": {"set": {"X-A": "{request_id}<0>", "X-User": "{route}"}, "remove": ["Referer"]}},
    {"request_headers": {"remove": ["X-Real-IP"]}},
    {"request_headers": {"set": {"X-Who": "{client_ip} {host} {scheme}"}}},
    {"request_headers": {"add": {"X-Forwarded-For": "192.0.2.1"}}},
    {"compress": True, "security_headers": True},
    {"rate_limit": {"rate": "1000/h", "burst": 500}},
)
_NAMES = (
    b"Accept Accept-Encoding Authorization Connection Content-Type Cookie Forwarded If-None-Match Keep-Alive Proxy "
    b"Range Referer TE Trailer Via X-%s X-A X-Forwarded-Custom X-Forwarded-For X-Forwarded-Proto X-My-IP X-Real-IP "
    b"X-Request-ID X-User X_Forwarded_For X_My_IP X_User"
).split()
_VALUES = (
    *b'% %b %(x)s <0> a,b * "a" W/"a" \xe9\xff gzip trailers keep-alive X-A x-user,cookie https 1.1 bytes=0-1'.split(),
    *b"192.0.2.7 127.0.0.1 ::1 [2001:db8::1]:80 unknown id-123".split(),
    b"",
    b"a\tb",
    b"1.1 other",
    b"192.0.2.7, 127.0.0.2",
    b"for=192.0.2.9;proto=https",
    b'for="[2001:db8::5]";host=x, for=127.0.0.3',
    b'for="a',
    b"a" * 300,
)
_HOSTS = b"example.com EXAMPLE.com example.com:8080 example.com. [::1]:99 [2001:DB8::0:1] a_b".split()


@dataclass
class Story:
    """Who says what, on a connection of its own or on the last one; the table is another one from ``reload_at`` on."""

    server: dict[str, Any]
    routes: tuple[dict[str, Any], dict[str, Any]]
    steps: list[tuple[str, bool, bytes]]
    reload_at: int


def make_story(rng: random.Random) -> Story:
    sections = [[rng.choice(_NAMES) for _ in range(rng.randrange(4))] for _ in range(2)]
    raws = []
    for _ in range(4):
        fields = [(name, rng.choice(_VALUES)) for name in rng.choice(sections)]
        raws.append(request(fields=fields, host=rng.choice(_HOSTS)))
    return Story(
        {"trusted_proxies": rng.choice(_TRUSTED), "client_ip_from": rng.choice(_SOURCES), "via": "gw-test"},
        (rng.choice(_ROUTES), rng.choice(_ROUTES)),
        [(rng.choice(_PEERS), rng.random() < 0.4, rng.choice(raws)) for _ in range(24)],
        rng.randrange(6, 20),
    )


async def told(story: Story, server: str, *, short: bool) -> list[Any]:
    """What both ends of every exchange saw, and what was recorded of the client."""
    seen: list[Any] = []
    async with ScriptedUpstream(respond(response(200, [(b"Date", b"x")], b"a"))) as upstream:
        tables = [proxying(upstream.url, server=story.server, **route) for route in story.routes]
        async with serving(tables[0], server=server) as served:
            clients: dict[str, Client] = {}
            for number, (peer, is_new, raw) in enumerate(story.steps):
                if number == story.reload_at:
                    await served.gateway.reload(make_gateway(tables[1]).config)
                if not short:
                    close_short_ways(served)
                if is_new and peer in clients:
                    await clients.pop(peer).close()
                if peer not in clients:
                    streams = await asyncio.open_connection("127.0.0.1", served.port, local_addr=(peer, 0))
                    clients[peer] = Client(*streams)
                clients[peer].write(raw)
                answer = await clients[peer].answer()
                if not answer.keeps_alive:
                    await clients.pop(peer).close()
                exchange = (await served.ended(number + 1))[number]
                asked = upstream.requests[-1]
                seen.append(
                    (
                        _steady(asked.fields, exchange.request_id, upstream.port),
                        answer.status,
                        _steady(answer.fields, exchange.request_id, upstream.port),
                        (exchange.client, exchange.scheme, exchange.host),
                    )
                )
            for client in clients.values():
                await client.close()
    return seen


def _steady(fields: Fields, request_id: str, port: int) -> Fields:
    """The fields without what differs from one run to the next."""
    return sorted(
        (name, value.replace(request_id.encode(), b"id").replace(b":%d" % port, b":port")) for name, value in fields
    )


async def check(server: str, seed: int) -> None:
    story = make_story(random.Random(seed))
    assert await told(story, server, short=True) == await told(story, server, short=False), story


@pytest.mark.parametrize("seed", range(12))
async def test_nobody_is_taken_for_another(server: str, seed: int) -> None:
    await check(server, seed)


@pytest.mark.soak
async def test_nobody_is_taken_for_another_in_many_stories(server: str) -> None:
    for seed in range(1000, 1300):
        await check(server, seed)
