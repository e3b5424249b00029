"""What the gateway codes, others decode: every coding, level, framing and size around the thresholds."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

import gateway.http.coding as gateway_coding
from gateway.http.coding import CODINGS, BoundedDecoder, Level, coding_us, make_encoder
from gateway.middleware.coding_turn import HOLD_US
from gateway.middleware.compression import CompressionMiddleware
from tests.streams import decoders
from tests.streams.support import OWN, SANSIO, origin, running
from tests.support.gateway import Answer, Client, proxying

pytestmark = pytest.mark.anyio

LEVELS: tuple[Level, ...] = ("fast", "balanced", "best")
ALL = (*CODINGS, None)
MIN_SIZE = 1024
# What is coded on the event loop, and what in a thread.
LOOP_BYTES = {
    int((HOLD_US - call_us) / byte_us)
    for coding in CODINGS
    for call_us, byte_us in (coding_us(coding, level) for level in LEVELS)
}
SIZES = sorted(
    {size + more for size in (0, MIN_SIZE, *LOOP_BYTES, 256 * 1024) for more in (-1, 0, 1) if size + more >= 0}
    | {1_500_000}
)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@functools.cache
def text_of(size: int) -> bytes:
    """Text that compresses about as well as a page."""
    rng = random.Random(size)
    words = [b"<p>", b"gateway", b"stream", b"{'price': 12.50}", b" ", b"\n", b"caf\xc3\xa9"]
    pieces: list[bytes] = []
    length = 0
    while length < size:
        pieces.append(rng.choice(words) + b"%d" % rng.randrange(100))
        length += len(pieces[-1])
    return b"".join(pieces)[:size]


class Bodies:
    """``/SIZE``: that many bytes at once; ``/SIZE/PIECE``: chunked, in pieces of that many."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, _, piece = scope["path"][1:].partition("/")
        body = text_of(int(size))
        headers = [(b"content-type", b"application/json"), (b"etag", b'"strong"'), (b"accept-ranges", b"bytes")]
        if not piece:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        step = int(piece) if piece else len(body) or 1
        for start in range(0, len(body), step):
            await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def bodies(server: str = OWN, **compress: Any) -> AsyncIterator[int]:
    async with origin(Bodies()) as url, running(proxying(url, compress=compress or True), server) as (_, port, _):
        yield port


async def ask(port: int, target: str, coding: str | None) -> Answer:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    accept = f"Accept-Encoding: {coding}\r\n" if coding else ""
    client.write(f"GET {target} HTTP/1.1\r\nHost: example.com\r\n{accept}\r\n".encode())
    answer = await client.answer()
    await client.close()
    return answer


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("level", "server"), [*((level, OWN) for level in LEVELS), ("fast", SANSIO)])
async def test_every_size_in_every_coding_and_framing(level: Level, server: str) -> None:
    async with bodies(server, level=level) as port:
        for size in SIZES:
            for coding in ALL:
                for target in (f"/{size}", f"/{size}/{max(size // 3, 1)}", f"/{size}/65536"):
                    answer = await ask(port, target, coding)
                    assert answer.status == 200 and answer.complete, (target, coding)
                    applied = answer.value(b"content-encoding")
                    is_coded = applied is not None
                    if coding is None or (size < MIN_SIZE and "/" not in target[1:]):
                        assert not is_coded
                    elif is_coded or size >= MIN_SIZE:
                        # Small ones whose length nobody gave stay as they are when all of one has come at once.
                        assert applied == coding.encode()
                    assert answer.value(b"etag") == (b'W/"strong"' if is_coded else b'"strong"')
                    assert answer.values(b"accept-ranges") == ([] if is_coded else [b"bytes"])
                    assert decoders.decode(coding if is_coded else None, answer.body) == text_of(size)
                    if is_coded and size >= 2 * MIN_SIZE:
                        assert len(answer.body) < size


