"""Heads that two parsers could read differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, ClientError, HeadersTooLarge, MethodNotImplemented, TargetTooLong
from gateway.server.framing import HeadReader
from gateway.server.scope import request_scope


def reader(max_header_bytes: int = 32768, max_headers: int = 100, max_target_bytes: int = 8192) -> HeadReader:
    return HeadReader(max_header_bytes=max_header_bytes, max_headers=max_headers, max_target_bytes=max_target_bytes)


def post(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST / HTTP/" + version, b"Host: a", *fields, b"", b""])


def get(line: bytes) -> bytes:
    return line + b"\r\nHost: a\r\n\r\n"


REFUSED = {
    "both framings": post(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "both, other order": post(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "two lengths": post(b"Content-Length: 3", b"Content-Length: 3"),
    "two different lengths": post(b"Content-Length: 3", b"Content-Length: 4"),
    "signed length": post(b"Content-Length: +5"),
    "length list": post(b"Content-Length: 5,5"),
    "hex length": post(b"Content-Length: 0x5"),
    "length with a space": post(b"Content-Length:  5 5"),
    "empty length": post(b"Content-Length:"),
    "negative length": post(b"Content-Length: -1"),
    "length beyond 2^63": post(b"Content-Length: 9223372036854775808"),
    "length beyond 2^64": post(b"Content-Length: 99999999999999999999"),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked"),
    "chunked in two fields": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip"),
    "identity": post(b"Transfer-Encoding: identity"),
    "almost chunked": post(b"Transfer-Encoding: xchunked"),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;a=b"),
    "chunked with a vertical tab": post(b"Transfer-Encoding: \x0bchunked"),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"'),
    "empty coding": post(b"Transfer-Encoding:"),
    "chunked in HTTP/1.0": post(b"Transfer-Encoding: chunked", version=b"1.0"),
    "space before the colon": post(b"X : a"),
    "tab before the colon": post(b"X\t: a"),
    "folded line": post(b"X: a", b" b"),
    "folded with a tab": post(b"X: a", b"\tb"),
    "folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "no colon": post(b"X"),
    "empty name": post(b": a"),
    "space in a name": post(b"X Y: a"),
    "obs-text in a name": post(b"X\xe9: a"),
    "bare LF after the line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF between fields": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a value": post(b"X: a\rb"),
    "CR before CRLF": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "bare LFs at the end of the head": b"GET / HTTP/1.1\r\nHost: a\n\nX: b\r\n\r\n",
    "two spaces before the target": get(b"GET  / HTTP/1.1"),
    "two spaces after the target": get(b"GET /  HTTP/1.1"),
    "space at the end": get(b"GET / HTTP/1.1 "),
    "tab for a space": get(b"GET\t/ HTTP/1.1"),
    "space at the beginning": get(b" GET / HTTP/1.1"),
    "space in the target": get(b"GET /a b HTTP/1.1"),
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": get(b"GET / HTTP/0.9"),
    "HTTP/1.2": get(b"GET / HTTP/1.2"),
    "HTTP/1.10": get(b"GET / HTTP/1.10"),
    "HTTP/2.0": get(b"GET / HTTP/2.0"),
    "http in lower case": get(b"GET / http/1.1"),
    "another protocol": get(b"GET / RTSP/1.0"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "method that is no token": get(b"G(T / HTTP/1.1"),
    "control byte in the target": get(b"GET /\x01 HTTP/1.1"),
    "obs-text in the target": get(b"GET /\xe9 HTTP/1.1"),
    "relative target": get(b"GET a HTTP/1.1"),
    "asterisk for GET": get(b"GET * HTTP/1.1"),
    "another scheme": get(b"GET ftp://b/ HTTP/1.1"),
    "credentials in the target": get(b"GET http://u:p@b/ HTTP/1.1"),
    "no authority": get(b"GET http:///a HTTP/1.1"),
}


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_head_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        reader().read(head)


@pytest.mark.parametrize("code", [*range(9), *range(10, 32), 127])
@pytest.mark.parametrize("field", [b"X: a%cb", b"X%cY: a"])
def test_control_byte_in_a_field_is_refused(code: int, field: bytes) -> None:
    with pytest.raises(BadRequest):
        reader().read(post(field % code))


@pytest.mark.parametrize(
    "head",
    [
        post(b"Transfer-Encoding: gzip, chunked"),
        post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
        get(b"CONNECT b:443 HTTP/1.1"),
        get(b"BREW / HTTP/1.1"),
        get(b"get / HTTP/1.1"),
    ],
)
def test_what_is_not_known_is_501(head: bytes) -> None:
    with pytest.raises(MethodNotImplemented):
        reader().read(head)


def test_a_refused_head_leaves_nothing_for_the_next_one() -> None:
    heads = reader()
    for head in REFUSED.values():
        with pytest.raises(BadRequest):
            heads.read(head)
        heads.read(post(b"Content-Length: 3"))
        assert (heads.length, heads.chunked, heads.keep_alive, heads.upgrade) == (3, False, True, b"")
        heads.read(get(b"GET /x HTTP/1.1"))
        assert (heads.length, heads.target, heads.fields) == (None, b"/x", [(b"host", b"a")])


@pytest.mark.parametrize(
    ("fields", "version", "keep_alive"),
    [
        ([], b"1.1", True),
        ([b"Connection: close"], b"1.1", False),
        ([b"Connection: x, Close"], b"1.1", False),
        ([b"Connection: keep-alive", b"Connection: close"], b"1.1", False),
        ([], b"1.0", False),
        ([b"Connection: Keep-Alive"], b"1.0", True),
        ([b"Connection: keep-alive, close"], b"1.0", False),
    ],
)
def test_keep_alive(fields: list[bytes], version: bytes, keep_alive: bool) -> None:
    heads = reader()
    heads.read(post(*fields, version=version))
    assert heads.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        ([b"Upgrade: WebSocket", b"Connection: keep-alive, Upgrade"], b"websocket"),
        ([b"Upgrade: h2c", b"Connection: upgrade"], b"h2c"),
        ([b"Upgrade: websocket"], b""),
        ([b"Connection: upgrade"], b""),
        ([b"Upgrade: h2c", b"Upgrade: websocket", b"Connection: upgrade"], b"h2c,websocket"),
    ],
)
def test_upgrade_needs_both_fields(fields: list[bytes], upgrade: bytes) -> None:
    heads = reader()
    heads.read(post(*fields))
    assert heads.upgrade == upgrade


# Limits at the byte.


def test_target_is_limited_at_the_byte() -> None:
    heads = reader(max_target_bytes=10)
    heads.read(get(b"GET /123456789 HTTP/1.1"))
    with pytest.raises(TargetTooLong):
        heads.read(get(b"GET /1234567890 HTTP/1.1"))
    heads.check_partial(b"GET /123456789")
    heads.check_partial(b"GET /123456789 HTT")
    with pytest.raises(TargetTooLong):
        heads.check_partial(b"GET /1234567890")


def test_header_section_is_limited_at_the_byte() -> None:
    line = b"GET / HTTP/1.1\r\n"
    section = b"Host: a\r\nX: 123\r\n"
    heads = reader(max_header_bytes=len(section))
    heads.read(line + section + b"\r\n")
    longer = b"Host: a\r\nX: 1234\r\n"
    with pytest.raises(HeadersTooLarge):
        heads.read(line + longer + b"\r\n")
    for end in range(len(line + section) + 1):
        heads.check_partial((line + section + b"\r")[: end + 1])
    with pytest.raises(HeadersTooLarge):
        heads.check_partial(line + longer + b"X")


def test_number_of_fields_is_limited() -> None:
    heads = reader(max_headers=2)
    heads.read(post(b"A: 1"))
    with pytest.raises(HeadersTooLarge):
        heads.read(post(b"A: 1", b"B: 1"))


@pytest.mark.parametrize("head", [b"x" * 33, b"\x16\x03\x01" + b"\x00" * 40, b"GET / " + b"x" * 20])
def test_what_can_be_no_request_line_is_refused_early(head: bytes) -> None:
    with pytest.raises(BadRequest):
        reader().check_partial(head)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for head in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        heads = reader()
        try:
            heads.check_partial(head)
            heads.read(head[: head.index(b"\r\n\r\n") + 4])
        except ClientError:
            continue
        assert not any(byte in name + value for name, value in heads.fields for byte in b"\r\n\x00")


def test_a_header_section_that_is_repeated_reads_like_the_first() -> None:
    reader = HeadReader(max_header_bytes=32768, max_headers=100, max_target_bytes=8192)
    section = b"\r\nHost: a\r\nConnection: close\r\nX: 1\r\nX: 2\r\n\r\n"
    reader.read(b"GET /first HTTP/1.1" + section)
    first = list(reader.fields)
    request_scope({}, reader, {}, {})["headers"].append((b"added", b"by an application"))
    reader.read(b"GET /second?q HTTP/1.1" + section)
    assert (reader.target, reader.fields, reader.keep_alive) == (b"/second?q", first, False)


@pytest.mark.parametrize(
    "line", [b"POST / HTTP/1.1", b"GET / HTTP/1.0", b"GET /\x01 HTTP/1.1", b"GET /a#b HTTP/1.1"], ids=str
)
def test_only_a_plain_get_is_read_without_the_parser(line: bytes) -> None:
    section = b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n"

    def outcome(reader: HeadReader) -> object:
        try:
            reader.read(line + section)
        except ClientError as error:
            return type(error)
        return reader.method, reader.target, reader.fields, reader.length, reader.is_http_11, reader.keep_alive

    fresh = HeadReader(max_header_bytes=32768, max_headers=100, max_target_bytes=8192)
    warm = HeadReader(max_header_bytes=32768, max_headers=100, max_target_bytes=8192)
    warm.read(b"GET / HTTP/1.1" + section)
    assert outcome(warm) == outcome(fresh)
