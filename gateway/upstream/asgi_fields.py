"""The fields of an application's answer, held to what a server would let on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.errors import BadUpstreamResponse
from gateway.http.fields import Fields, get_all

# Framing and connection are the gateway's own; an application has neither.
_DROPPED = frozenset([b"connection", b"keep-alive", b"proxy-connection", b"trailer", b"transfer-encoding", b"upgrade"])
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def checked_fields(headers: Iterable[tuple[bytes, bytes]] | None) -> Fields:
    """The fields with names in lower case and without those of a connection. Raises BadUpstreamResponse."""
    fields: Fields = []
    for name, value in headers or ():
        if not _TOKEN.fullmatch(name) or _UNSAFE.search(value):
            raise BadUpstreamResponse("the application's answer has a malformed field")
        name = bytes(name).lower()
        if name not in _DROPPED:
            fields.append((name, bytes(value)))
    return fields


def announced_length(fields: Fields) -> int | None:
    """What Content-Length says, in bytes; None without one. Raises BadUpstreamResponse unless it is one number."""
    values = get_all(fields, b"content-length")
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit():
        raise BadUpstreamResponse("the application's answer has a malformed Content-Length")
    return int(values[0])