@needs_curl
@pytest.mark.parametrize("level", LEVELS)
async def test_curl_decodes_it(level: Level) -> None:
    async with bodies(level=level) as port:
        for coding in (*CODINGS, "deflate, gzip, br, zstd"):
            for size in (MIN_SIZE, 700_000):
                for target in (f"/{size}", f"/{size}/4096"):
                    url = f"http://127.0.0.1:{port}{target}"
                    # --compressed names every coding that curl knows; its own field would come beside it.
                    status, head, body = await decoders.curl("--compressed", "-H", f"Accept-Encoding: {coding}", url)
                    assert status == 0, head
                    assert "content-encoding: " in head.lower()
                    assert body == text_of(size)


@needs_curl
async def test_curl_gets_its_own_choice_and_the_plain_body_without_one() -> None:
    async with bodies() as port:
        url = f"http://127.0.0.1:{port}/200000"
        status, head, body = await decoders.curl("--compressed", url)
        assert status == 0 and body == text_of(200_000)
        assert "\ncontent-encoding: " in head.lower()
        status, head, body = await decoders.curl(url)
        assert status == 0 and body == text_of(200_000)
        assert "\ncontent-encoding: " not in head.lower() and "\nvary: accept-encoding" in head.lower()


class Coded:
    """``/SIZE/CODING``: a body that the service coded by itself, in pieces of 1,000 bytes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, size, coding = scope["path"].split("/")
        body = decoders.encode(coding, bytes(int(size)) if scope["query_string"] else text_of(int(size)))
        headers = [(b"content-type", b"text/html"), (b"content-encoding", coding.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 1000):
            await send({"type": "http.response.body", "body": body[start : start + 1000], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("given", ["gzip", "br", "zstd", "deflate"])
async def test_what_the_service_coded_is_decoded_or_coded_anew_for_who_refuses_it(given: str) -> None:
    async with origin(Coded()) as url, running(proxying(url, compress=True)) as (_, port, _):
        for size in (0, 1, 1024, 32 * 1024, 256 * 1024, 256 * 1024 + 1, 1_500_000):
            passed = await ask(port, f"/{size}/{given}", f"identity, {given}")
            assert passed.value(b"content-encoding") == given.encode()
            assert decoders.decode(given, passed.body) == text_of(size)
            plain = await ask(port, f"/{size}/{given}", "identity")
            assert plain.complete and plain.value(b"content-encoding") is None
            assert plain.body == text_of(size)
            for other in CODINGS:
                if other != given:
                    answer = await ask(port, f"/{size}/{given}", other)
                    assert answer.value(b"content-encoding") == other.encode()
                    assert decoders.decode(other, answer.body) == text_of(size)


@pytest.mark.parametrize("given", ["gzip", "br", "zstd"])
async def test_a_body_of_nothing_but_zeros_is_decoded_to_its_last_byte(given: str) -> None:
    async with origin(Coded()) as url, running(proxying(url, compress=True)) as (_, port, _):
        for size in (32_752, 70_000, 256 * 1024, 256 * 1024 + 1, 1_000_000):
            answer = await ask(port, f"/{size}/{given}?zeros", "identity")
            assert answer.complete and answer.body == bytes(size)


@pytest.mark.parametrize("given", ["gzip", "br", "zstd"])
async def test_a_bomb_of_an_upstream_is_cut(given: str) -> None:
    async with origin(Coded()) as url, running(proxying(url, compress=True)) as (_, port, _):
        answer = await ask(port, f"/{70 * 1024 * 1024}/{given}?zeros", "identity")
        assert not answer.complete or answer.status == 502
        assert len(answer.body) <= 64 * 1024 * 1024


@settings(max_examples=60)
@given(
    given=st.lists(st.binary(max_size=3000) | st.integers(0, 200_000), max_size=6),
    coding=st.sampled_from(CODINGS),
    level=st.sampled_from(LEVELS),
    cut=st.integers(1, 5000),
)
def test_any_boundaries_come_through(given: list[bytes | int], coding: str, level: Level, cut: int) -> None:
    # A number stands for so many zeros.
    pieces = [bytes(piece) if isinstance(piece, int) else piece for piece in given]
    encoder = make_encoder(coding, level)
    coded = b"".join(encoder.encode(piece) + encoder.flush() for piece in pieces) + encoder.finish()
    assert decoders.decode(coding, coded) == b"".join(pieces)
    decoder = BoundedDecoder([coding], max_bytes=None)
    out = [piece for at in range(0, len(coded), cut) for piece in decoder.steps(coded[at : at + cut])]
    assert b"".join(out) == b"".join(pieces) and decoder.complete
    assert max(map(len, out), default=0) <= 1.5 * BoundedDecoder.PIECE_BYTES


@settings(max_examples=40)
@given(
    given=st.binary(max_size=5000) | st.integers(0, 2_000_000),
    codings=st.lists(st.sampled_from(("gzip", "br", "zstd", "deflate")), min_size=1, max_size=3),
)
def test_stacked_codings_come_off_in_bounded_pieces(given: bytes | int, codings: list[str]) -> None:
    coded = data = bytes(given) if isinstance(given, int) else given
    for coding in codings:
        coded = decoders.encode(coding, coded)
    decoder = BoundedDecoder(codings, max_bytes=len(data))
    pieces = list(decoder.steps(coded))
    assert b"".join(pieces) == data and decoder.complete
    assert max(map(len, pieces), default=0) <= 1.5 * BoundedDecoder.PIECE_BYTES


# isal.


@pytest.fixture(params=[True, False], ids=["isal", "zlib"])
def with_isal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    if request.param:
        pytest.importorskip("isal.isal_zlib", reason="isal is not installed")
        assert gateway_coding._isal_zlib is not None
    else:
        monkeypatch.setattr(gateway_coding, "_isal_zlib", None)
    gateway_coding.short_coder.cache_clear()
    yield request.param
    gateway_coding.short_coder.cache_clear()


@pytest.mark.parametrize("level", LEVELS)
async def test_gzip_is_the_same_to_who_reads_it_with_isal_and_without(with_isal: bool, level: Level) -> None:
    coder = type(gateway_coding.make_encoder("gzip", level)._coder)  # type: ignore[attr-defined]
    assert ("isal" in coder.__module__) == (with_isal and level != "best")
    async with bodies(level=level) as port:
        for size in (MIN_SIZE, 128 * 1024 + 1, 1_500_000):
            for target in (f"/{size}", f"/{size}/777"):
                answer = await ask(port, target, "gzip")
                assert answer.value(b"content-encoding") == b"gzip"
                assert decoders.decode("gzip", answer.body) == text_of(size)


# In the cache.


async def test_each_coding_is_stored_once_and_served_as_it_was_coded() -> None:
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        headers = [(b"content-type", b"text/html"), (b"cache-control", b"public, max-age=600"), (b"etag", b'"one"')]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text_of(200_000)})

    async with origin(app) as url, running(proxying(url, compress=True, cache=True)) as (_, port, _):
        first = {coding: await ask(port, "/", coding) for coding in ALL}
        assert asked == len(ALL)
        digests = {hashlib.sha256(answer.body).digest() for answer in first.values()}
        assert len(digests) == len(ALL)
        for _ in range(2):
            for coding in ALL:
                answer = await ask(port, "/", coding)
                assert answer.value(b"content-encoding") == (coding.encode() if coding else None)
                assert answer.body == first[coding].body
                assert decoders.decode(coding, answer.body) == text_of(200_000)
                assert answer.value(b"etag") == (b'W/"one"' if coding else b'"one"')
                assert answer.value(b"age") is not None
        assert asked == len(ALL)


async def test_the_middleware_alone_codes_for_any_application() -> None:
    async with origin(CompressionMiddleware(Bodies(), min_size=100)) as url:
        for coding in CODINGS:
            answer = await ask(int(url.rpartition(":")[2]), "/500000", coding)
            assert decoders.decode(coding, answer.body) == text_of(500_000)
