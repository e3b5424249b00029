"""What the short way keeps of clients and upstreams: bounded, and nobody's secrets."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.exchange import Admitted
from gateway.express.fields import NOT_PLAIN, PlainFields
from gateway.express.shared import SharedLane
from gateway.http.fields import may_be_secret
from gateway.http.forwarded import Identity
from gateway.middleware.cors import CorsRule
from gateway.server.framing import HeadReader


def plain_fields() -> PlainFields:
    return PlainFields(hidden=frozenset(), own=frozenset(), answer_rules=(), response_rules=(), compression=None)


def test_fields_of_answers_are_remembered_within_bounds() -> None:
    fields = plain_fields()
    for number in range(5000):
        assert not fields[b"etag", b'"%d"' % number][0] & NOT_PLAIN
    assert len(fields) <= 1024


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
    for number in range(5000):
        reader.read(
            b"GET / HTTP/1.1\r\nHost: h%d\r\nCookie: a=%d\r\nX-API-Key: %d\r\nX-Long: %b\r\n\r\n"
            % (number, number, number, b"a" * 500)
        )
    known = reader._known_lines
    assert len(known) <= 2048
    assert not [line for line in known if line.startswith((b"Cookie", b"X-API-Key", b"X-Long"))]


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
