"""What the short way keeps of clients and upstreams: bounded, and nobody's secrets."""

from __future__ import annotations

from gateway.express.fields import NOT_PLAIN, PlainFields
from gateway.server.framing import HeadReader


def plain_fields() -> PlainFields:
    return PlainFields(hidden=frozenset(), own=frozenset(), answer_rules=(), response_rules=(), coding_rule=None)


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


def test_lines_of_requests_are_remembered_within_bounds() -> None:
    reader = HeadReader(max_header_bytes=32 * 1024, max_headers=100, max_target_bytes=8192)
    for number in range(5000):
        reader.read(b"GET / HTTP/1.1\r\nHost: h%d\r\nCookie: a=%d\r\nX-Long: %b\r\n\r\n" % (number, number, b"a" * 500))
    known = reader._known_lines
    assert len(known) <= 2048
    assert not [line for line in known if line.startswith((b"Cookie", b"X-Long"))]
