"""Lines of fields: what they say, which are none, and which are remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.field_lines import FieldLines, MalformedLine, parse_field_line


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"Host: a", (b"host", b"a")),
        (b"X-Empty:", (b"x-empty", b"")),
        (b"X-Tabs:\t a b\t ", (b"x-tabs", b"a b")),
        (b"X-Latin: \xe4", (b"x-latin", b"\xe4")),
        (b"a: b: c", (b"a", b"b: c")),
        (b"!#$%&'*+-.^_`|~09AZaz: token", (b"!#$%&'*+-.^_`|~09azaz", b"token")),
    ],
)
def test_a_line_is_a_name_in_lower_case_and_a_value_without_the_space_around_it(
    line: bytes, field: tuple[bytes, bytes]
) -> None:
    assert parse_field_line(line) == field
    assert FieldLines(8).read([line + b"\r", line + b"\r"]) == [field, field]


@pytest.mark.parametrize(
    "line",
    [b"", b"Host", b": a", b"Host : a", b" Host: a", b"\tfolded", b"A: b\rc", b"A: b\nc", b"A: \x00", b"A: \x7f"],
)
def test_what_is_not_plainly_a_field_is_malformed_however_often_it_comes(line: bytes) -> None:
    lines = FieldLines(8)
    for _ in range(3):
        with pytest.raises(MalformedLine):
            lines.read([b"Host: a\r", line + b"\r"])
    with pytest.raises(MalformedLine):
        parse_field_line(line)


@given(
    st.lists(st.tuples(st.sampled_from([b"A", b"b-c", b"Cookie"]), st.sampled_from([b"1", b" 2 ", b""])), max_size=30)
)
def test_what_is_remembered_says_what_was_read(pairs: list[tuple[bytes, bytes]]) -> None:
    lines = [name + b":" + value for name, value in pairs]
    known = FieldLines(3)
    for _ in range(3):
        assert known.read([line + b"\r" for line in lines]) == [parse_field_line(line) for line in lines]
        assert len(known) <= 3


@pytest.mark.parametrize("line", [b"Host: a", b"Host: a\n", b"Host: a\r\r", b"Host: a\r\n", b""])
def test_a_line_that_does_not_end_in_one_cr_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedLine):
        FieldLines(8).read([line])


def test_a_line_is_remembered_when_it_comes_again() -> None:
    lines = FieldLines(8)
    for _ in range(2):
        lines.read([b"Host: a\r"])
    assert b"Host: a\r" in lines


def test_what_comes_once_takes_the_place_of_nothing() -> None:
    lines = FieldLines(100)
    for _ in range(2):
        lines.read([b"Host: a\r"])
    for number in range(1000):
        lines.read([b"Host: a\r", b"X-Trace: %d\r" % number])
    assert len(lines) < 50
    assert b"Host: a\r" in lines


@pytest.mark.parametrize(
    "line", [b"Authorization: a", b"cookie: a", b"Proxy-Authorization: a", b"Set-Cookie: a", b"X: " + b"a" * 300]
)
def test_secrets_and_long_lines_are_not_remembered(line: bytes) -> None:
    lines = FieldLines(8)
    for _ in range(3):
        lines.read([line + b"\r"])
    assert not len(lines)


def test_no_more_is_remembered_than_is_allowed() -> None:
    lines = FieldLines(8)
    for number in range(100):
        for _ in range(2):
            lines.read([b"X-Number: %d\r" % number])
            assert len(lines) <= 8
