from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadUpstreamResponse
from gateway.upstream.http1_chunked import ChunkedDecoder

Fed = tuple[bytes, bool, bytes]


def decode(*pieces: bytes, max_trailer_bytes: int = 100) -> Fed:
    """Body, whether it is done, and what follows it."""
    decoder = ChunkedDecoder(max_trailer_bytes)
    body: list[bytes] = []
    rest = b""
    for piece in pieces:
        rest += decoder.feed(piece, body)
    return b"".join(body), decoder.done, rest


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", True, b"")),
        (b"5\r\nhello\r\n0\r\n\r\nHTTP", (b"hello", True, b"HTTP")),
        (b"A\r\n0123456789\r\n00a\r\n0123456789\r\n000\r\n\r\n", (b"0123456789" * 2, True, b"")),
        (b"5;a=b\r\nhello\r\n0;last\r\n\r\n", (b"hello", True, b"")),
        (b'5 ; a="b c"\r\nhello\r\n0\r\n\r\n', (b"hello", True, b"")),
        (b"0\r\nX-Sum: 1\r\nX-Other: \xe9\r\n\r\n", (b"", True, b"")),
        (b"5\r\nhello\r\n", (b"hello", False, b"")),
        (b"5\r\nhel", (b"hel", False, b"")),
        (b"5\r\nhello\r\n0\r\n", (b"hello", False, b"")),
        (b"5\r\nhello\r\n0\r\nX: y\r\n", (b"hello", False, b"")),
    ],
)
def test_bodies_are_decoded(data: bytes, expected: Fed) -> None:
    assert decode(data) == expected
    assert decode(*(data[index : index + 1] for index in range(len(data)))) == expected


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1), st.lists(st.integers(0, 900), max_size=8))
def test_any_body_in_any_chunks_and_reads_comes_out_as_it_was(body: bytes, sizes: list[int], cuts: list[int]) -> None:
    coded, start = b"", 0
    for size in sizes * (len(body) + 1):
        if start >= len(body):
            break
        chunk = body[start : start + size]
        coded += b"%x;n=v\r\n%b\r\n" % (len(chunk), chunk)
        start += size
    coded += b"0\r\nT: t\r\n\r\n" + b"next"
    bounds = sorted({0, *(cut for cut in cuts if cut < len(coded)), len(coded)})
    assert decode(*(coded[a:b] for a, b in itertools.pairwise(bounds))) == (body, True, b"next")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"5\rhello",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFF\r\n",
        b"0000000000000000005\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;a\x00\r\nhello\r\n",
        b"5;" + b"x" * 5000 + b"\r\nhello\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: y\nZ: z\r\n\r\n",
        b"0\r\nX: " + b"y" * 100 + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 20 + b"\r\n",
        b"0\r\nX: " + b"y" * 200,
    ],
)
def test_what_could_be_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        decode(data)
    with pytest.raises(BadUpstreamResponse):
        decode(*(data[index : index + 1] for index in range(len(data))))


def test_extensions_are_limited_per_chunk_and_per_body_at_the_byte() -> None:
    chunk = b"1;%b\r\nx\r\n"
    assert decode(chunk % (b"e" * 4095))[0] == b"x"
    with pytest.raises(BadUpstreamResponse):
        decode(chunk % (b"e" * 4096))
    assert decode(chunk % (b"e" * 4095) * 16)[0] == b"x" * 16
    with pytest.raises(BadUpstreamResponse):
        decode(chunk % (b"e" * 4095) * 16 + chunk % b"")
