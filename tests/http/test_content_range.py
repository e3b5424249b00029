from __future__ import annotations

from email.parser import BytesParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.content_range import MAX_RANGES, parse_range, partial_content, unsatisfied

BODY = bytes(range(100))


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        pytest.param(b"bytes=0-9", [(0, 9)], id="14.1.2-first-ten"),
        pytest.param(b"bytes=90-", [(90, 99)], id="14.1.2-from"),
        pytest.param(b"bytes=-10", [(90, 99)], id="14.1.2-suffix"),
        pytest.param(b"bytes=-1000", [(0, 99)], id="14.1.2-suffix-longer-than-all"),
        pytest.param(b"bytes=0-1000", [(0, 99)], id="14.1.2-clipped"),
        pytest.param(b"bytes=0-0,-1", [(0, 0), (99, 99)], id="14.1.2-first-and-last"),
        pytest.param(b"Bytes = 0-0 , 5-6 ,", [(0, 0), (5, 6)], id="14.1-case-and-space"),
        pytest.param(b"bytes=5-9,0-1", [(5, 9), (0, 1)], id="15.3.7.2-order-asked-for"),
        pytest.param(b"bytes=0-5,3-9", [(0, 9)], id="15.3.7.2-overlap"),
        pytest.param(b"bytes=5-9,0-4", [(0, 9)], id="15.3.7.2-touching"),
        pytest.param(b"bytes=0-1,8-9,2-7", [(0, 9)], id="15.3.7.2-bridge"),
        pytest.param(b"bytes=20-21,0-1,8-9,2-7", [(20, 21), (0, 9)], id="15.3.7.2-bridge-behind-another"),
        pytest.param(b"bytes=100-", [], id="15.5.17-behind-the-end"),
        pytest.param(b"bytes=-0", [], id="15.5.17-empty-suffix"),
        pytest.param(b"bytes=100-,0-0", [(0, 0)], id="14.1.1-one-of-them"),
        pytest.param(b"bytes=9-5", None, id="14.1.1-backwards"),
        pytest.param(b"bytes=a-b", None, id="junk"),
        pytest.param(b"bytes=0-0,x", None, id="junk-in-a-list"),
        pytest.param(b"bytes=-", None, id="no-number"),
        pytest.param(b"bytes=", None, id="none"),
        pytest.param(b"bytes=0--1", None, id="negative"),
        pytest.param(b"bytes=+0-1", None, id="sign"),
        pytest.param(b"bytes=0-" + b"9" * 30, None, id="overflow"),
        pytest.param(b"items=0-5", None, id="14.1-other-unit"),
        pytest.param(b"0-5", None, id="no-unit"),
        pytest.param(b"bytes=" + b",".join([b"0-0"] * (MAX_RANGES + 1)), None, id="17.15-too-many"),
    ],
)
def test_ranges(value: bytes, ranges: Any) -> None:
    assert parse_range(value, 100) == ranges


def test_nothing_of_an_empty_body_can_be_had() -> None:
    assert parse_range(b"bytes=0-", 0) == []
    assert parse_range(b"bytes=-5", 0) == []


def test_one_range_is_a_plain_206() -> None:
    stored = [(b"content-length", b"100"), (b"content-type", b"a/b"), (b"etag", b'"1"')]
    fields, pieces = partial_content([(10, 19)], stored, BODY, b"x")
    assert pieces == [BODY[10:20]]
    assert fields == [
        (b"content-type", b"a/b"),
        (b"etag", b'"1"'),
        (b"content-range", b"bytes 10-19/100"),
        (b"content-length", b"10"),
    ]


@pytest.mark.parametrize("content_type", [b"text/plain", None])
def test_several_ranges_are_a_multipart_body(content_type: bytes | None) -> None:
    stored = [(b"content-type", content_type)] if content_type else []
    fields, pieces = partial_content([(0, 1), (98, 99)], stored, b"ab" * 50, b"boundary")
    body = b"".join(pieces)
    assert dict(fields)[b"content-length"] == b"%d" % len(body)
    whole = b"Content-Type: %b\r\n\r\n%b" % (dict(fields)[b"content-type"], body)
    message = BytesParser().parsebytes(whole)
    parts: Any = message.get_payload()
    assert [part["Content-Range"] for part in parts] == ["bytes 0-1/100", "bytes 98-99/100"]
    assert [part.get_payload() for part in parts] == ["ab", "ab"]
    assert [part["Content-Type"] for part in parts] == [content_type and content_type.decode()] * 2


def test_416_says_how_long_the_body_is() -> None:
    fields = unsatisfied(100, [(b"etag", b'"1"'), (b"content-type", b"a/b"), (b"content-length", b"100")])
    assert fields == [(b"etag", b'"1"'), (b"content-range", b"bytes */100"), (b"content-length", b"0")]


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)).map(sorted), min_size=1, max_size=MAX_RANGES),
    st.integers(0, 100),
)
def test_the_bytes_asked_for_are_those_that_come(asked: Any, length: int) -> None:
    ranges = parse_range(b"bytes=" + b",".join(b"%d-%d" % tuple(pair) for pair in asked), length)
    assert ranges is not None
    wanted = {position for first, last in asked for position in range(first, last + 1) if position < length}
    got = [position for first, last in ranges for position in range(first, last + 1)]
    assert sorted(got) == sorted(wanted)


@given(st.binary(max_size=60))
def test_any_value_can_be_read(value: bytes) -> None:
    for candidate in (value, b"bytes=" + value):
        for first, last in parse_range(candidate, 50) or ():
            assert 0 <= first <= last < 50
