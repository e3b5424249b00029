from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadUpstreamResponse
from gateway.upstream.http1_head import CHUNKED, UNTIL_CLOSE, HeadParser, PartialHead, _framing


def parse(*lines: bytes) -> tuple[int, float | None]:
    """Framing and idle time of a head."""
    *_, framing, idle_s = HeadParser().parse(b"\r\n".join(lines))
    return framing, idle_s


def test_a_head_keeps_order_repetition_and_bytes_and_lowers_names() -> None:
    block = b"HTTP/1.1 200 F\r\nSet-Cookie: a=1\r\nX-B:  \xe9\t,x \t\r\nSet-Cookie: b=2\r\nEmpty:\r\nContent-Length: 5"
    parser = HeadParser()
    for _ in range(2):  # the second time from memory
        status, version, reason, fields, framing, idle_s = parser.parse(block)
        assert (status, version, reason) == (200, b"HTTP/1.1", b"F")
        assert fields == [
            (b"set-cookie", b"a=1"),
            (b"x-b", b"\xe9\t,x"),
            (b"set-cookie", b"b=2"),
            (b"empty", b""),
            (b"content-length", b"5"),
        ]
        assert (framing, idle_s) == (5, None)


@pytest.mark.parametrize(
    ("lines", "framing", "idle_s"),
    [
        ([b"HTTP/1.1 200 OK"], UNTIL_CLOSE, None),
        ([b"HTTP/1.1 200"], UNTIL_CLOSE, None),
        ([b"HTTP/1.1 200 "], UNTIL_CLOSE, None),
        ([b"HTTP/1.1 599 \xe9"], UNTIL_CLOSE, None),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 0"], 0, None),
        ([b"HTTP/1.1 200 OK", b"content-length:\t12 "], 12, None),
        ([b"HTTP/1.1 200 OK", b"Transfer-Encoding: Chunked"], CHUNKED, None),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Connection: close"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Connection: x, Close"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Connection: close", b"Connection: keep-alive"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Connection: close", b"Keep-Alive: timeout=9"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Keep-Alive: timeout=5"], 1, 4.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b'Keep-Alive: max=3, Timeout = "65"'], 1, 64.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Keep-Alive: timeout=1"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Keep-Alive: timeout=0"], 1, 0.0),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Keep-Alive: timeout=soon"], 1, None),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 1"], 1, 0.0),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 1", b"Connection: Keep-Alive"], 1, None),
        ([b"HTTP/1.0 200 OK", b"Keep-Alive: timeout=5", b"Connection: Keep-Alive", b"Content-Length: 1"], 1, 4.0),
    ],
)
def test_framing_and_persistence(lines: list[bytes], framing: int, idle_s: float | None) -> None:
    assert parse(*lines) == (framing, idle_s)


