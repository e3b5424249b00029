"""Request targets, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.gateway import proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response
from tests.wire.support import own_server

pytestmark = pytest.mark.anyio

OK = response(body=b"ok")

TARGETS = [
    b"/",
    b"/a%2Fb",
    b"/a%2fb/%2520",
    b"/a;b=1/c;d",
    b"//twice//over",
    b"/plus+and%20space?q=a+b%20c",
    b"/q?a=1&a=2&b&=c",
    b"/q?a=%2F&b=%C3%A9",
    b"/caf%C3%A9",
    b"/q?x=1?y=2",
    b"/~tilde/!$&'()*,;=:@",
    b"//other.example/path",
    b"/long?" + b"a" * 8000,
    b'/x?[]|^`{}"<>',
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30].decode("latin-1"))
async def test_a_target_reaches_the_upstream_byte_for_byte(server: str, target: bytes) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request("GET", target))).status == 200
        assert [seen.target for seen in origin.requests] == [target]


@own_server
async def test_an_empty_query_reaches_the_upstream(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request("GET", b"/a?"))).status == 200
        assert origin.requests[0].target == b"/a?"


@own_server
async def test_the_host_of_an_absolute_target_replaces_the_host_field(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request("GET", b"http://real.example/p?q", host=b"claimed.example"))).status == 200
        (seen,) = origin.requests
        assert seen.target == b"/p?q"
        assert seen.values(b"host") == [b"real.example"]


async def test_an_absolute_target_never_changes_where_the_request_goes(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as elsewhere,
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url), server=server) as served,
    ):
        await served.ask(request("GET", b"http://127.0.0.1:%d/p" % elsewhere.port))
        assert elsewhere.connections == []


@pytest.mark.parametrize(
    ("route", "target", "expected"),
    [
        ({"path": "/shop/*", "strip_prefix": "/shop"}, b"/shop/a%2Fb?x=%20", b"/a%2Fb?x=%20"),
        ({"path": "/shop/*", "strip_prefix": "/shop"}, b"/shop", b"/"),
        ({"path": "/shop/*", "strip_prefix": "/shop"}, b"/shop?q", b"/?q"),
        ({"path": "/shop/*", "strip_prefix": "/shop"}, b"/shop//a", b"//a"),
        ({"path": "/*", "add_prefix": "/v1"}, b"/", b"/v1/"),
        ({"path": "/*", "add_prefix": "/v1/"}, b"/x//y", b"/v1/x//y"),
        ({"path": "/old/*", "strip_prefix": "/old", "add_prefix": "/new"}, b"/old/x", b"/new/x"),
        ({"path": "/users/{id}", "rewrite": "/u/{id}/show"}, b"/users/a%20b?z", b"/u/a%20b/show?z"),
        ({"path": "/f/{rest*}", "rewrite": "/files/{rest}"}, b"/f/a/b%2Fc/", b"/files/a/b%2Fc/"),
        ({"path": "/f/{rest*}", "rewrite": "/files/{rest}"}, b"/f//a//", b"/files//a//"),
    ],
)
async def test_a_rewritten_target(server: str, route: dict[str, Any], target: bytes, expected: bytes) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url, **route), server=server) as served:
        assert (await served.ask(request("GET", target))).status == 200
        assert origin.requests[0].target == expected


@pytest.mark.parametrize(("base", "expected"), [("/base", b"/base/x?q=1"), ("/base/", b"/base/x?q=1")])
async def test_a_base_path_comes_before_the_target(server: str, base: str, expected: bytes) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url + base), server=server) as served:
        assert (await served.ask(request("GET", b"/x?q=1"))).status == 200
        assert origin.requests[0].target == expected


@pytest.mark.parametrize(
    "target",
    [b"/a/../b", b"/a/%2e%2E/b", b"/./a", b"/a/..;x/b", b"/a%00", b"/%zz", b"/a\\b", b"/a%5c..%5cb", b"/a/..%2fb"],
)
async def test_an_unsafe_target_is_refused_and_reaches_nobody(server: str, target: bytes) -> None:
    table = proxying("http://127.0.0.1:9")
    table["routes"].append({"name": "fixed", "path": "/a/*", "respond": {"body": "fixed"}})
    async with ScriptedUpstream(respond(OK)) as origin:
        table["upstreams"]["origin"]["endpoints"] = [origin.url]
        async with serving(table, server=server) as served:
            answer = await served.ask(request("GET", target))
            assert answer.status == 400
            assert not answer.keeps_alive
        assert origin.connections == []


async def test_a_target_of_more_than_8_kib_is_refused(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request("GET", b"/" + b"a" * 8192))).status == 414
        assert origin.connections == []


@pytest.mark.parametrize(
    "hosts",
    [[], [b"a.example", b"b.example"], [b"a.example", b"a.example"], [b"a b"], [b"a/b"], [b"a.example:x"], [b"u@h"]],
    ids=repr,
)
async def test_a_missing_repeated_or_malformed_host_is_refused(server: str, hosts: list[bytes]) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request("GET", b"/", [(b"Host", host) for host in hosts], host=None))).status == 400
        assert origin.connections == []


@pytest.mark.parametrize("host", [b"shop.example", b"SHOP.Example", b"shop.example:8443", b"shop.example.:80"])
async def test_a_route_matches_the_host_without_port_case_and_trailing_dot(server: str, host: bytes) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url, host="shop.example"), server=server) as served,
    ):
        assert (await served.ask(request("GET", host=host))).status == 200
        # What the client wrote is what the upstream gets.
        assert origin.requests[0].values(b"host") == [host]
        assert (await served.ask(request("GET", host=b"other.example"))).status == 404


@pytest.mark.parametrize(("setting", "expected"), [("upstream", None), ("fixed.example", b"fixed.example")])
async def test_the_route_chooses_the_host_field(server: str, setting: str, expected: bytes | None) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url, host_header=setting), server=server) as served,
    ):
        assert (await served.ask(request("GET"))).status == 200
        assert origin.requests[0].values(b"host") == [expected or b"127.0.0.1:%d" % origin.port]


async def test_connect_is_refused_and_reaches_nobody(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        answer = await served.ask(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert answer.status in (501, 400)
        assert origin.connections == []


async def test_trace_is_not_allowed_unless_a_route_names_it(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin:
        async with serving(proxying(origin.url), server=server) as served:
            assert (await served.ask(request("TRACE"))).status == 405
        async with serving(proxying(origin.url, methods=["TRACE"]), server=server) as served:
            assert (await served.ask(request("TRACE"))).status == 200


async def test_options_with_an_asterisk_goes_through(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        answer = await served.ask(request("OPTIONS", b"*"))
        assert answer.status == 200
        assert origin.requests[0].target == b"*"
