"""Content codings, RFC 9110 section 8.4.1: gzip and deflate (RFC 1952, 1950), br (RFC 7932), zstd (RFC 8878).

Encoders and decoders work on pieces and do no I/O; a body that is at hand and short is coded in one call by what
``short_coder`` gives. ``coding_us`` says how long it takes, and so whether it belongs in a thread.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Literal, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:
    _isal_zlib: Any = importlib.import_module("isal.isal_zlib")
except ImportError:
    _isal_zlib = None

Level = Literal["fast", "balanced", "best"]
CODINGS = ("zstd", "br", "gzip")
DECODABLE = ("zstd", "br", "gzip", "deflate")

# RFC 9659: a decoder need not take a larger window over HTTP.
_ZSTD_WINDOW_LOG = 23

# An encoder clears its tables for each body. Made for the largest, those of zstd are 48 MiB at the highest level and
# take 30 ms, and those of brotli grow to 25 MiB, for 1 KiB of JSON or a stream of events as well; so both go by the
# length. A body of unknown length gets what one of this length would.
_STREAM_BYTES = 128 * 1024
_ZSTD_ENCODER_WINDOW_LOGS = range(10, 21)
_ZSTD_MAX_TABLE_LOGS: dict[Level, tuple[int, int]] = {"fast": (17, 16), "balanced": (19, 19), "best": (19, 19)}
# Up to 16 brotli keeps to tables of 1 MiB, and finds as much in bodies of this length.
_BROTLI_SMALL_WINDOW_LOG, _BROTLI_WINDOW_LOG = 16, 20
_BROTLI_SMALL_BYTES = 512 * 1024

_ZSTD_LEVELS: dict[Level, int] = {"fast": 3, "balanced": 9, "best": 17}
_BROTLI_LEVELS: dict[Level, int] = {"fast": 3, "balanced": 5, "best": 9}
_GZIP_LEVELS: dict[Level, int] = {"fast": 1, "balanced": 5, "best": 9}
# isal knows 0 to 3; its 2 is as small as zlib's 3 to 4 at several times the speed.
_ISAL_LEVELS: dict[Level, int] = {"fast": 1, "balanced": 2}

# The compressor that codes short bodies stays. To be made takes no time beside larger ones, which come out 1 to 3 %
# larger where it is not made for them.
_ZSTD_SHORT_BYTES: dict[Level, int] = {"fast": 128 * 1024, "balanced": 32 * 1024, "best": 8 * 1024}

# What a byte takes, the slower of JSON and HTML on a Xeon where zlib does 150 MB/s at level 1; and any call.
_NS_PER_BYTE: dict[str, dict[Level, float]] = {
    "zstd": {"fast": 3.5, "balanced": 14.0, "best": 130.0},
    "br": {"fast": 6.5, "balanced": 20.0, "best": 30.0},
    "gzip": {"fast": 7.0, "balanced": 16.0, "best": 45.0},
}
_ISAL_NS_PER_BYTE = 1.7
_CALL_US = 4.0


class Encoder(Protocol):
    """One body being coded; after ``finish`` the object is used up."""

    def encode(self, data: bytes) -> bytes:
        """What can be sent after ``data``; may be empty."""
        ...

    def flush(self) -> bytes:
        """All that was taken so far, so that the receiver can decode it now."""
        ...

    def finish(self) -> bytes:
        """The end of the body."""
        ...


class Decoder(Protocol):
    """One body being decoded."""

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """The next output, at most ``max_bytes`` + 1 of it. Raises DecodingError; call with b"" while ``pending``."""
        ...

    @property
    def pending(self) -> bool:
        """Whether more output waits for the same input."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the coded body may end here."""
        ...


class DecodingError(ValueError):
    """The data is not what its coding says."""


class _ZlibEncoder:
    def __init__(self, level: Level, length: int) -> None:
        if _isal_zlib is not None and level in _ISAL_LEVELS:
            self._coder = _isal_zlib.compressobj(_ISAL_LEVELS[level], _isal_zlib.DEFLATED, 31)
            self._sync = _isal_zlib.Z_SYNC_FLUSH
        else:
            self._coder = zlib.compressobj(_GZIP_LEVELS[level], zlib.DEFLATED, 31)
            self._sync = zlib.Z_SYNC_FLUSH

    def encode(self, data: bytes) -> bytes:
        return bytes(self._coder.compress(data))

    def flush(self) -> bytes:
        return bytes(self._coder.flush(self._sync))

    def finish(self) -> bytes:
        return bytes(self._coder.flush())


class _BrotliEncoder:
    def __init__(self, level: Level, length: int) -> None:
        self._coder = brotli.Compressor(quality=_BROTLI_LEVELS[level], lgwin=_brotli_window_log(length))

    def encode(self, data: bytes) -> bytes:
        return bytes(self._coder.process(data))

    def flush(self) -> bytes:
        return bytes(self._coder.flush())

    def finish(self) -> bytes:
        return bytes(self._coder.finish())


