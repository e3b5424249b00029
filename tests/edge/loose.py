"""What careless parsers would make of the bytes that reached an upstream.

Real servers differ in where lines end, which framing wins and how numbers are read. ``readings`` takes a stream apart
in every one of these ways: when all agree, nothing in it is ambiguous. An upstream on ``answering`` reads as loosely.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.upstream import PeerClosed, ScriptedConnection

ReadRequest = tuple[bytes, bytes, bytes]
"""Method, target, body."""


@dataclass(frozen=True)
class Dialect:
    """How one parser reads."""

    line_end: re.Pattern[bytes] = field(default_factory=lambda: re.compile(rb"\r?\n"))
    coding_wins: bool = True
    coding_is_anywhere: bool = True
    last_length_wins: bool = False
    cuts_at_nul: bool = False
    joins_folds: bool = False
    underscores_are_hyphens: bool = True


_CRLF, _ANY = re.compile(rb"\r\n"), re.compile(rb"\r\n|\r|\n")
DIALECTS = [
    Dialect(),
    Dialect(coding_wins=False),
    Dialect(coding_wins=False, last_length_wins=True, line_end=_CRLF, underscores_are_hyphens=False),
    Dialect(coding_is_anywhere=False, line_end=_CRLF, joins_folds=True),
    Dialect(line_end=_ANY, cuts_at_nul=True),
    Dialect(line_end=_ANY, last_length_wins=True, joins_folds=True, underscores_are_hyphens=False),
]


def readings(stream: bytes) -> list[list[ReadRequest]]:
    """The complete requests in ``stream``, once for each dialect."""
    return [[request for request, _ in _read(stream, dialect)] for dialect in DIALECTS]


def _read(stream: bytes, dialect: Dialect) -> Iterator[tuple[ReadRequest, int]]:
    """The complete requests, and where each ends."""
    position = 0
    while True:
        lines: list[bytes] = []
        while True:
            end = dialect.line_end.search(stream, position)
            if end is None:
                return
            line, position = stream[position : end.start()], end.end()
            if dialect.cuts_at_nul:
                line = line.partition(b"\x00")[0]
            if dialect.joins_folds and lines and line[:1] in (b" ", b"\t"):
                lines[-1] += line
            elif line:
                lines.append(line)
            elif lines:
                break
        method, _, rest = lines[0].strip().partition(b" ")
        target = rest.strip().partition(b" ")[0]
        body = _body(stream, position, lines[1:], dialect)
        if body is None:
            return
        position = body[1]
        yield (method, target, body[0]), position


def _body(stream: bytes, position: int, lines: list[bytes], dialect: Dialect) -> tuple[bytes, int] | None:
    """The body, and where it ends; None when the stream ends first."""
    lengths: list[int] = []
    is_chunked = False
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.strip(b" \t\r\n\x0b\x0c\x00").lower(), value.strip(b" \t\r\n\x0b\x0c\x00").lower()
        if dialect.underscores_are_hyphens:
            name = name.replace(b"_", b"-")
        if name == b"content-length" and (digits := re.search(rb"[0-9]+", value)):
            lengths.append(int(digits[0]))
        elif name == b"transfer-encoding":
            is_chunked = is_chunked or (b"chunked" in value if dialect.coding_is_anywhere else value == b"chunked")
    if is_chunked and (dialect.coding_wins or not lengths):
        return _chunks(stream, position, dialect)
    length = lengths[-1 if dialect.last_length_wins else 0] if lengths else 0
    body = stream[position : position + length]
    return (body, position + length) if len(body) == length else None


def _chunks(stream: bytes, position: int, dialect: Dialect) -> tuple[bytes, int] | None:
    body = b""
    while True:
        end = dialect.line_end.search(stream, position)
        if end is None:
            return None
        size = re.match(rb"\s*(?:0x)?([0-9A-Fa-f]*)", stream[position : end.start()])
        assert size is not None
        length, position = int(size[1] or b"0", 16), end.end()
        if not length:
            break
        if len(stream) < position + length:
            return None
        body += stream[position : position + length]
        position += length
        end = dialect.line_end.match(stream, position)
        position = end.end() if end else position
    while True:
        end = dialect.line_end.search(stream, position)
        if end is None:
            return None
        line, position = stream[position : end.start()], end.end()
        if not line:
            return body, position


_HEAD = re.compile(
    rb"[A-Z]+ [\x21-\x7e]+ HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: ?(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?\r\n)+\r\n"
)


def strict_reading(stream: bytes) -> list[ReadRequest]:
    """The requests in ``stream``, spelled as RFC 9112 asks, with one Host and at most one framing; else AssertionError.

    What the last one still lacks is left out.
    """
    found: list[ReadRequest] = []
    position = 0
    while (head := _HEAD.match(stream, position)) is not None:
        position = head.end()
        lines = head[0].split(b"\r\n")[:-2]
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
        names = [name.replace(b"_", b"-") for name, _ in fields]
        assert names.count(b"host") == 1, head[0]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") < 2, head[0]
        framing = dict(fields)
        method, target, _ = lines[0].split(b" ")
        if b"transfer-encoding" in framing:
            assert framing[b"transfer-encoding"] == b"chunked", head[0]
            chunked = _strict_chunks(stream, position)
            if chunked is None:
                return found
            body, position = chunked
        else:
            length = framing.get(b"content-length", b"0")
            assert re.fullmatch(rb"[0-9]{1,19}", length), head[0]
            body = stream[position : position + int(length)]
            if len(body) < int(length):
                return found
            position += len(body)
        found.append((method, target, body))
    assert b"\r\n\r\n" not in stream[position:], stream[position:]
    return found


_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")


def _strict_chunks(stream: bytes, position: int) -> tuple[bytes, int] | None:
    """A body without extensions and trailers, and where it ends; None when the stream ends first."""
    body = b""
    while (line := _CHUNK_LINE.match(stream, position)) is not None:
        position = line.end()
        length = int(line[1], 16)
        body += stream[position : position + length]
        position += length
        if len(stream) < position + 2:
            return None
        assert stream[position : position + 2] == b"\r\n", stream
        position += 2
        if not length:
            return body, position
    assert b"\r\n" not in stream[position:], stream[position:]
    return None


async def answering(connection: ScriptedConnection) -> None:
    """Answer every request, read in the first dialect, with its own target as the body; /slow takes its time."""
    unread = b""
    try:
        while True:
            unread += await connection.read_some()
            end = 0
            for (method, target, _), after in _read(unread, DIALECTS[0]):
                end = after
                if target == b"/slow":
                    await asyncio.sleep(0.05)
                head = b"HTTP/1.1 200 OK\r\nX-Target: %b\r\nContent-Length: %d\r\n\r\n" % (target, len(target))
                await connection.send(head if method == b"HEAD" else head + target)
            unread = unread[end:]
    except PeerClosed:
        return
