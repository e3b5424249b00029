"""How entries and purges are written in Redis: names of keys, and values as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from gateway.http.cache_key import CacheKey
from gateway.http.caching import Freshness
from gateway.http.vary import Selector, Selectors
from gateway.stores.base import Entry, Purge

FORMAT = 2
"""Entries of another format are not there."""

INLINE_BYTES = 4096
"""Bodies up to it stand with their entry: a hit is then one round trip instead of two."""

_FRESHNESS = Freshness.__slots__
_JUNK = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
"""What comes of values that somebody else has written."""

_FRESHNESS_FLAGS = frozenset(["may_be_stale", "clients_may_take_stale", "for_authorized", "immutable"])


def digest(parts: Iterable[bytes | None]) -> str:
    """A name that nobody can make collide; the parts cannot run into each other."""
    hashed = blake2b(digest_size=20)
    for part in parts:
        hashed.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return hashed.hexdigest()


def key_digest(key: CacheKey) -> str:
    """The name of a cache key."""
    namespace, scheme, host, target, extras = key
    return digest([namespace.encode("utf-8"), scheme.encode("utf-8"), host, target, *extras])


def variant_digest(selectors: Selectors) -> str:
    """The name of a variant among those of its key."""
    return digest([part for name, value, exact in selectors for part in (name, value, b"%d" % exact)])


def path_digest(url: bytes) -> str:
    """The name under which all URLs of one path, whatever their query, are found again."""
    return digest([url.partition(b"?")[0]])


def is_inline(entry: Entry) -> bool:
    """Whether the body of an entry stands with it."""
    return not entry.body_id and entry.size <= INLINE_BYTES


def dump_entry(entry: Entry) -> bytes:
    """A line with everything but the body, which follows where it is small."""
    freshness = entry.freshness
    head = json.dumps(
        {
            "format": FORMAT,
            "status": entry.status,
            "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in entry.fields],
            "freshness": [getattr(freshness, name) for name in _FRESHNESS],
            "size": entry.size,
            "url": entry.url.decode("latin-1"),
            "selectors": [[name.decode("latin-1"), _text(value), exact] for name, value, exact in entry.selectors],
            "tags": sorted(tag.decode("latin-1") for tag in entry.tags),
            "filtered": entry.filtered,
            "requested_at": entry.requested_at,
            "received_at": entry.received_at,
            "body_id": entry.body_id,
        },
        separators=(",", ":"),
    ).encode("ascii")
    return b"%b\n%b" % (head, entry.body or b"") if is_inline(entry) else head


def load_entry(value: bytes) -> Entry | None:
    """An entry, with its body where that is small; None for what is not of this format."""
    try:
        head, _, body = value.partition(b"\n")
        data = json.loads(head)
        if data["format"] != FORMAT:
            return None
        entry = Entry(
            status=_status(data["status"]),
            fields=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in data["fields"]],
            freshness=_freshness(data["freshness"]),
            body=None,
            size=_size(data["size"]),
            url=data["url"].encode("latin-1"),
            selectors=tuple(
                Selector(name.encode("latin-1"), _bytes(value), bool(exact)) for name, value, exact in data["selectors"]
            ),
            tags=frozenset(tag.encode("latin-1") for tag in data["tags"]),
            filtered=bool(data["filtered"]),
            requested_at=_seconds(data["requested_at"]),
            received_at=_seconds(data["received_at"]),
            body_id=str(data["body_id"]),
        )
        if is_inline(entry):
            if len(body) != entry.size:
                return None
            entry.body = body
        return entry
    except _JUNK:
        return None


def _status(value: Any) -> int:
    if type(value) is not int or not 200 <= value <= 599:
        raise ValueError(f"no status of a stored answer: {value!r}")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"no size of a body: {value!r}")
    return value


def _freshness(values: Any) -> Freshness:
    arguments: dict[str, Any] = dict(zip(_FRESHNESS, values, strict=True))
    for name, value in arguments.items():
        if name not in _FRESHNESS_FLAGS:
            arguments[name] = _seconds(value)
        elif type(value) is not bool:
            raise ValueError(f"neither true nor false: {value!r}")
    return Freshness(**arguments)


def _seconds(value: Any) -> float:
    seconds = float(value)
    if math.isnan(seconds):
        raise ValueError("no time")
    return seconds


def dump_purge(purge: Purge) -> bytes:
    """A purge for the log that late writers read."""
    data: dict[str, Any] = {"url": _text(purge.url), "prefix": _text(purge.prefix), "tag": _text(purge.tag)}
    return json.dumps({**data, "at": purge.at}, separators=(",", ":")).encode("ascii")


def load_purge(value: bytes) -> Purge | None:
    """A purge from the log."""
    try:
        data = json.loads(value)
        return Purge(_bytes(data["url"]), _bytes(data["prefix"]), _bytes(data["tag"]), at=float(data["at"]))
    except _JUNK:
        return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("latin-1")
