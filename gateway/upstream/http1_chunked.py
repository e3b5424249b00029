"""The chunked transfer coding, decoded strictly: RFC 9112 section 7.1. Bytes in, bytes out; no I/O."""

from __future__ import annotations

import re

from gateway.errors import BadUpstreamResponse
from gateway.upstream.http1_head import parse_field_line

MAX_CHUNK_EXTENSION_BYTES = 4 * 1024
MAX_BODY_EXTENSION_BYTES = 64 * 1024

_EXTENSION = rb"[ \t]*;[\t\x20-\x7e\x80-\xff]*"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(%b)?\r\n" % _EXTENSION)
# What may still become a size line when more bytes come.
_SIZE_LINE_START = re.compile(rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}(?:[ \t]*|%b)\r?" % _EXTENSION)

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class ChunkedDecoder:
    """Decodes one chunked body. Extensions and trailers are checked, limited and dropped."""

    __slots__ = ("_extension_bytes", "_max_trailer_bytes", "_outstanding", "_rest", "_state", "_trailer_bytes")

    def __init__(self, max_trailer_bytes: int) -> None:
        self._max_trailer_bytes = max_trailer_bytes
        self._state = _SIZE
        self._outstanding = 0
        """Bytes of the current chunk that have not come."""
        self._rest = b""
        """The beginning of a line that has not come to its end."""
        self._extension_bytes = 0
        self._trailer_bytes = 0

    @property
    def done(self) -> bool:
        """Whether the body has come to its end."""
        return self._state == _DONE

    def feed(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Decode ``data``, add what it holds of the body to ``pieces``, and return the bytes after the body's end.

        Raises BadUpstreamResponse.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position, end = 0, len(data)
        while position < end:
            state = self._state
            if state == _SIZE:
                match = _SIZE_LINE.match(data, position)
                if match is None:
                    self._keep_size_line(data[position:])
                    break
                position = match.end()
                self._on_size(match)
            elif state == _DATA:
                piece = data[position : position + self._outstanding]
                pieces.append(piece)
                position += len(piece)
                self._outstanding -= len(piece)
                if not self._outstanding:
                    self._state = _DATA_END
            elif state == _DATA_END:
                line_end = data[position : position + 2]
                if line_end == b"\r":
                    self._rest = line_end
                    break
                if line_end != b"\r\n":
                    raise BadUpstreamResponse("a chunk is longer than its size")
                position += 2
                self._state = _SIZE
            elif state == _TRAILER:
                position = self._on_trailer(data, position)
                if self._rest:
                    break
            else:
                return data[position:]
        return b""

    def _on_size(self, match: re.Match[bytes]) -> None:
        if match[2] is not None:
            self._on_extension(len(match[2]))
        self._outstanding = int(match[1], 16)
        self._state = _DATA if self._outstanding else _TRAILER

    def _on_extension(self, length: int) -> None:
        self._extension_bytes += length
        if length > MAX_CHUNK_EXTENSION_BYTES or self._extension_bytes > MAX_BODY_EXTENSION_BYTES:
            raise BadUpstreamResponse("too many chunk extensions")

    def _keep_size_line(self, rest: bytes) -> None:
        if not _SIZE_LINE_START.fullmatch(rest):
            raise BadUpstreamResponse(f"a malformed chunk size: {rest[:40]!r}")
        if len(rest) > MAX_CHUNK_EXTENSION_BYTES + 17:
            raise BadUpstreamResponse("too many chunk extensions")
        self._rest = rest

    def _on_trailer(self, data: bytes, position: int) -> int:
        """Take one line of the trailer section; where the next one begins."""
        line_end = data.find(b"\r\n", position)
        length = (len(data) if line_end < 0 else line_end) - position
        if self._trailer_bytes + length > self._max_trailer_bytes:
            raise BadUpstreamResponse("the trailer section is too large")
        if line_end < 0:
            self._rest = data[position:]
            return len(data)
        if length:
            self._trailer_bytes += length + 2
            parse_field_line(data[position:line_end])
        else:
            self._state = _DONE
        return line_end + 2