def _brotli_window_log(length: int) -> int:
    return _BROTLI_SMALL_WINDOW_LOG if length <= _BROTLI_SMALL_BYTES else _BROTLI_WINDOW_LOG


class _ZstdEncoder:
    def __init__(self, level: Level, length: int) -> None:
        self._coder = _zstd_compressor(level, length)

    def encode(self, data: bytes) -> bytes:
        return self._coder.compress(data)

    def flush(self) -> bytes:
        return self._coder.flush(zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._coder.flush(zstd.ZstdCompressor.FLUSH_FRAME)


def _zstd_compressor(level: Level, length: int) -> zstd.ZstdCompressor:
    logs = _ZSTD_ENCODER_WINDOW_LOGS
    window_log = min(max((length - 1).bit_length(), logs[0]), logs[-1])
    max_hash_log, max_chain_log = _ZSTD_MAX_TABLE_LOGS[level]
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _ZSTD_LEVELS[level],
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.hash_log: min(window_log + 1, max_hash_log),
        zstd.CompressionParameter.chain_log: min(window_log + 1, max_chain_log),
    }
    return zstd.ZstdCompressor(options=options)


class _ZlibDecoder:
    """gzip with any number of members, and deflate with or without its zlib wrapper."""

    def __init__(self, wbits: int | None) -> None:
        self._wbits = wbits
        self._coder: Any = None
        self._rest = b""

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        data = self._rest + data
        if not data and (self._coder is None or self._coder.eof):
            return b""
        if self._coder is None or self._coder.eof:
            if self._coder is not None and self._wbits is None:
                raise DecodingError("bytes after the end of a deflate body")
            self._coder = zlib.decompressobj(self._wbits if self._wbits is not None else _deflate_wbits(data))
        try:
            output: bytes = self._coder.decompress(data, max_bytes + 1)
        except zlib.error as error:
            raise DecodingError(str(error)) from error
        self._rest = self._coder.unused_data if self._coder.eof else self._coder.unconsumed_tail
        return output

    @property
    def pending(self) -> bool:
        return bool(self._rest)

    @property
    def complete(self) -> bool:
        return self._coder is not None and self._coder.eof and not self._rest


def _deflate_wbits(data: bytes) -> int:
    """Many senders of "deflate" leave the zlib wrapper out; its first byte tells (RFC 1950 section 2.2)."""
    return 15 if data[0] & 0x0F == 8 and data[0] >> 4 <= 7 else -15


class _BrotliDecoder:
    def __init__(self) -> None:
        self._coder = brotli.Decompressor()
        self._rest = b""

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        self._rest += data
        if self._coder.is_finished():
            if self._rest:
                raise DecodingError("bytes after the end of a br body")
            return b""
        try:
            if self._coder.can_accept_more_data():
                taken, self._rest = self._rest, b""
                return bytes(self._coder.process(taken, output_buffer_limit=max_bytes + 1))
            return bytes(self._coder.process(b"", output_buffer_limit=max_bytes + 1))
        except brotli.error as error:
            raise DecodingError(str(error)) from error

    @property
    def pending(self) -> bool:
        return bool(self._rest) or not (self._coder.is_finished() or self._coder.can_accept_more_data())

    @property
    def complete(self) -> bool:
        return bool(self._coder.is_finished()) and not self._rest


class _ZstdDecoder:
    """One zstd frame after the other."""

    def __init__(self) -> None:
        self._coder = self._new()
        self._rest = b""
        self._started = False

    @staticmethod
    def _new() -> Any:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        data = self._rest + data
        self._rest = b""
        if self._coder.eof and data:
            self._coder = self._new()
        if data:
            self._started = True
        elif self._coder.eof or self._coder.needs_input:
            return b""
        try:
            output: bytes = self._coder.decompress(data, max_bytes + 1)
        except zstd.ZstdError as error:
            raise DecodingError(str(error)) from error
        if self._coder.eof:
            self._rest = self._coder.unused_data
        return output

    @property
    def pending(self) -> bool:
        return bool(self._rest) or not (self._coder.eof or self._coder.needs_input)

    @property
    def complete(self) -> bool:
        return self._started and self._coder.eof and not self._rest


_ENCODERS: dict[str, Callable[[Level, int], Encoder]] = {
    "zstd": _ZstdEncoder,
    "br": _BrotliEncoder,
    "gzip": _ZlibEncoder,
}
_DECODERS: dict[str, Callable[[], Decoder]] = {
    "zstd": _ZstdDecoder,
    "br": _BrotliDecoder,
    "gzip": lambda: _ZlibDecoder(31),
    "deflate": lambda: _ZlibDecoder(None),
}


def make_encoder(coding: str, level: Level = "fast", length: int | None = None) -> Encoder:
    """An encoder for ``coding``, one of ``CODINGS``; about ``length`` bytes are to come, None where nobody knows."""
    return _ENCODERS[coding](level, _STREAM_BYTES if length is None else length)


def code_whole(coding: str, level: Level, body: bytes) -> bytes:
    """A body of any size in ``coding``, one of ``CODINGS``; in any thread."""
    encoder = make_encoder(coding, level, len(body))
    return encoder.encode(body) + encoder.finish()


