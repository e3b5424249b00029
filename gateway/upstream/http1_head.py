"""The head of an HTTP/1.1 response, read strictly: RFC 9112 sections 2 to 6.

Bytes in, values out; no I/O. What two parsers could read differently is refused, not repaired, and there is no second
parser: what is validated here is exactly what the gateway goes by.
"""

from __future__ import annotations

import re
from operator import itemgetter

from gateway.errors import BadUpstreamResponse
from gateway.http import field_lines
from gateway.http.field_lines import FieldLines, MalformedLine
from gateway.http.fields import Fields

CHUNKED = -1
"""Framing: the body is chunked."""
UNTIL_CLOSE = -2
"""Framing: the body ends with the connection."""

Head = tuple[int, bytes, bytes, Fields, int, float | None]
"""Status, HTTP version, reason, fields with lower-case names, framing (a length in bytes, CHUNKED or UNTIL_CLOSE) and
for how many seconds the connection may idle afterwards: 0 forbids to use it again, None leaves it to the transport."""

_StatusLine = tuple[int, bytes, bytes]
_Places = tuple[int, int]
"""Where Content-Length and Connection stand among the fields, -1 for nowhere; length only where it decides alone."""

# Everything that a field value may hold: HTAB, visible ASCII, space, obs-text. No CR, LF, NUL or other control byte.
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9][0-9])(?: (%b))?\r" % _TEXT)
_MAX_LENGTH_DIGITS = 18
_TIMEOUT = re.compile(rb"(?:^|,)[ \t]*timeout[ \t]*=[ \t]*\"?([0-9]{1,9})", re.IGNORECASE)

_HEAD_START = b"HTTP/1."
_BARE_LF = re.compile(rb"(?<!\r)\n")

_FRAMING_NAMES = frozenset([b"content-length", b"transfer-encoding", b"connection", b"keep-alive"])

# A head of six fields takes 1.0 us; httptools takes 0.95, and the scan for what it lets pass another 0.5.
_MAX_KNOWN_LINES = 256
_MAX_KNOWN_STATUS_LINE_BYTES = 256
_MAX_PLACES = 64
_MAX_NAMES_BYTES = 1024

_name = itemgetter(0)


class HeadParser:
    """Parses the heads of one endpoint's responses, and remembers their lines."""

    __slots__ = ("_fields", "_places", "_status_lines")

    def __init__(self) -> None:
        self._fields = FieldLines(_MAX_KNOWN_LINES)
        self._places: dict[tuple[bytes, ...], _Places] = {}
        self._status_lines: dict[bytes, _StatusLine] = {}

    def parse(self, block: bytes) -> Head:
        """The head in ``block``, which ends before the last line's CRLF. Raises BadUpstreamResponse."""
        # A line that does not end in CR is malformed; splitting at two bytes takes twice the time.
        lines = (block + b"\r").split(b"\n")
        first = lines.pop(0)
        status_line = self._status_lines.get(first)
        if status_line is None:
            status_line = self._parse_status_line(first)
        status, version, reason = status_line
        try:
            fields = self._fields.read(lines)
        except MalformedLine as error:
            raise _malformed(error) from error
        names = tuple(map(_name, fields))
        length_at, connection_at = self._places.get(names) or self._find_places(names)
        if length_at >= 0 and version == b"HTTP/1.1":
            # Most answers: nothing but a length, and what goes without saying.
            length = fields[length_at][1]
            if (
                length.isdigit()
                and len(length) <= _MAX_LENGTH_DIGITS
                and (connection_at < 0 or fields[connection_at][1] == b"keep-alive")
            ):
                return status, version, reason, fields, int(length), None
        framing, idle_s = _framing([field for field in fields if field[0] in _FRAMING_NAMES], version)
        return status, version, reason, fields, framing, idle_s

    def _find_places(self, names: tuple[bytes, ...]) -> _Places:
        places = -1, -1
        if (
            names.count(b"content-length") == 1
            and names.count(b"connection") <= 1
            and b"transfer-encoding" not in names
            and b"keep-alive" not in names
        ):
            places = names.index(b"content-length"), names.index(b"connection") if b"connection" in names else -1
        if sum(map(len, names)) <= _MAX_NAMES_BYTES:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            self._places[names] = places
        return places

    def _parse_status_line(self, line: bytes) -> _StatusLine:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadUpstreamResponse(f"a malformed status line: {line[:80]!r}")
        version, digits, reason = match.groups()
        status_line = int(digits), version, reason or b""
        if len(self._status_lines) < _MAX_KNOWN_LINES and len(line) <= _MAX_KNOWN_STATUS_LINE_BYTES:
            self._status_lines[line] = status_line
        return status_line


