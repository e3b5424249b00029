"""Header fields on their way to the upstream and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.config.load import load_config
from tests.support.gateway import Answer, proxying, request, serving
from tests.support.upstream import RecordedRequest, ScriptedUpstream, chunked, respond, response
from tests.wire.support import own_server

pytestmark = pytest.mark.anyio

Fields = Sequence[tuple[bytes, bytes]]

OK = response(body=b"ok")

ADDED = frozenset(
    b"x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-real-ip forwarded via x-request-id".split()
)


def own_fields(seen: RecordedRequest) -> list[tuple[bytes, bytes]]:
    """What the upstream saw of the client's own fields."""
    return [(name.lower(), value) for name, value in seen.fields if name.lower() not in ADDED]


async def seen_by_upstream(server: str, raw: bytes, **table: Any) -> RecordedRequest:
    async with ScriptedUpstream(respond(OK)) as origin:
        async with serving(proxying(origin.url, **table), server=server) as served:
            assert (await served.ask(raw)).status == 200
        (seen,) = origin.requests
        return seen


async def answered_with(server: str, raw: bytes, asked: bytes | None = None, **table: Any) -> Answer:
    async with (
        ScriptedUpstream(respond(raw)) as origin,
        serving(proxying(origin.url, **table), server=server) as served,
    ):
        return await served.ask(asked or request())


# Requests.


async def test_order_repetition_and_bytes_of_request_fields_stay(server: str) -> None:
    fields = [
        (b"x-b", b"2"),
        (b"accept", b"text/html"),
        (b"x-a", b"1"),
        (b"x-b", b"1, 2"),
        (b"x-empty", b""),
        (b"x-latin", b"caf\xe9 \xff"),
        (b"x-space", b'a  "b  c"'),
        (b"x-a", b"1"),
    ]
    seen = await seen_by_upstream(server, request("GET", fields=fields))
    assert own_fields(seen) == [(b"host", b"example.com"), *fields]


async def test_nothing_is_invented(server: str) -> None:
    seen = await seen_by_upstream(server, request())
    assert own_fields(seen) == [(b"host", b"example.com")]


async def test_cookie_lines_are_never_joined_by_a_comma(server: str) -> None:
    seen = await seen_by_upstream(server, request("GET", fields=[(b"Cookie", b"a=1"), (b"Cookie", b"b=2; c=3")]))
    assert b"; ".join(seen.values(b"cookie")) == b"a=1; b=2; c=3"