@cache
def short_coder(coding: str, level: Level) -> Callable[[bytes], bytes]:
    """What codes bodies that take no longer than a turn of the event loop, for the thread of that alone.

    It does in one call what ``code_whole`` does, and sets nothing up for each body: that saves 2 us with gzip, and with
    zstd 22 of the 26 that 1 KiB takes.
    """
    if coding == "zstd":
        short_bytes = _ZSTD_SHORT_BYTES[level]
        compressor = _zstd_compressor(level, short_bytes)

        def code(body: bytes) -> bytes:
            if len(body) > short_bytes:
                return code_whole("zstd", level, body)
            return compressor.compress(body, compressor.FLUSH_FRAME)

        return code
    if coding == "br":
        quality = _BROTLI_LEVELS[level]
        return lambda body: bytes(brotli.compress(body, quality=quality, lgwin=_brotli_window_log(len(body))))
    if _isal_zlib is not None and level in _ISAL_LEVELS:
        isal_compress, isal_level = _isal_zlib.compress, _ISAL_LEVELS[level]
        return lambda body: bytes(isal_compress(body, isal_level, 31))
    zlib_level = _GZIP_LEVELS[level]
    return lambda body: zlib.compress(body, zlib_level, 31)


def coding_us(coding: str, level: Level) -> tuple[float, float]:
    """About how many microseconds coding takes: for a call, and for each byte."""
    if coding == "gzip" and _isal_zlib is not None and level in _ISAL_LEVELS:
        return _CALL_US, _ISAL_NS_PER_BYTE / 1000
    return _CALL_US, _NS_PER_BYTE[coding][level] / 1000


def make_decoder(coding: str) -> Decoder:
    """A decoder for ``coding``, one of ``DECODABLE``. Raises KeyError for any other."""
    return _DECODERS[coding]()


class BoundedDecoder:
    """Decodes a body with stacked codings, within a bound on what comes out, and in steps of bounded work.

    ``max_bytes`` bounds the decoded body (None: no bound), ``max_ratio`` decoded against coded bytes once more than
    1 MiB came out. What stands between two codings may be twice as large as what came out of it, and 1 MiB.
    """

    PIECE_BYTES = 64 * 1024
    """About what one step gives: at most half as much again, with brotli."""

    # Fed at a time: the rest of a piece is copied for each of its gzip members, which may be 20 bytes each.
    _SLICE_BYTES = 16 * 1024
    _FREE_BYTES = 1024 * 1024

    def __init__(self, codings: list[str], *, max_bytes: int | None, max_ratio: float | None = None) -> None:
        self._layers = [make_decoder(coding) for coding in reversed(codings)]
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self.may_block = "br" in codings
        """Whether a step may take some 20 ms: brotli decodes up to its window of 16 MiB before it gives any of it."""
        self._bytes_in = 0
        self._bytes_between = 0
        self._bytes_out = 0

    def decode(self, data: bytes) -> list[bytes]:
        """What ``data`` decodes to, in pieces. Raises DecodingError and TooMuchDecoded."""
        return [piece for piece in self.steps(data) if piece]

    def steps(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` decodes to, a piece a step, some of them empty; take all before the next call.

        Nothing is decoded ahead of the step that is asked for. Raises DecodingError and TooMuchDecoded.
        """
        self._bytes_in += len(data)
        pieces: Iterator[bytes] = iter((data,))
        for layer in self._layers[:-1]:
            pieces = self._between(self._drained(layer, pieces))
        for piece in self._drained(self._layers[-1], pieces):
            self._bytes_out += len(piece)
            self._check()
            yield piece

    def _drained(self, layer: Decoder, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            for start in range(0, len(piece), self._SLICE_BYTES):
                output = layer.decode(piece[start : start + self._SLICE_BYTES], self.PIECE_BYTES)
                yield output
                # One that has taken all of its input may hold more and not say so: brotli gives 32 KiB at a time.
                while output or layer.pending:
                    output = layer.decode(b"", self.PIECE_BYTES)
                    yield output

    def _between(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Coded bytes on their way to the next layer: no honest body is coded into much more than it is."""
        for piece in pieces:
            self._bytes_between += len(piece)
            yield piece
            if self._bytes_between > self._FREE_BYTES + 2 * self._bytes_out * (len(self._layers) - 1):
                raise TooMuchDecoded("the codings inside another coding are much larger than what they hold")

    def _check(self) -> None:
        out = self._bytes_out
        if self._max_bytes is not None and out > self._max_bytes:
            raise TooMuchDecoded(f"more than {self._max_bytes} bytes decoded")
        if self._max_ratio is not None and out > self._FREE_BYTES and out > self._max_ratio * self._bytes_in:
            raise TooMuchDecoded(f"decoded to more than {self._max_ratio:g} times its size")

    @property
    def complete(self) -> bool:
        """Whether every layer has come to its end."""
        return all(layer.complete for layer in self._layers)


class TooMuchDecoded(ValueError):
    """The decoded body is larger than allowed: a bomb, or a limit that is too low."""
