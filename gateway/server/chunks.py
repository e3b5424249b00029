"""Takes chunked request bodies apart, RFC 9112 section 7.1: one spelling for each meaning. No I/O."""

from __future__ import annotations

import re

from gateway.errors import BadRequest
from gateway.server.framing import MAX_LENGTH, TOKEN

MAX_EXTENSION_BYTES = 4 * 1024
"""Of the extensions of one chunk."""
MAX_EXTENSIONS_BYTES = 64 * 1024
"""Of the extensions of one body."""

# Sizes beyond 16 digits overflow; white space around the size is read differently by different servers.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")

_SIZE, _DATA, _DATA_END, _TRAILER = range(4)


class ChunkedDecoder:
    """Takes one body apart. Extensions and trailers are checked and dropped."""

    __slots__ = ("_extension_bytes", "_held", "_left", "_max_trailer_bytes", "_state", "_trailer_bytes", "complete")

    def __init__(self, max_trailer_bytes: int) -> None:
        self._max_trailer_bytes = max_trailer_bytes
        self._trailer_bytes = 0
        self._extension_bytes = 0
        self._state = _SIZE
        self._left = 0
        """Bytes of the current chunk that are still to come."""
        self._held = b""
        """The beginning of a line whose end is still to come."""
        self.complete = False

    def feed(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Append the body bytes of ``data`` to ``pieces``; what follows the end of the body. Raises BadRequest."""
        if self._held:
            data = self._held + data
            self._held = b""
        position, size = 0, len(data)
        while position < size:
            if self._state == _DATA:
                end = min(position + self._left, size)
                self._left -= end - position
                pieces.append(data if end - position == size else data[position:end])
                position = end
                if not self._left:
                    self._state = _DATA_END
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._hold(data[position:])
                return b""
            line = data[position:line_end]
            position = line_end + 2
            if self._state == _SIZE:
                self._read_size(line)
            elif self._state == _DATA_END:
                if line:
                    raise BadRequest("a chunk is longer than its size says")
                self._state = _SIZE
            elif line:
                self._read_trailer(line)
            else:
                self.complete = True
                return data[position:]
        return b""

    def _read_size(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise BadRequest("a chunk size is malformed")
        size = int(match[1], 16)
        if size > MAX_LENGTH:
            raise BadRequest("a chunk size is too large")
        extension_bytes = len(line) - len(match[1])
        self._extension_bytes += extension_bytes
        if extension_bytes > MAX_EXTENSION_BYTES or self._extension_bytes > MAX_EXTENSIONS_BYTES:
            raise BadRequest("chunk extensions are too long")
        self._left = size
        self._state = _DATA if size else _TRAILER

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > self._max_trailer_bytes:
            raise BadRequest("the trailer section is too long")
        if _TRAILER_LINE.fullmatch(line) is None:
            raise BadRequest("a trailer field is malformed")

    def _hold(self, line: bytes) -> None:
        """Keep the beginning of a line; raises BadRequest when no end can make it a good one."""
        begun = line[:-1] if line.endswith(b"\r") else line
        if b"\r" in begun or b"\n" in begun:
            raise BadRequest("a bare CR or LF in the chunk framing")
        if self._state == _DATA_END:
            if begun:
                raise BadRequest("a chunk is longer than its size says")
        elif self._state == _SIZE:
            if begun and _CHUNK_LINE.fullmatch(begun) is None:
                raise BadRequest("a chunk size is malformed")
            if len(begun) > 16 + MAX_EXTENSION_BYTES:
                raise BadRequest("chunk extensions are too long")
        elif self._trailer_bytes + len(begun) > self._max_trailer_bytes:
            raise BadRequest("the trailer section is too long")
        self._held = line