@pytest.mark.parametrize(
    "field",
    [
        (b"Connection", b"keep-alive"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authorization", b"Basic eA=="),
        (b"TE", b"gzip"),
        (b"TE", b"trailers, deflate"),
        (b"Trailer", b"X-Sum"),
        (b"HTTP2-Settings", b"AAMAAABkAARAAAAAAAIAAAAA"),
        (b"Proxy", b"http://evil.example"),
        (b"X_User", b"admin"),
        (b"X-Forwarded-User", b"admin"),
        (b"True-Client-IP", b"10.0.0.1"),
        (b"X-Client-IP", b"10.0.0.1"),
    ],
    ids=lambda field: b"%b: %b" % field,
)
async def test_a_field_that_does_not_cross(server: str, field: tuple[bytes, bytes]) -> None:
    seen = await seen_by_upstream(server, request("GET", fields=[field, (b"x-kept", b"1")]))
    assert own_fields(seen) == [(b"host", b"example.com"), (b"x-kept", b"1")]


async def test_te_trailers_passes(server: str) -> None:
    seen = await seen_by_upstream(server, request("GET", fields=[(b"TE", b"trailers"), (b"Connection", b"TE")]))
    assert seen.values(b"te") == [b"trailers"]


async def test_what_connection_names_does_not_cross(server: str) -> None:
    fields = [(b"Connection", b"x-hop, X-Other"), (b"X-Hop", b"1"), (b"x-other", b"2"), (b"x-kept", b"3")]
    seen = await seen_by_upstream(server, request("GET", fields=fields))
    assert own_fields(seen) == [(b"host", b"example.com"), (b"x-kept", b"3")]


@pytest.mark.parametrize("name", [b"Host", b"X-Forwarded-For", b"Content-Length", b"Via", b"X-Request-ID"])
async def test_connection_cannot_remove_what_the_gateway_needs(server: str, name: bytes) -> None:
    seen = await seen_by_upstream(server, request("POST", fields=[(b"Connection", b"close, " + name)], body=b"abc"))
    assert len(seen.values(name.lower())) == 1
    assert seen.body == b"abc"


async def test_forwarding_fields_of_a_stranger_are_made_anew(server: str) -> None:
    fields = [
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"evil.example"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Forwarded-Prefix", b"/evil"),
        (b"Forwarded", b"for=10.0.0.1;proto=https"),
        (b"X-Real-IP", b"10.0.0.1"),
    ]
    seen = await seen_by_upstream(server, request("GET", fields=fields, host=b"example.com:8080"))
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert seen.values(b"x-forwarded-host") == [b"example.com:8080"]
    assert seen.values(b"x-forwarded-port") == [b"8080"]
    assert seen.values(b"x-forwarded-prefix") == []
    assert seen.values(b"x-real-ip") == [b"127.0.0.1"]
    assert seen.values(b"forwarded") == [b'for=127.0.0.1;host="example.com:8080";proto=http']


async def test_a_trusted_peer_is_believed_in_the_one_field_that_is_named(server: str) -> None:
    fields = [
        (b"X-Forwarded-For", b"evil, 198.51.100.7, 10.0.0.2"),
        (b"X-Forwarded-Proto", b"https"),
        (b"Forwarded", b"for=203.0.113.9"),
        (b"X-Real-IP", b"203.0.113.9"),
    ]
    trust = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    async with ScriptedUpstream(respond(OK)) as origin:
        async with serving(proxying(origin.url, server=trust), server=server) as served:
            assert (await served.ask(request("GET", fields=fields))).status == 200
            (exchange,) = await served.ended(1)
        (seen,) = origin.requests
    assert exchange.client == "198.51.100.7"
    assert exchange.scheme == "https"
    assert seen.values(b"x-forwarded-for") == [b"198.51.100.7, 10.0.0.2, 127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"https"]
    assert seen.values(b"x-real-ip") == [b"198.51.100.7"]


async def test_via_is_added_under_the_gateways_own_name(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin:
        async with serving(proxying(origin.url, server={"via": "front"}), server=server) as served:
            await served.ask(request("GET", fields=[(b"Via", b"1.0 fred, 1.1 p.example (x)")]))
        assert b", ".join(origin.requests[0].values(b"via")) == b"1.0 fred, 1.1 p.example (x), 1.1 front"


async def test_a_request_that_comes_back_is_a_loop_and_two_chained_gateways_are_none(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url, server={"via": "back"}), server=server) as back,
        serving(proxying(f"http://127.0.0.1:{back.port}", server={"via": "front"}), server=server) as front,
    ):
        assert (await front.ask(request())).status == 200
        (seen,) = origin.requests
        assert b", ".join(seen.values(b"via")) == b"1.1 front, 1.1 back"
        assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
        answer = await front.ask(request("GET", fields=[(b"Via", b"1.1 FRONT")]))
        assert answer.status == 508
        assert len(origin.requests) == 1


async def test_a_gateway_that_sends_to_itself_notices(server: str) -> None:
    async with serving({"routes": [{"path": "/*", "respond": {"body": "x"}}]}, server=server) as served:
        await served.gateway.reload(load_config(proxying(f"http://127.0.0.1:{served.port}")))
        assert (await served.ask(request())).status == 508


async def test_the_request_id_of_a_stranger_is_replaced_and_stands_on_both_sides(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin:
        async with serving(proxying(origin.url), server=server) as served:
            answer = await served.ask(request("GET", fields=[(b"X-Request-ID", b"mine")]))
        (request_id,) = origin.requests[0].values(b"x-request-id")
        assert request_id != b"mine"
        assert answer.value(b"x-request-id") == request_id


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_content_length_zero_is_kept(server: str, method: str) -> None:
    seen = await seen_by_upstream(server, request(method, body=b""))
    assert seen.values(b"content-length") == [b"0"]
    assert seen.values(b"transfer-encoding") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
async def test_a_request_without_a_body_goes_out_without_framing(server: str, method: str) -> None:
    seen = await seen_by_upstream(server, request(method))
    assert seen.values(b"content-length") == seen.values(b"transfer-encoding") == []


async def test_request_headers_of_the_route_apply(server: str) -> None:
    rules = {"set": {"X-Route": "{route}", "X-Client": "{client_ip}"}, "add": {"X-More": "1"}, "remove": ["X-Gone"]}
    seen = await seen_by_upstream(server, request("GET", fields=[(b"x-gone", b"1")]), request_headers=rules)
    assert seen.values(b"x-route") == [b"all"]
    assert seen.values(b"x-client") == [b"127.0.0.1"]
    assert seen.values(b"x-more") == [b"1"]
    assert seen.values(b"x-gone") == []


# Responses.


async def test_order_repetition_and_bytes_of_response_fields_stay(server: str) -> None:
    fields = [
        (b"x-b", b"2"),
        *((b"set-cookie", b"c%d=%d; Path=/" % (number, number)) for number in range(5)),
        (b"x-latin", b"caf\xe9"),
        (b"x-empty", b""),
        (b"x-b", b"1"),
        (b"date", b"Thu, 01 Jan 1970 00:00:01 GMT"),
        (b"content-length", b"2"),
    ]
    answer = await answered_with(server, response(200, fields, b"ok", length=False))
    assert [field for field in answer.fields if field[0] != b"x-request-id"] == fields


@pytest.mark.parametrize(
    "field",
    [
        (b"Connection", b"keep-alive"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Proxy-Authentication-Info", b"x"),
        (b"Trailer", b"X-Sum"),
        (b"Upgrade", b"h2c"),
        (b"Server", b"nginx/1.2.3"),
        (b"X-Powered-By", b"PHP"),
        (b"X-AspNet-Version", b"4"),
        (b"X-Runtime", b"0.1"),
        (b"X-Generator", b"x"),
    ],
    ids=lambda field: b"%b: %b" % field,
)
async def test_a_response_field_that_does_not_cross(server: str, field: tuple[bytes, bytes]) -> None:
    answer = await answered_with(server, response(200, [field, (b"X-Kept", b"1")], b"ok"))
    assert answer.values(field[0].lower()) == []
    assert answer.values(b"x-kept") == [b"1"]
    assert answer.keeps_alive


async def test_what_the_upstreams_connection_names_does_not_cross(server: str) -> None:
    fields = [(b"Connection", b"X-Hop, close"), (b"X-Hop", b"1"), (b"X-Kept", b"1")]
    answer = await answered_with(server, response(200, fields, b"ok"))
    assert answer.values(b"x-hop") == []
    assert answer.values(b"x-kept") == [b"1"]
    assert answer.keeps_alive


async def test_a_missing_date_is_added_and_one_that_is_there_stays(server: str) -> None:
    answer = await answered_with(server, OK)
    assert len(answer.values(b"date")) == 1
    answer = await answered_with(server, response(200, [(b"Date", b"Thu, 01 Jan 1970 00:00:01 GMT")], b"ok"))
    assert answer.values(b"date") == [b"Thu, 01 Jan 1970 00:00:01 GMT"]


async def test_no_answer_names_the_server(server: str) -> None:
    assert (await answered_with(server, OK)).values(b"server") == []


@pytest.mark.parametrize("status", [200, 201, 206, 226, 299, 300, 304, 399, 404, 418, 451, 499, 500, 511, 599])
async def test_any_status_is_passed_on(server: str, status: int) -> None:
    body = b"" if status == 304 else b"x"
    answer = await answered_with(server, response(status, [], body, reason=b"Anything"), retry=False)
    assert answer.status == status
    assert answer.body == body


@pytest.mark.parametrize("status", [600, 999, 42, 0])
async def test_a_status_that_is_none_is_502(server: str, status: int) -> None:
    answer = await answered_with(server, b"HTTP/1.1 %03d X\r\nContent-Length: 0\r\n\r\n" % status)
    assert answer.status == 502


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"garbage\r\n\r\n",
    ],
    ids=repr,
)
async def test_an_answer_that_two_parsers_could_read_differently_is_502(server: str, head: bytes) -> None:
    async with (
        ScriptedUpstream(respond(head)) as origin,
        serving(proxying(origin.url), server=server) as served,
    ):
        answer = await served.ask(request("POST", body=b"x"))
        assert answer.status == 502
        assert b"127.0.0.1" not in answer.body
        assert b"%d" % origin.port not in answer.body
        # Whatever the upstream still sends must not answer somebody else.
        await origin.connections[0].closed.wait()


async def test_an_interim_answer_is_not_taken_for_the_answer_and_an_unasked_100_is_swallowed(server: str) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    async with ScriptedUpstream(respond(raw)) as origin:
        async with serving(proxying(origin.url), server=server) as served, served.client() as client:
            for _ in range(2):
                client.write(request())
                head = await client.head()
                assert head.status == 200
                await client.finish(head)
        assert len(origin.connections) == 1


@own_server
async def test_102_and_103_pass_to_the_client_without_what_is_hidden(server: str) -> None:
    raw = (
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nServer: nginx\r\n"
        b"Connection: x-hop\r\nX-Hop: 1\r\n\r\n"
    )
    async with (
        ScriptedUpstream(respond(raw + OK)) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        first, second, last = await client.head(), await client.head(), await client.head()
        assert (first.status, second.status, last.status) == (102, 103, 200)
        assert second.fields == [(b"link", b"</a.css>; rel=preload")]
        client.write(request(version=b"1.0"))
        await client.finish(last)
        assert (await client.head()).status == 200


async def test_more_than_32_interim_answers_are_502(server: str) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33 + OK
    async with ScriptedUpstream(respond(raw)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request())).status == 502


async def test_a_response_head_above_its_limit_is_502(server: str) -> None:
    big = response(200, [(b"X-Big", b"a" * 70_000)], b"ok")
    assert (await answered_with(server, big)).status == 502
    assert (await answered_with(server, big, upstream={"max_response_header": "80KiB"})).status == 200


async def test_response_headers_of_the_route_apply_to_the_gateways_own_answers_too(server: str) -> None:
    rules = {"set": {"X-Set": "1"}, "remove": ["X-Internal"]}
    answer = await answered_with(server, response(200, [(b"X-Internal", b"1")], b"ok"), response_headers=rules)
    assert answer.values(b"x-set") == [b"1"]
    assert answer.values(b"x-internal") == []
    answer = await answered_with(server, b"bad\r\n\r\n", response_headers=rules)
    assert answer.status == 502
    assert answer.values(b"x-set") == [b"1"]


async def test_nothing_of_one_client_reaches_another(server: str) -> None:
    async with ScriptedUpstream(respond(response(200, [(b"Set-Cookie", b"sid=secret")], b"ok"))) as origin:
        async with serving(proxying(origin.url), server=server) as served:
            first = request("GET", b"/1", [(b"Cookie", b"a=1"), (b"Authorization", b"Basic eA==")])
            assert (await served.ask(first)).values(b"set-cookie") == [b"sid=secret"]
            assert (await served.ask(request("GET", b"/2"))).status == 200
        assert len(origin.connections) == 1, "the connection must be reused for this to show anything"
        assert own_fields(origin.requests[1]) == [(b"host", b"example.com")]


async def test_trailers_of_the_upstream_do_not_break_the_connection(server: str) -> None:
    raw = response(200, [(b"Transfer-Encoding", b"chunked"), (b"Trailer", b"X-Sum")], length=False)
    raw += chunked(b"ab", b"c", trailers=[(b"X-Sum", b"1")])
    async with ScriptedUpstream(respond(raw)) as origin, serving(proxying(origin.url), server=server) as served:
        for _ in range(2):
            answer = await served.ask(request())
            assert answer.body == b"abc" and answer.complete
        assert len(origin.connections) == 1
