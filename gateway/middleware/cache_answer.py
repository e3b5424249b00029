"""Answers made from what is stored: whole, without a body, a part, or 304."""

from __future__ import annotations

import secrets

from starlette.types import Send

from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.conditional import is_not_modified, not_modified_fields, range_applies
from gateway.http.content_range import parse_range, partial_content, unsatisfied
from gateway.http.fields import Fields, get_first
from gateway.middleware.cache_request import NO_CONDITIONS, CacheRequest, Conditions
from gateway.stores.base import Entry


def holds_already(conditions: Conditions, entry: Entry, now: float) -> bool:
    """Whether the client has this answer: it then gets 304."""
    if conditions is NO_CONDITIONS or entry.status != 200:
        return False
    none_match, modified_since = conditions
    return is_not_modified(none_match, modified_since, entry.fields, now=now, received_at=entry.received_at)


async def send_head_only(send: Send, status: int, fields: Fields) -> None:
    """An answer without a body."""
    await send({"type": "http.response.start", "status": status, "headers": fields, WHOLE_FOLLOWS: True})
    await send({"type": "http.response.body", "body": b""})


async def send_entry(request: CacheRequest, entry: Entry, extra: Fields, now: float) -> None:
    """Answer ``request`` from ``entry``, whose body is here, RFC 9111 section 4 and RFC 9110 section 14.

    ``extra`` are the fields of this one answer, such as Age.
    """
    send = request.send
    if holds_already(request.conditions, entry, now):
        await send_head_only(send, 304, [*not_modified_fields(entry.fields), *extra])
        return
    if request.method == "HEAD":
        await send_head_only(send, entry.status, [*entry.fields, *extra])
        return
    body = entry.body or b""
    status, fields, pieces = entry.status, entry.fields, [body]
    if request.range is not None and status == 200 and _has_parts(entry):
        ranges = parse_range(request.range, len(body)) if range_applies(request.if_range, fields, now) else None
        if ranges:
            status = 206
            fields, pieces = partial_content(ranges, fields, body, secrets.token_hex(16).encode("ascii"))
        elif ranges is not None:
            status, fields, pieces = 416, unsatisfied(len(body), fields), [b""]
    start = {"type": "http.response.start", "status": status, "headers": [*fields, *extra], WHOLE_FOLLOWS: True}
    await send(start)
    await send({"type": "http.response.body", "body": pieces[0] if len(pieces) == 1 else b"".join(pieces)})


def _has_parts(entry: Entry) -> bool:
    """Whether positions mean the same in every copy: not in a body that was coded on the way, under a weak tag."""
    etag = get_first(entry.fields, b"etag")
    return not (
        etag is not None and etag.startswith(b"W/") and get_first(entry.fields, b"content-encoding") is not None
    )
