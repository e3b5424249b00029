"""Parts of a stored body: Range, Content-Range and multipart/byteranges, RFC 9110 section 14."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.http.fields import Fields, get_first, without

ByteRange = tuple[int, int]
"""First and last position, both included."""

MAX_RANGES = 32
"""More of them are an attack on whoever answers, RFC 9110 section 17.15: the whole body goes out instead."""

_UNIT = re.compile(rb"[ \t]*bytes[ \t]*=", re.IGNORECASE)
_SPEC = re.compile(rb"[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*")
_OF_WHOLE = frozenset([b"content-length", b"content-range", b"content-digest", b"content-md5"])


def parse_range(value: bytes, length: int) -> list[ByteRange] | None:
    """The parts of ``length`` bytes that a Range field asks for, clipped, overlapping ones joined.

    None when the field does not count: another unit, malformed, or too many ranges. Empty when no range can be
    satisfied, which is a 416.
    """
    unit = _UNIT.match(value)
    if unit is None:
        return None
    ranges: list[ByteRange] = []
    specs = [spec for spec in value[unit.end() :].split(b",") if spec.strip(b" \t")]
    if not specs or len(specs) > MAX_RANGES:
        return None
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or not (match[1] or match[2]):
            return None
        if not match[1]:
            first, last = max(0, length - int(match[2])), length - 1
        else:
            first = int(match[1])
            last = min(int(match[2]), length - 1) if match[2] else length - 1
            if match[2] and int(match[2]) < first:
                return None
        if first < length and first <= last:
            ranges.append((first, last))
    return _joined(ranges)


def _joined(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """Ranges that overlap or touch as one, at the place of the first of them, RFC 9110 section 15.3.7.2."""
    joined: list[ByteRange] = []
    for first, last in ranges:
        apart: list[ByteRange] = []
        place: int | None = None
        for index, (other_first, other_last) in enumerate(joined):
            if first <= other_last + 1 and other_first <= last + 1:
                first, last = min(first, other_first), max(last, other_last)
                place = index if place is None else place
            else:
                apart.append((other_first, other_last))
        apart.insert(len(apart) if place is None else place, (first, last))
        joined = apart
    return joined


def partial_content(
    ranges: Sequence[ByteRange], stored: Fields, body: bytes, boundary: bytes
) -> tuple[Fields, list[bytes]]:
    """Fields and pieces of a 206; with several ranges a multipart body that ``boundary`` divides."""
    fields = without(stored, _OF_WHOLE)
    if len(ranges) == 1:
        first, last = ranges[0]
        fields.append((b"content-range", _content_range(first, last, len(body))))
        fields.append((b"content-length", b"%d" % (last - first + 1)))
        return fields, [body[first : last + 1]]
    content_type = get_first(stored, b"content-type")
    pieces: list[bytes] = []
    for first, last in ranges:
        head = b"--%b\r\n" % boundary
        if content_type is not None:
            head += b"Content-Type: %b\r\n" % content_type
        pieces.append(head + b"Content-Range: %b\r\n\r\n" % _content_range(first, last, len(body)))
        pieces.append(body[first : last + 1])
        pieces.append(b"\r\n")
    pieces.append(b"--%b--\r\n" % boundary)
    fields = without(fields, frozenset([b"content-type"]))
    fields.append((b"content-type", b"multipart/byteranges; boundary=" + boundary))
    fields.append((b"content-length", b"%d" % sum(map(len, pieces))))
    return fields, pieces


def unsatisfied(length: int, stored: Fields) -> Fields:
    """The fields of a 416 for a body of ``length`` bytes, RFC 9110 section 15.5.17."""
    kept = [field for field in stored if field[0] in (b"date", b"vary", b"etag")]
    return [*kept, (b"content-range", b"bytes */%d" % length), (b"content-length", b"0")]


def _content_range(first: int, last: int, length: int) -> bytes:
    return b"bytes %d-%d/%d" % (first, last, length)