@pytest.mark.parametrize(
    "status_line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 No",
        b"HTTP/1.1 600 No",
        b"HTTP/1.1 -20 No",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200OK",
    ],
)
def test_malformed_status_lines_are_refused(status_line: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        parse(status_line)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([b"Content-Length: 5", b"Transfer-Encoding: chunked"], id="length-and-chunked"),
        pytest.param([b"Transfer-Encoding: chunked", b"Content-Length: 5"], id="chunked-and-length"),
        pytest.param([b"Content-Length: 5", b"Content-Length: 6"], id="lengths-differ"),
        pytest.param([b"Content-Length: 5", b"Content-Length: 5"], id="length-twice"),
        pytest.param([b"Content-Length: 5, 5"], id="length-list"),
        pytest.param([b"Content-Length: +5"], id="length-plus"),
        pytest.param([b"Content-Length: -5"], id="length-minus"),
        pytest.param([b"Content-Length: 0x5"], id="length-hex"),
        pytest.param([b"Content-Length: 5_0"], id="length-underscore"),
        pytest.param([b"Content-Length: 5 5"], id="length-space"),
        pytest.param([b"Content-Length: 5.0"], id="length-fraction"),
        pytest.param([b"Content-Length:"], id="length-empty"),
        pytest.param([b"Content-Length: 99999999999999999999"], id="length-overflow"),
        pytest.param([b"Content-Length: \xb2"], id="length-superscript"),
        pytest.param([b"Transfer-Encoding: gzip, chunked"], id="coding-list"),
        pytest.param([b"Transfer-Encoding: chunked, chunked"], id="chunked-twice"),
        pytest.param([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], id="chunked-repeated"),
        pytest.param([b"Transfer-Encoding: identity"], id="identity"),
        pytest.param([b"Transfer-Encoding: xchunked"], id="unknown-coding"),
        pytest.param([b"Transfer-Encoding: \x0bchunked"], id="coding-control"),
        pytest.param([b"Transfer-Encoding:"], id="coding-empty"),
        pytest.param([b"A: b", b" folded"], id="obs-fold"),
        pytest.param([b" A: b"], id="leading-space"),
        pytest.param([b"A : b"], id="space-before-colon"),
        pytest.param([b"A\t: b"], id="tab-before-colon"),
        pytest.param([b": b"], id="no-name"),
        pytest.param([b"A"], id="no-colon"),
        pytest.param([b""], id="empty-line"),
        pytest.param([b"A: b\rc"], id="bare-cr"),
        pytest.param([b"A: b\nc: d"], id="bare-lf"),
        pytest.param([b"A: b\n"], id="lf-crlf"),
        pytest.param([b"A: b\r"], id="cr-crlf"),
        pytest.param([b"A: b\x00"], id="nul"),
        pytest.param([b"A: \x1f"], id="control"),
        pytest.param([b"A: \x7f"], id="del"),
        pytest.param([b"A\x00: b"], id="nul-in-name"),
        pytest.param([b"A\xe9: b"], id="obs-text-in-name"),
        pytest.param([b"A(b): c"], id="separator-in-name"),
    ],
)
def test_malformed_and_ambiguous_fields_are_refused(fields: list[bytes]) -> None:
    with pytest.raises(BadUpstreamResponse):
        parse(b"HTTP/1.1 200 OK", *fields)


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    with pytest.raises(BadUpstreamResponse):
        parse(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked")


def test_an_error_does_not_show_a_value() -> None:
    with pytest.raises(BadUpstreamResponse) as caught:
        parse(b"HTTP/1.1 200 OK", b"Set-Cookie: secret\x00")
    assert "secret" not in str(caught.value)


def test_the_memory_for_lines_is_bounded() -> None:
    parser = HeadParser()
    for number in range(2000):
        for _ in range(2):
            parser.parse(b"HTTP/1.1 200 %d\r\nX-Number: %d\r\nX-Long: %s" % (number, number, b"x" * 1000))
    assert 0 < len(parser._fields) <= 256
    assert len(parser._status_lines) <= 256


@given(st.lists(st.integers(0, 60), max_size=6))
def test_a_head_in_any_pieces_is_found_where_it_ends(cuts: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nab\r\n\r\nc"
    bounds = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    partial = PartialHead(pieces[0])
    end = pieces[0].find(b"\r\n\r\n")
    for piece in pieces[1:]:
        if end >= 0:
            break
        partial.check(1000)
        end, _ = partial.add(piece)
    assert end == data.find(b"\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"X",
        b"HTTP/2",
        b"\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\nhello",
        b"HTTP/1.1 200 OK\r\nA: b\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20,
    ],
)
def test_what_cannot_become_a_head_is_refused_before_its_end(data: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        PartialHead(data).check(100)
    partial = PartialHead(data[:1])
    with pytest.raises(BadUpstreamResponse):
        for index in range(1, len(data) + 1):
            partial.check(100)
            partial.add(data[index : index + 1])


_FRAMING = st.tuples(
    st.sampled_from([b"Content-Length", b"Connection", b"Transfer-Encoding", b"Keep-Alive", b"X-A"]),
    st.sampled_from([b"0", b"12", b"007", b"+1", b"1" * 19, b"", b"chunked", b"close", b"keep-alive", b"timeout=5"]),
)


@given(st.lists(st.lists(_FRAMING, max_size=4), max_size=4), st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK"]))
def test_what_was_learned_of_other_answers_changes_no_framing(
    heads: list[list[tuple[bytes, bytes]]], status_line: bytes
) -> None:
    parser = HeadParser()
    # The same names again, with the values of the others: names alone must not decide.
    mixed = [
        [(name, value) for (name, _), (_, value) in zip(names, values, strict=False)]
        for names, values in itertools.product(heads, heads)
    ]
    for fields in [*heads, *mixed]:
        block = b"\r\n".join([status_line, *[b"%b: %b" % field for field in fields]])
        assert _outcome(parser, block) == _outcome(HeadParser(), block)
        lowered = [(name.lower(), value) for name, value in fields if name != b"X-A"]
        try:
            expected: object = _framing(lowered, status_line[:8])
        except BadUpstreamResponse as error:
            expected = str(error)
        found = _outcome(parser, block)
        assert (found[4:] if isinstance(found, tuple) else found) == expected


def _outcome(parser: HeadParser, block: bytes) -> tuple[object, ...] | str:
    try:
        return parser.parse(block)
    except BadUpstreamResponse as error:
        return str(error)
