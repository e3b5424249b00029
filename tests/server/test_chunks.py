"""Chunked bodies that two parsers could read differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.server.chunks import ChunkedDecoder

BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n",
    "sign": b"+3\r\nabc\r\n",
    "hex prefix": b"0x3\r\nabc\r\n",
    "space before": b" 3\r\nabc\r\n",
    "space after": b"3 \r\nabc\r\n",
    "letters": b"g\r\nabc\r\n",
    "underscore": b"1_0\r\nabc\r\n",
    "17 digits": b"00000000000000003\r\nabc\r\n",
    "2^63": b"8000000000000000\r\n",
    "2^64": b"10000000000000000\r\n",
    "bare LF after the size": b"3\nabc\r\n",
    "bare CR after the size": b"3\rabc\r\n",
    "LF in an extension": b"3;a=\nb\r\nabc\r\n",
    "CR in an extension": b"3;a=\rb\r\nabc\r\n",
    "NUL in an extension": b"3;a=\x00\r\nabc\r\n",
    "longer than its size": b"3\r\nabcd\r\n",
    "LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "extension too long": b"3;" + b"x" * 4096 + b"\r\nabc\r\n",
    "extensions too long": (b"1;" + b"x" * 4000 + b"\r\na\r\n") * 17,
    "bare LF in a trailer": b"0\r\nA: b\nC: d\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer without a colon": b"0\r\nA\r\n\r\n",
    "trailers too long": b"0\r\n" + b"A: 1234567890\r\n" * 10 + b"\r\n",
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_bad_chunk_is_refused_however_it_is_cut(data: bytes, step: int) -> None:
    decoder = ChunkedDecoder(max_trailer_bytes=100)
    with pytest.raises(BadRequest):
        for start in range(0, len(data), step):
            decoder.feed(data[start : start + step], [])


@pytest.mark.parametrize("data", [b"3", b"3;" + b"x" * 5000, b"0\r\n" + b"A" * 200, b"3\r\nabcX"])
def test_unfinished_line_is_bounded_too(data: bytes) -> None:
    decoder = ChunkedDecoder(max_trailer_bytes=100)
    if data == b"3":
        assert decoder.feed(data, []) == b""
    else:
        with pytest.raises(BadRequest):
            decoder.feed(data, [])


def test_extension_of_exactly_4_kib_is_accepted() -> None:
    pieces: list[bytes] = []
    ChunkedDecoder(100).feed(b"3;" + b"x" * 4095 + b"\r\nabc\r\n", pieces)
    assert pieces == [b"abc"]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=10), st.integers(1, 50))
def test_chunks_are_joined_again(chunks: list[bytes], rest: bytes, step: int) -> None:
    data = b"".join(b"%x;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\n" + rest
    decoder = ChunkedDecoder(100)
    pieces: list[bytes] = []
    left = b""
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        left += piece if decoder.complete else decoder.feed(piece, pieces)
    assert decoder.complete
    assert b"".join(pieces) == b"".join(chunks)
    assert left == rest


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        ChunkedDecoder(100).feed(data, [])
    except BadRequest:
        return
