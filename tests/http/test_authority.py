"""Host fields: the one spelling that is matched, and everything that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.http.authority import normalise_host, parse_authority
from gateway.patterns import parse_host


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"example.com", "example.com", None),
        (b"Example.COM", "example.com", None),
        (b"example.com.", "example.com", None),
        (b"example.com.:8080", "example.com", 8080),
        (b"example.com:80", "example.com", 80),
        (b"example.com:", "example.com", None),
        (b"localhost", "localhost", None),
        (b"a_b.example", "a_b.example", None),
        (b"192.0.2.7:1", "192.0.2.7", 1),
        (b"[::1]", "[::1]", None),
        (b"[::1]:65535", "[::1]", 65535),
        (b"[2001:DB8::0:1]", "[2001:db8::1]", None),
    ],
)
def test_host_and_port_are_read(value: bytes, host: str, port: int | None) -> None:
    assert parse_authority(value) == (host, port)
    assert normalise_host([value]) == host


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b" example.com",
        b"example.com ",
        b":80",
        b".",
        b".example.com",
        b"example..com",
        b"example.com..",
        b"user@example.com",
        b"user:pw@example.com",
        b"example.com:80:80",
        b"example.com:x",
        b"example.com:-1",
        b"example.com:65536",
        b"example.com:000080",
        b"example.com/",
        b"example.com/path",
        b"example.com?q",
        b"example.com#f",
        b"example.com\\",
        b"exam ple.com",
        b"example.com, other.example",
        b"ex%61mple.com",
        b"example.com\x00",
        b"example.com\n",
        b"\xff.example",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"[]",
        b"[::x]",
        b"[1.2.3.4]",
        b"[fe80::1%25eth0]",
        b"a" * 254,
        b"a" * 100_000,
    ],
)
def test_malformed_authorities_are_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_authority(value)


@pytest.mark.parametrize("values", [[], [b"example.com", b"example.com"], [b"a.example", b"b.example"]])
def test_there_is_exactly_one_host(values: list[bytes]) -> None:
    with pytest.raises(BadRequest):
        normalise_host(values)


@given(st.binary(max_size=40))
def test_what_is_accepted_has_one_spelling(value: bytes) -> None:
    try:
        host = parse_authority(value).host
    except BadRequest:
        return
    assert host == host.lower()
    assert normalise_host([host.encode("ascii")]) == host


@given(st.ip_addresses(v=6))
def test_patterns_and_requests_spell_ipv6_alike(address: object) -> None:
    literal = f"[{address}]"
    assert parse_host(literal).name == normalise_host([literal.upper().encode("ascii")])
