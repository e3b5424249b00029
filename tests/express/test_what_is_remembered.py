"""What the short way keeps of clients and upstreams: bounded, and nobody's secrets."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.exchange import Admitted
from gateway.express.fields import NOT_PLAIN, PlainFields
from gateway.express.proxied import ProxiedLane
from gateway.express.shared import SharedLane
from gateway.http.fields import may_be_secret
from gateway.http.forwarded import Identity
from gateway.middleware.cors import CorsRule
from gateway.recent import Recent
from gateway.server.framing import HeadReader
from tests.support.gateway import UVICORN, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio


def plain_fields() -> PlainFields:
    return PlainFields(
        hidden=frozenset(), own=frozenset(), answer_rules=(), response_rules=(), coding_rule=None, recent=Recent()
    )


def test_fields_of_answers_are_remembered_within_bounds() -> None:
    fields = plain_fields()
    for number in range(5000):
        for _ in range(2):
            assert not fields[b"etag", b'"%d"' % number][0] & NOT_PLAIN
    assert 0 < len(fields) <= 1024


def test_a_field_that_comes_once_is_not_remembered() -> None:
    fields = plain_fields()
    for number in range(100):
        assert fields[b"etag", b'"%d"' % number] == (0, b'etag: "%d"\r\n' % number, (b"etag", b'"%d"' % number))
    assert len(fields) < 50


def test_long_fields_and_cookies_of_answers_are_not_remembered() -> None:
    fields = plain_fields()
    for field in ((b"x-echo", b"a" * 10_000), (b"set-cookie", b"session=secret")):
        assert fields[field][2] == field
    assert not fields


def test_a_rule_that_fails_on_a_field_leaves_it_to_the_layers() -> None:
    def broken(scope: object, message: object) -> None:
        raise ValueError("this rule always fails")

    fields = plain_fields()
    fields._answer_rules = (broken,)
    assert fields[b"set-cookie", b"a=1"][0] & NOT_PLAIN
    assert not fields


class Lane:
    """A lane that says no."""

    name = "all"

    def begin(self, *args: Any) -> bool:
        return False


def admitted(*fields: tuple[bytes, bytes]) -> Admitted:
    return Admitted(cast(Identity, None), "example.com", b"example.com", "", list(fields))


def test_notes_about_a_header_section_are_kept_within_bounds() -> None:
    found = admitted()
    for number in range(5000):
        found.note(number, number)
        assert found.notes[number] == number
    assert len(found.notes) <= 64


async def test_no_head_of_a_request_is_kept_for_each_route_when_it_is_long() -> None:
    async with ScriptedUpstream(respond(response(200, [], b"a"))) as upstream:
        config = proxying(upstream.url)
        (route,) = config["routes"]
        config["routes"] = [{**route, "name": f"r{number}", "path": f"/{number}"} for number in range(20)]
        async with serving(config) as served, served.client() as client:
            for value, kept in ((b"long" * 8_000, 0), (b"short", 20)):
                for number in range(20):
                    client.write(request(target=b"/%d" % number, fields=[(b"X-Long", value)]))
                    assert (await client.answer()).body == b"a"
                    assert upstream.requests[-1].values(b"x-long") == [value]
                (protocol,) = served.state.connections
                known = cast(Any, protocol).head.section.admitted
                noted = {} if known is None else known.notes
                # Clients hold thousands of connections that idle.
                assert len([parts for parts in noted.values() if value in b"".join(parts)]) == kept


def test_lanes_for_origins_are_kept_within_bounds_and_apart() -> None:
    made: list[Any] = []

    def make(granted: Any) -> Any:
        made.append(granted)
        return Lane()

    lane = SharedLane("all", CorsRule(origins=["https://*.example.com"]), make)
    for number in range(500):
        origin = b"https://%d.example.com" % number
        lane.begin(*cast(Any, (None, admitted((b"origin", origin)), b"/", None, None)))
        assert made[-1] == [(b"access-control-allow-origin", origin)]
    assert len(lane._lanes) <= 64
    before = len(made)
    for origin in (b"https://evil.example", b"null", b""):
        lane.begin(*cast(Any, (None, admitted((b"origin", origin)), b"/", None, None)))
    # Those that are told nothing share a lane.
    assert made[before:] == [[]]


def test_lines_of_requests_are_remembered_within_bounds() -> None:
    reader = HeadReader(max_header_bytes=32 * 1024, max_headers=100, max_target_bytes=8192)
    secrets, long = [b"Cookie: a=1", b"X-API-Key: b"], b"X-Long: " + b"a" * 500
    for number in range(5000):
        for method in (b"GET", b"HEAD"):
            head = b"%b / HTTP/1.1\r\nHost: h%d" % (method, number)
            reader.read(b"\r\n".join([head, *secrets, long]) + b"\r\n\r\n")
    known = reader._known_lines
    assert 0 < len(known) <= 2048
    assert not [line for line in [*secrets, long] if line + b"\r" in known]


@pytest.mark.parametrize("name", [b"authorization", b"cookie"])
async def test_secrets_are_known_to_other_servers_for_a_moment(name: bytes) -> None:
    async with (
        ScriptedUpstream(respond(response(200, [], b"a"))) as upstream,
        serving(proxying(upstream.url), server=UVICORN) as served,
    ):
        mounted = served.gateway.runtime.mounted
        for field in ((name, b"Basic c2VjcmV0"), (b"accept", b"*/*")):
            for _ in range(2):
                await served.ask(request(fields=[field]))
        assert "c2VjcmV0" in repr(list(mounted._admitted_briefly))
        mounted._sweep(0.0)
        remembered = repr(mounted._admitted) + repr(mounted._admitted_briefly)
    assert "accept" in remembered and "c2VjcmV0" not in remembered


async def test_what_is_known_under_other_servers_is_bounded() -> None:
    async with (
        ScriptedUpstream(respond(response(200, [], b"a"))) as upstream,
        serving(proxying(upstream.url), server=UVICORN) as served,
        served.client() as client,
    ):
        mounted = served.gateway.runtime.mounted
        for number in range(600):
            client.write(request(fields=[(b"cookie" if number % 2 else b"x", b"%d" % number)]))
            assert (await client.answer()).body == b"a"
            assert len(mounted._admitted) <= 256 and len(mounted._admitted_briefly) <= 256


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        (b"authorization", True),
        (b"cookie", True),
        (b"proxy-authorization", True),
        (b"x-api-key", True),
        (b"x-csrf-token", True),
        (b"x-session", True),
        (b"accept", False),
        (b"user-agent", False),
        (b"host", False),
    ],
)
def test_names_of_fields_tell_what_is_not_to_be_remembered(name: bytes, is_secret: bool) -> None:
    assert may_be_secret(name) == is_secret


async def test_targets_and_sections_that_come_once_are_not_remembered() -> None:
    async with (
        ScriptedUpstream(respond(response(200, [], b"a"))) as upstream,
        serving(proxying(upstream.url)) as served,
        served.client() as client,
    ):
        for number in range(100):
            trace = [(b"X-Trace", b"%d" % number)]
            for target in (b"/again", b"/once/%d" % number):
                client.write(request(target=target, fields=trace))
                assert (await client.answer()).status == 200
        express = served.gateway.generation.express
        assert express._ways is not None
        assert ("example.com", b"/again") in express._ways
        assert len(express._ways) < 20
        lane = served.gateway.generation.routes["all"].lane
        assert isinstance(lane, ProxiedLane)
        assert list(lane._templates) == [(b"host", b"x-trace")]
