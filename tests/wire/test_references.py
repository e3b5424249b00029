"""Location, Content-Location, Refresh and cookies that name what is behind, made public again."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.app import Gateway
from tests.support.gateway import Answer, proxying, request, serving
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, response

pytestmark = pytest.mark.anyio


def at_api(gateway: Gateway) -> Starlette:
    return Starlette(routes=[Mount("/api", gateway)], lifespan=gateway.lifespan)


async def answer_with(
    server: str,
    *fields: tuple[bytes, bytes],
    base: str = "",
    mounted: Any = None,
    target: bytes = b"/shop/x",
    **route: Any,
) -> Answer:
    """The answer to a request when the upstream sends these fields; ``{origin}`` stands for the upstream's address."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        own = b"127.0.0.1:%d" % origin.port
        written = [(name, value.replace(b"{origin}", own)) for name, value in fields]
        await connection.send(response(302, written, b"", reason=b"Found"))
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url + base, **route), server=server, mounted=mounted) as served,
    ):
        answer = await served.ask(request("GET", target, host=b"public.example"))
        assert answer.status == 302
        assert b"127.0.0.1" not in answer.head
        return answer


STRIPPED: dict[str, Any] = {"path": "/shop/*", "strip_prefix": "/shop"}

LOCATIONS = [
    ({}, "", b"http://{origin}/a?b#c", b"http://public.example/a?b#c"),
    ({}, "", b"//{origin}/a", b"//public.example/a"),
    ({}, "", b"/a", b"/a"),
    ({}, "", b"a/b", b"a/b"),
    ({}, "", b"http://public.example/a", b"http://public.example/a"),
    ({}, "", b"https://elsewhere.example/a", b"https://elsewhere.example/a"),
    (STRIPPED, "", b"http://{origin}/a", b"http://public.example/shop/a"),
    (STRIPPED, "", b"http://{origin}", b"http://public.example/shop/"),
    (STRIPPED, "", b"/a", b"/shop/a"),
    ({**STRIPPED, "add_prefix": "/v1"}, "", b"/v1/a", b"/shop/a"),
    (STRIPPED, "/base", b"/base/a?q", b"/shop/a?q"),
    (STRIPPED, "/base", b"http://{origin}/base/a", b"http://public.example/shop/a"),
]


@pytest.mark.parametrize(("route", "base", "sent", "expected"), LOCATIONS)
async def test_a_location_is_public(
    server: str, route: dict[str, Any], base: str, sent: bytes, expected: bytes
) -> None:
    answer = await answer_with(server, (b"Location", sent), (b"Content-Location", sent), base=base, **route)
    assert answer.value(b"location") == answer.value(b"content-location") == expected


@pytest.mark.parametrize(
    ("route", "sent", "expected"),
    [
        ({}, b"http://{origin}/a", b"http://public.example/api/a"),
        ({}, b"/a", b"/api/a"),
        (STRIPPED, b"http://{origin}/a", b"http://public.example/api/shop/a"),
        (STRIPPED, b"/a?b", b"/api/shop/a?b"),
        ({}, b"a/b", b"a/b"),
        ({}, b"https://elsewhere.example/a", b"https://elsewhere.example/a"),
    ],
)
async def test_a_location_holds_the_prefix_that_the_gateway_is_mounted_under(
    server: str, route: dict[str, Any], sent: bytes, expected: bytes
) -> None:
    answer = await answer_with(server, (b"Location", sent), mounted=at_api, target=b"/api/shop/x", **route)
    assert answer.value(b"location") == expected


async def test_refresh_is_public(server: str) -> None:
    answer = await answer_with(server, (b"Refresh", b"5; url=http://{origin}/a"), **STRIPPED)
    assert answer.value(b"refresh") == b"5; url=http://public.example/shop/a"


async def test_cookies_lose_the_upstreams_domain_and_get_the_public_path(server: str) -> None:
    cookies = [b"a=1; Domain=127.0.0.1; Path=/", b"b=2; Path=/x; HttpOnly", b"__Host-c=3; Path=/; Secure"]
    answer = await answer_with(server, *((b"Set-Cookie", cookie) for cookie in cookies), **STRIPPED)
    assert answer.values(b"set-cookie") == [
        b"a=1; Path=/shop",
        b"b=2; Path=/shop/x; HttpOnly",
        b"__Host-c=3; Path=/; Secure",
    ]


async def test_cookies_get_the_prefix_that_the_gateway_is_mounted_under(server: str) -> None:
    cookies = [(b"Set-Cookie", b"a=1; Path=/"), (b"Set-Cookie", b"b=2; Path=/x"), (b"Set-Cookie", b"c=3")]
    answer = await answer_with(server, *cookies, mounted=at_api, target=b"/api/shop/x", **STRIPPED)
    assert answer.values(b"set-cookie") == [b"a=1; Path=/api/shop", b"b=2; Path=/api/shop/x", b"c=3"]


async def test_cookies_are_rewritten_as_the_route_says(server: str) -> None:
    rules = {"domain": {"internal.example": "example.com"}, "secure": "always", "same_site": "lax"}
    cookie = (b"Set-Cookie", b"a=1; Domain=internal.example; SameSite=None")
    answer = await answer_with(server, cookie, rewrite_cookies=rules)
    assert answer.values(b"set-cookie") == [b"a=1; Domain=example.com; Secure; SameSite=Lax"]


async def test_references_stay_where_the_route_says_so(server: str) -> None:
    answer = await answer_with(server, (b"Location", b"/a"), rewrite_location=False, **STRIPPED)
    assert answer.value(b"location") == b"/a"
