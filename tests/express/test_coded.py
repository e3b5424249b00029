"""What is remembered of coding says the same as the middleware that it was asked of."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.express.coded import CodedHeads
from gateway.express.fields import MAX_REMEMBERED, lines_of
from gateway.http.fields import Fields
from gateway.middleware.compression import CompressionMiddleware
from tests.support.messages import answering

NAMES = (b"cache-control", b"content-type", b"vary", b"etag", b"accept-ranges", b"set-cookie", b"digest", b"x")
VALUES = (b"", b"a", b"text/html", b"application/json", b"no-transform", b"*", b"Accept-Encoding", b'W/"a"', b'"a"')
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6)
ACCEPTS = (b"", b"gzip", b"br;q=0.5, zstd", b"*;q=0", b"identity", b"GZIP;q=1.0")
REQUESTS = st.lists(st.tuples(st.just(b"accept-encoding"), st.sampled_from(ACCEPTS)), max_size=2)

COMPRESSION = CompressionMiddleware(answering(200, [], [b""]), min_size=100)
HEADS = CodedHeads(COMPRESSION)


def sorted_lines(lines: bytes) -> list[bytes]:
    return sorted(lines.split(b"\r\n"))


@settings(max_examples=300)
@given(
    status=st.sampled_from([200, 404, 206]),
    fields=FIELDS,
    request=REQUESTS,
    size=st.sampled_from([0, 99, 100, 5000]),
    has_length=st.booleans(),
)
def test_lines_are_those_of_the_fields(
    status: int, fields: Fields, request: Fields, size: int, has_length: bool
) -> None:
    async def run() -> None:
        body = b"x" * size
        length = [(b"content-length", b"%d" % size)] if has_length else []
        for _ in range(2):
            answer = HEADS.answer(status, [*fields, *length], body, request)
            expected = COMPRESSION.whole_answer(status, [*fields, *length], body, request)
            assert answer is not None and expected is not None
            # Nobody asks about small ones with a length.
            if size >= 100 or not has_length:
                assert sorted_lines(answer[0]) == sorted_lines(lines_of(expected[0]))
            assert answer[1] == expected[1]
            await asyncio.sleep(0)

    asyncio.run(run())


def test_what_is_remembered_is_bounded() -> None:
    async def run() -> None:
        heads = CodedHeads(CompressionMiddleware(answering(200, [], [b""])))
        body = b"x" * 5000
        for number in range(3000):
            fields = [(b"content-type", b"text/plain; a=%d" % number), (b"etag", b'"%d"' % number)]
            assert heads.answer(200, fields, body, [(b"accept-encoding", b"gzip")]) is not None
            await asyncio.sleep(0)
        assert heads.answer(200, [(b"content-type", b"text/plain; " + b"a" * 5000)], body, []) is not None
        assert len(heads._decisions) <= MAX_REMEMBERED
        assert len(repr(heads._decisions)) < MAX_REMEMBERED * 300

    asyncio.run(run())
