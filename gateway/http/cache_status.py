"""Cache-Status: how a cache handled a request, RFC 9211."""

from __future__ import annotations

import re
from typing import Literal

Forward = Literal["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]
"""Why a request went on to the upstream, RFC 9211 section 2.2."""

_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")


def item(value: str) -> bytes:
    """A Structured Field token, or a string where ``value`` is none, RFC 9651 section 3.3."""
    if _TOKEN.fullmatch(value):
        return value.encode("ascii")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return b'"%b"' % "".join(char if " " <= char <= "~" else "?" for char in escaped).encode("ascii")


def hit_status(name: bytes, ttl_s: float) -> bytes:
    """An answer from the store; ``ttl_s`` is negative when it is stale. ``name`` comes from ``item``."""
    return b"%b; hit; ttl=%d" % (name, ttl_s)


def forward_status(
    name: bytes,
    reason: Forward,
    *,
    status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    ttl_s: float | None = None,
    key: str | None = None,
    detail: str = "",
) -> bytes:
    """An answer that took a request to the upstream; ``collapsed``: the request of somebody else."""
    parts = [b"%b; fwd=%b" % (name, reason.encode("ascii"))]
    if status is not None:
        parts.append(b"fwd-status=%d" % status)
    if stored:
        parts.append(b"stored")
    if collapsed:
        parts.append(b"collapsed")
    if ttl_s is not None:
        parts.append(b"ttl=%d" % ttl_s)
    if key is not None:
        parts.append(b"key=" + item_string(key))
    if detail:
        parts.append(b"detail=" + item(detail))
    return b"; ".join(parts)


def own_status(name: bytes, detail: str) -> bytes:
    """An answer that the cache made up by itself."""
    return b"%b; detail=%b" % (name, item(detail))


def item_string(value: str) -> bytes:
    """A Structured Field string, RFC 9651 section 3.3.3."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return b'"%b"' % "".join(char if " " <= char <= "~" else "?" for char in escaped).encode("ascii")
