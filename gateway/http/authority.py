"""Host and authority, RFC 9110 section 7.2 and RFC 3986 section 3.2."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.errors import BadRequest

MAX_AUTHORITY_BYTES = 512

_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z_](?:[0-9A-Za-z_.-]*[0-9A-Za-z_])?\.?))(?::([0-9]{0,5}))?"
)


class Authority(NamedTuple):
    """``host`` in lower case without trailing dot, IPv6 in brackets; ``port`` None where none is named."""

    host: str
    port: int | None


def normalise_host(values: Sequence[bytes]) -> str:
    """The host that the Host fields of a request name, for matching; BadRequest when there is not exactly one."""
    if len(values) != 1:
        raise BadRequest("the request has no Host field" if not values else "the request has several Host fields")
    return parse_authority(values[0]).host


def parse_authority(value: bytes) -> Authority:
    """Host and port of an authority without user information; BadRequest when it is malformed."""
    if len(value) > MAX_AUTHORITY_BYTES:
        raise BadRequest("the Host field is too long")
    return _parse(value)


@lru_cache(maxsize=4096)
def _parse(value: bytes) -> Authority:
    match = _AUTHORITY.fullmatch(value)
    if match is None:
        raise BadRequest("the Host field is malformed")
    literal, name, port = match.groups()
    number = int(port) if port else None
    if number is not None and number > 65535:
        raise BadRequest("the Host field names no possible port")
    if literal is not None:
        try:
            return Authority(f"[{ipaddress.IPv6Address(literal.decode('ascii')).compressed}]", number)
        except ValueError:
            raise BadRequest("the Host field names no IPv6 address") from None
    host = name.decode("ascii").lower().removesuffix(".")
    if ".." in host or len(host) > 253:
        raise BadRequest("the Host field is malformed")
    return Authority(host, number)
