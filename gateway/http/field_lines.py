"""Lines of header fields, RFC 9112 section 5: read strictly, and remembered where they come again.

Whoever sends messages repeats most of their lines: looking one up costs 0.05 us, taking one apart 0.6.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.http.fields import Fields, may_be_secret
from gateway.recent import Recent

# The value is everything that one may hold: HTAB, visible ASCII, space, obs-text. No CR, LF, NUL or other control byte.
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_MAX_KNOWN_LINE_BYTES = 256


class MalformedLine(ValueError):
    """A line that is not plainly a field: folded, with spaces before the colon, with control bytes. Its argument."""


def parse_field_line(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case and value of a field line without its CRLF. Raises MalformedLine."""
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise MalformedLine(line)
    return match[1].lower(), match[2].rstrip(b" \t")


class FieldLines:
    """Reads field lines; up to ``max_known`` of those that have come before are remembered, without secrets."""

    __slots__ = ("_known", "_max_known", "_recent")

    def __init__(self, max_known: int) -> None:
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        self._max_known = max_known
        self._recent = Recent()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, line: object) -> bool:
        return line in self._known

    def read(self, lines: list[bytes]) -> Fields:
        """Names in lower case and values of lines without their CRLF. Raises MalformedLine."""
        fields: list[Any] = list(map(self._known.get, lines))
        if not all(fields):
            self._read_unknown(lines, fields)
        return fields

    def _read_unknown(self, lines: list[bytes], fields: list[Any]) -> None:
        """Fill the gaps in ``fields``. One loop with everything in it: each call would cost as much as the reading."""
        for index, known in enumerate(fields):
            if known:
                continue
            line = lines[index]
            match = _FIELD_LINE.fullmatch(line)
            if match is None:
                raise MalformedLine(line)
            name, value = match.groups()
            fields[index] = field = name.lower(), value.rstrip(b" \t")
            # Whoever reads this process's memory shall not find secrets long after the message.
            if len(line) <= _MAX_KNOWN_LINE_BYTES and self._recent.has_met(line) and not may_be_secret(field[0]):
                if len(self._known) >= self._max_known:
                    self._known.clear()
                self._known[line] = field