class PartialHead:
    """A head that comes in several reads."""

    __slots__ = ("_buffer", "_checked")

    def __init__(self, data: bytes) -> None:
        self._buffer = bytearray(data)
        self._checked = 0

    def add(self, data: bytes) -> tuple[int, bytes]:
        """Where the empty line begins, and everything so far; -1 and nothing while it has not come."""
        buffer = self._buffer
        searched = max(0, len(buffer) - 3)
        buffer += data
        end = buffer.find(b"\r\n\r\n", searched)
        return end, b"" if end < 0 else bytes(buffer)

    def check(self, max_bytes: int) -> None:
        """Refuse at once what can become a head no more, instead of waiting for its end: raises BadUpstreamResponse."""
        buffer = self._buffer
        if len(buffer) >= max_bytes:
            raise BadUpstreamResponse("the response head is too large")
        if not _HEAD_START.startswith(buffer[: len(_HEAD_START)]):
            raise BadUpstreamResponse("what came is not an HTTP/1 response")
        if _BARE_LF.search(buffer, self._checked):
            raise BadUpstreamResponse("a bare line feed in the response head")
        self._checked = len(buffer)


def parse_field_line(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case and value of a field line without its CRLF. Raises BadUpstreamResponse.

    Folded lines, spaces before the colon, bare CR or LF and control bytes are refused, RFC 9112 section 5.
    """
    try:
        return field_lines.parse_field_line(line)
    except MalformedLine as error:
        raise _malformed(error) from error


def _malformed(error: MalformedLine) -> BadUpstreamResponse:
    # Only the name: a value may be somebody's secret.
    return BadUpstreamResponse(f"a malformed field line, {error.args[0].partition(b':')[0][:80]!r}")


def _framing(fields: Fields, version: bytes) -> tuple[int, float | None]:
    """Length of the body, RFC 9112 section 6.3, and whether the connection persists, section 9.3."""
    length: bytes | None = None
    coding: bytes | None = None
    idle_s: float | None = None
    says_close = says_keep_alive = False
    for name, value in fields:
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                raise BadUpstreamResponse(f"a malformed or repeated Content-Length: {value[:80]!r}")
            length = value
        elif name == b"transfer-encoding":
            if coding is not None:
                raise BadUpstreamResponse("more than one Transfer-Encoding")
            coding = value.lower()
        elif name == b"connection":
            if value == b"keep-alive":
                says_keep_alive = True
                continue
            options = [option.strip() for option in value.lower().split(b",")]
            says_close = says_close or b"close" in options
            says_keep_alive = says_keep_alive or b"keep-alive" in options
        elif match := _TIMEOUT.search(value):
            # One second less than announced: the upstream's clock started earlier.
            idle_s = max(0.0, int(match[1]) - 1.0)
    if says_close or (version == b"HTTP/1.0" and not says_keep_alive):
        idle_s = 0.0
    if coding is not None:
        if length is not None:
            raise BadUpstreamResponse("both Content-Length and Transfer-Encoding")
        if coding != b"chunked":
            raise BadUpstreamResponse(f"an unknown Transfer-Encoding: {coding[:80]!r}")
        if version == b"HTTP/1.0":
            raise BadUpstreamResponse("Transfer-Encoding in an HTTP/1.0 response")
        return CHUNKED, idle_s
    if length is not None:
        return int(length), idle_s
    return UNTIL_CLOSE, idle_s
