"""Transports that are moved by hand, and an upstream that echoes what it is asked."""

from __future__ import annotations

import asyncio
from typing import Any, cast


class Wire:
    """A transport whose other end is the test: takes what is written, and delivers what it is told to."""

    def __init__(self) -> None:
        self.protocol: asyncio.Protocol = cast(asyncio.Protocol, None)
        self.written = bytearray()
        self.closing = False
        self.lost = False
        self.paused = False
        self.throttled = False

    def connect(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(cast(asyncio.Transport, self))

    # What protocols call.

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, **limits: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose, None)

    abort = close

    # What the test does.

    def deliver(self, data: bytes) -> bool:
        """Hand over what the other end sent; False when it is not read at the moment."""
        if self.closing or self.paused or not data:
            return False
        self.protocol.data_received(data)
        return True

    def end(self) -> None:
        if not self.closing and not self.paused and not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        if not self.closing:
            self.closing = True
            self._lose(ConnectionResetError("reset"))

    def throttle(self, on: bool) -> None:
        if not self.lost and on != self.throttled:
            self.throttled = on
            (self.protocol.pause_writing if on else self.protocol.resume_writing)()

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(error)


class Origin(Wire):
    """A connection to the upstream, which answers each request with its target and body."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0
        self.answer = b""
        """What is still to be sent of the answers to what has come."""
        self.is_midway = False

    def work(self) -> None:
        """Make answers to the requests that are complete."""
        while (found := self.written.find(b"\r\n\r\n", self.read)) >= 0:
            head, start = bytes(self.written[self.read : found]), found + 4
            lines = head.lower().split(b"\r\n")
            target = head.split(b" ", 2)[1]
            lengths = [int(line[16:]) for line in lines if line.startswith(b"content-length: ")]
            if b"transfer-encoding: chunked" in lines:
                taken = dechunked(bytes(self.written[start:]))
                if taken is None:
                    return
                body, size = taken
            else:
                size = lengths[0] if lengths else 0
                body = bytes(self.written[start : start + size])
                if len(body) < size:
                    return
            self.read = start + size
            self.answer += answer_of(target + b" " + body, int(target[1:]))


def answer_of(echo: bytes, number: int) -> bytes:
    if number % 4 == 1:
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(echo), echo)
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if number % 4 == 2 else b""
    return interim + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(echo), echo)


def dechunked(data: bytes) -> tuple[bytes, int] | None:
    """A chunked body at the beginning of ``data``, and its size on the wire; None while it is incomplete."""
    body, position = b"", 0
    while (end := data.find(b"\r\n", position)) >= 0:
        size = int(data[position:end], 16)
        position = end + 2 + size + 2
        if position > len(data):
            return None
        body += data[end + 2 : end + 2 + size]
        if not size:
            return body, position
    return None


def answers_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Status and body of every final answer in ``data``, and what is left of a broken one."""
    found: list[tuple[int, bytes]] = []
    while data:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return found, data
        lines = data[:end].lower().split(b"\r\n")
        status = int(data[9:12])
        assert data.startswith(b"HTTP/1.1 "), data[:100]
        rest = data[end + 4 :]
        if status < 200:
            data = rest
            continue
        if b"transfer-encoding: chunked" in lines:
            taken = dechunked(rest)
            if taken is None:
                return found, data
            body, size = taken
        else:
            (size,) = (int(line[16:]) for line in lines if line.startswith(b"content-length: "))
            body = rest[:size]
            if len(body) < size:
                return found, data
        found.append((status, body))
        data = rest[size:]
    return found, b""
