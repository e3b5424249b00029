"""The fields that are kept with a stored answer, and how a later one changes them, RFC 9111 sections 3.1 and 3.2."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.http.cache_control import ResponseDirectives
from gateway.http.dates import http_date, parse_http_date
from gateway.http.fields import Fields, get_all, get_first, without
from gateway.http.hop_by_hop import HOP_BY_HOP
from gateway.http.vary import vary_names

_NEVER_STORED = HOP_BY_HOP | {b"age"}
# Fields that describe the stored bytes, which may have been coded on the way: what a 304 says of others does not hold.
_NOT_UPDATED = _NEVER_STORED | frozenset(
    [b"content-length", b"content-encoding", b"content-range", b"content-digest", b"content-md5"]
)


def date_of(fields: Sequence[tuple[bytes, bytes]], received_at: float) -> float:
    """When the answer was made: Date, or the time of its arrival where that is missing or unreadable."""
    value = get_first(fields, b"date")
    parsed = parse_http_date(value, received_at) if value is not None else None
    return received_at if parsed is None else parsed


def storable_fields(fields: Fields, directives: ResponseDirectives, received_at: float) -> Fields:
    """The fields to keep with a stored answer, RFC 9111 section 3.1: with a valid Date, without what is not for others.

    Fields named by ``no-cache="..."`` are left out as well: they could not be used without validation.
    """
    excluded = _NEVER_STORED | directives.private_fields | directives.no_cache_fields | _connection_options(fields)
    return dated(without(fields, excluded), date_of(fields, received_at), received_at)


def dated(fields: Fields, date: float, received_at: float) -> Fields:
    """``fields`` with one valid Date: ``date`` where theirs is missing, repeated or unreadable."""
    dates = get_all(fields, b"date")
    if len(dates) == 1 and parse_http_date(dates[0], received_at) is not None:
        return fields
    return [*without(fields, frozenset([b"date"])), (b"date", http_date(date))]


def _connection_options(fields: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    named = (name.strip().lower() for value in get_all(fields, b"connection") for name in value.split(b","))
    return frozenset(name for name in named if name)


def updated_fields(stored: Fields, update: Fields) -> Fields:
    """The fields of a stored answer after a 304 or a HEAD, RFC 9111 section 3.2.

    Vary only grows: a 304 often passes fewer layers than the answer that it confirms.
    """
    excluded = _NOT_UPDATED | _connection_options(update)
    news = [field for field in update if field[0] not in excluded]
    names = frozenset(name for name, _ in news)
    merged = without(stored, names) + news
    if b"vary" in names:
        missing = set(vary_names(stored) or ()) - set(vary_names(news) or ())
        merged.extend((b"vary", name) for name in sorted(missing))
    return merged


def head_confirms(stored: Fields, head: Fields) -> bool:
    """Whether the answer to a HEAD is about what is stored, RFC 9111 section 4.3.5."""
    for name in (b"etag", b"last-modified", b"content-length"):
        value = get_first(head, name)
        if value is not None and value != get_first(stored, name):
            return False
    return True
