from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.http.coding as coding_module
from gateway.http.coding import (
    CODINGS,
    BoundedDecoder,
    DecodingError,
    Level,
    TooMuchDecoded,
    code_whole,
    coding_us,
    make_decoder,
    make_encoder,
    short_coder,
)

LEVELS: tuple[Level, ...] = ("fast", "balanced", "best")


def encode(coding: str, data: bytes, level: Level = "fast") -> bytes:
    encoder = make_encoder(coding, level)
    return encoder.encode(data) + encoder.finish()


def decode(codings: list[str], data: bytes, piece: int = 1 << 20, max_bytes: int | None = None) -> bytes:
    decoder = BoundedDecoder(codings, max_bytes=max_bytes)
    out = b"".join(p for start in range(0, len(data), piece) for p in decoder.decode(data[start : start + piece]))
    assert decoder.complete
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 65_536, 300_000])
def test_what_is_coded_decodes_to_itself(coding: str, level: Level, size: int) -> None:
    data = (b"The quick brown fox. " * (size // 20 + 1))[:size]
    assert decode([coding], encode(coding, data, level)) == data


@pytest.fixture(params=[True, False], ids=["isal", "zlib"])
def with_isal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    if request.param:
        pytest.importorskip("isal.isal_zlib", reason="isal is not installed")
    else:
        monkeypatch.setattr(coding_module, "_isal_zlib", None)
    short_coder.cache_clear()
    yield request.param
    short_coder.cache_clear()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("coding", CODINGS)
def test_whole_bodies_are_coded_in_one_call(coding: str, level: Level, with_isal: bool) -> None:
    code = short_coder(coding, level)
    # One after the other, and larger than what the compressor that stays was made for.
    for size in (300_000, 0, 1, 1024, 20_000):
        data = (b"The quick brown fox. " * (size // 20 + 1))[:size]
        assert decode([coding], code(data)) == data
        assert decode([coding], code_whole(coding, level, data)) == data
        assert size > 8 * 1024 or len(code(data)) <= len(encode(coding, data, level)) + 8


def test_a_better_level_takes_longer(with_isal: bool) -> None:
    for coding in CODINGS:
        costs = [coding_us(coding, level) for level in LEVELS]
        assert costs == sorted(costs)


def test_independent_decoders_read_what_is_coded() -> None:
    data = b"abc" * 10_000
    assert gzip.decompress(encode("gzip", data)) == data
    assert brotli.decompress(encode("br", data)) == data


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=40)
@given(pieces=st.lists(st.binary(max_size=2000), max_size=8), cut=st.integers(1, 700))
def test_after_a_flush_everything_taken_can_be_decoded(coding: str, pieces: list[bytes], cut: int) -> None:
    encoder, decoder = make_encoder(coding), BoundedDecoder([coding], max_bytes=None)
    for piece in pieces:
        coded = encoder.encode(piece) + encoder.flush()
        decoded = b"".join(p for at in range(0, len(coded), cut) for p in decoder.decode(coded[at : at + cut]))
        assert decoded == piece
    decoder.decode(encoder.finish())
    assert decoder.complete


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("length", "window_log"), [(None, 17), (0, 10), (1, 10), (1025, 11), (65_536, 16), (1 << 30, 20)]
)
def test_the_window_of_zstd_goes_by_the_length(level: Level, length: int | None, window_log: int) -> None:
    encoder = make_encoder("zstd", level, length)
    # The third part of a frame's head, RFC 8878 section 3.1.1.1.2; without a content size the window stands there.
    assert (encoder.encode(b"x") + encoder.flush())[5] == window_log - 10 << 3


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("length", "is_large"), [(None, False), (1000, False), (512 * 1024, False), (1 << 20, True)])
def test_the_window_of_brotli_goes_by_the_length(level: Level, length: int | None, is_large: bool) -> None:
    encoder = make_encoder("br", level, length)
    # RFC 7932 section 9.1: one bit of 0 is a window of 16.
    assert (encoder.encode(b"x") + encoder.flush())[0] & 1 == is_large


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("length", [None, 0, 1, 100, 10_000_000])
def test_a_length_that_is_wrong_does_no_harm(coding: str, level: Level, length: int | None) -> None:
    data = b"The quick brown fox. " * 10_000
    encoder = make_encoder(coding, level, length)
    assert decode([coding], encoder.encode(data) + encoder.finish()) == data


def test_codings_are_taken_off_in_reverse_order() -> None:
    data = b"layer on layer " * 1000
    assert decode(["br", "zstd", "gzip"], encode("gzip", encode("zstd", encode("br", data))), piece=100) == data


def test_a_gzip_body_may_have_several_members() -> None:
    assert decode(["gzip"], gzip.compress(b"one ") + gzip.compress(b"two"), piece=7) == b"one two"


def test_zstd_frames_may_follow_each_other() -> None:
    assert decode(["zstd"], encode("zstd", b"one ") + encode("zstd", b"two"), piece=3) == b"one two"


@pytest.mark.parametrize("wbits", [15, -15], ids=["with zlib wrapper", "without"])
def test_deflate_is_read_with_and_without_its_wrapper(wbits: int) -> None:
    coder = zlib.compressobj(6, zlib.DEFLATED, wbits)
    data = b"deflated " * 500
    assert decode(["deflate"], coder.compress(data) + coder.flush(), piece=11) == data


@pytest.mark.parametrize("coding", [*CODINGS, "deflate"])
def test_junk_is_an_error(coding: str) -> None:
    with pytest.raises(DecodingError):
        BoundedDecoder([coding], max_bytes=None).decode(b"\xffno such coding at all" * 20)


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_after_the_end_are_an_error(coding: str) -> None:
    decoder = BoundedDecoder([coding], max_bytes=None)
    with pytest.raises(DecodingError):
        decoder.decode(encode(coding, b"whole") + b"and more")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_cut_short_is_not_complete(coding: str) -> None:
    decoder = BoundedDecoder([coding], max_bytes=None)
    decoder.decode(encode(coding, b"a whole body " * 100)[:-1])
    assert not decoder.complete


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_stopped_by_size(coding: str) -> None:
    bomb = encode(coding, bytes(20_000_000))
    with pytest.raises(TooMuchDecoded):
        BoundedDecoder([coding], max_bytes=1_000_000).decode(bomb)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_stopped_by_ratio(coding: str) -> None:
    bomb = encode(coding, bytes(20_000_000))
    with pytest.raises(TooMuchDecoded):
        BoundedDecoder([coding], max_bytes=None, max_ratio=100).decode(bomb)


def test_a_stacked_bomb_is_stopped_at_the_inner_layer() -> None:
    bomb = encode("gzip", encode("gzip", bytes(50_000_000)))
    with pytest.raises(TooMuchDecoded):
        BoundedDecoder(["gzip", "gzip"], max_bytes=1_000_000).decode(bomb)


def test_exactly_the_limit_passes() -> None:
    assert len(decode(["gzip"], encode("gzip", bytes(100_000)), max_bytes=100_000)) == 100_000


def test_an_unknown_coding_has_no_decoder() -> None:
    with pytest.raises(KeyError):
        make_decoder("compress")
