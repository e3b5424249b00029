"""Lines of header fields, RFC 9112 section 5: read strictly, and remembered where they come again.

Whoever sends messages repeats most of their lines: looking one up costs 0.05 us, taking one apart 0.6.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from gateway.http.fields import Fields, may_be_secret

# The value is everything that one may hold: HTAB, visible ASCII, space, obs-text. No CR, LF, NUL or other control byte.
_FIELD = rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)"
_FIELD_LINE = re.compile(_FIELD)
_FIELD_LINE_WITH_CR = re.compile(_FIELD + rb"\r")
_MAX_KNOWN_LINE_BYTES = 256
_MAX_ONCE = 512
# Whoever reads this process's memory shall not find them long after the message.
_is_secret = lru_cache(_MAX_ONCE)(may_be_secret)


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

    __slots__ = ("_known", "_max_known", "_once")

    def __init__(self, max_known: int) -> None:
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        self._max_known = max_known
        self._once: set[bytes] = set()
        """Lines that have come once, lately: what never comes again would push out what does."""

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, line: object) -> bool:
        return line in self._known

    def read(self, lines: list[bytes]) -> Fields:
        """Names in lower case and values of lines that end in CR: a section, split at LF. Raises MalformedLine."""
        fields: list[Any] = list(map(self._known.get, lines))
        if all(fields):
            return fields
        once = self._once
        if len(once) >= _MAX_ONCE:
            once.clear()
        # One loop with everything in it: each call would cost as much as the reading.
        for index, known in enumerate(fields):
            if known:
                continue
            line = lines[index]
            match = _FIELD_LINE_WITH_CR.fullmatch(line)
            if match is None:
                raise MalformedLine(line)
            name, value = match.groups()
            fields[index] = field = name.lower(), value.rstrip(b" \t")
            if len(line) > _MAX_KNOWN_LINE_BYTES or _is_secret(field[0]):
                continue
            if line in once:
                self._remember(line, field)
            else:
                once.add(line)
        return fields

    def _remember(self, line: bytes, field: tuple[bytes, bytes]) -> None:
        if len(self._known) >= self._max_known:
            self._known.clear()
        self._known[line] = field
