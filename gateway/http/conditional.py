"""Preconditions of requests that a cache evaluates, RFC 9110 section 13 and RFC 9111 section 4.3.2."""

from __future__ import annotations

import re

from gateway.http.dates import parse_http_date
from gateway.http.fields import Fields, get_first

_ETAG = re.compile(rb'(?:W/)?"[!\x23-\x7e\x80-\xff]*"')
_LIST = re.compile(rb'[ \t,]*((?:W/)?"[!\x23-\x7e\x80-\xff]*")[ \t]*(?=,|$)')

_NOT_IN_304 = frozenset(
    [
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"content-language",
        b"content-range",
        b"content-digest",
        b"content-md5",
        b"content-disposition",
        b"accept-ranges",
        b"digest",
        b"repr-digest",
    ]
)


def is_etag(value: bytes) -> bool:
    """Whether ``value`` is one well-formed entity tag, RFC 9110 section 8.8.3."""
    return _ETAG.fullmatch(value) is not None


def parse_etags(value: bytes) -> list[bytes]:
    """The entity tags of If-None-Match, up to the first thing that is none; ``*`` is the list ``[b"*"]``."""
    if value.strip(b" \t") == b"*":
        return [b"*"]
    tags = []
    position = 0
    while match := _LIST.match(value, position):
        tags.append(match[1])
        position = match.end()
    return tags


def weakly_equal(first: bytes, second: bytes) -> bool:
    """Weak comparison, RFC 9110 section 8.8.3.2."""
    return first.removeprefix(b"W/") == second.removeprefix(b"W/")


def strongly_equal(first: bytes, second: bytes) -> bool:
    """Strong comparison, RFC 9110 section 8.8.3.2."""
    return first == second and not first.startswith(b"W/")


def is_about(update: Fields, stored: Fields) -> bool:
    """Whether a 304 is about what is stored, as far as its validators tell, RFC 9111 section 4.3.4.

    Entity tags decide where both have one, else Last-Modified where both have it: a server that compares dates by order
    also answers 304 for an older version that it went back to.
    """
    etag, known = get_first(update, b"etag"), get_first(stored, b"etag")
    if etag is not None and known is not None:
        return weakly_equal(etag, known)
    modified, known = get_first(update, b"last-modified"), get_first(stored, b"last-modified")
    return modified is None or known is None or modified == known


def is_not_modified(
    none_match: bytes | None, modified_since: bytes | None, stored: Fields, *, now: float, received_at: float
) -> bool:
    """Whether a stored 200 is what the client has already: then 304 answers it, RFC 9111 section 4.3.2.

    If-None-Match, where it is present, decides alone. Without Last-Modified the stored Date, or else the time at which
    the answer was received, stands for it.
    """
    if none_match is not None:
        tags = parse_etags(none_match)
        if tags == [b"*"]:
            return True
        etag = get_first(stored, b"etag")
        return etag is not None and any(weakly_equal(tag, etag) for tag in tags)
    if modified_since is None:
        return False
    since = parse_http_date(modified_since, now)
    if since is None:
        return False
    for name in (b"last-modified", b"date"):
        value = get_first(stored, name)
        if value is not None:
            changed = parse_http_date(value, now)
            if changed is not None:
                return changed <= since
    return received_at <= since


def not_modified_fields(stored: Fields) -> Fields:
    """The fields of a 304 for a stored answer, RFC 9110 section 15.4.5: nothing that describes a body."""
    return [field for field in stored if field[0] not in _NOT_IN_304]


def range_applies(if_range: bytes | None, stored: Fields, now: float) -> bool:
    """Whether Range counts, given If-Range: strong comparison, RFC 9110 section 13.1.5."""
    if if_range is None:
        return True
    if_range = if_range.strip(b" \t")
    if is_etag(if_range):
        etag = get_first(stored, b"etag")
        return etag is not None and strongly_equal(etag, if_range)
    wanted = parse_http_date(if_range, now)
    value, date = get_first(stored, b"last-modified"), get_first(stored, b"date")
    if wanted is None or value is None or date is None:
        return False
    modified, dated = parse_http_date(value, now), parse_http_date(date, now)
    # A date identifies one state of the resource only if that state did not change in the second of the answer.
    return modified is not None and dated is not None and modified == wanted and dated - modified >= 1
