"""Which answers are coded, and what becomes of their fields: RFC 9110 sections 8.4, 8.8.1 and 12.5.3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.http.coding import DECODABLE
from gateway.http.conditional import parse_etags
from gateway.http.fields import Fields, add_vary, get_joined, without
from gateway.http.negotiation import IDENTITY, choose_coding, is_accepted, parse_codings

DECIDING_NAMES = frozenset([b"cache-control", b"content-encoding", b"content-type", b"vary"])
"""Fields from which, beside status and length, it follows what is done; what becomes of any other does not matter."""

# What a body in another coding no longer has: the name of its coding, its length, its byte positions, and the digests
# over its bytes.
_STALE_FIELDS = frozenset(
    [
        b"content-encoding",
        b"content-length",
        b"accept-ranges",
        b"content-md5",
        b"content-digest",
        b"repr-digest",
        b"digest",
    ]
)
CODING_NAMES = _STALE_FIELDS | DECIDING_NAMES | {b"etag"}
"""Fields that coding looks at, changes or drops."""

ADDED_NAMES = frozenset([b"content-encoding", b"content-length", b"vary"])
"""Fields that a coded answer has, whether the plain one has them or not."""

_READ = frozenset([b"content-length", b"content-type", b"content-encoding", b"cache-control"])
_NEVER_CODED = frozenset([204, 205, 206])
_MAX_APPLIED = 3
# Thousands of streams of events may be open at a time, and each keeps its encoder: one for bodies of this length has
# 290 KiB with zstd in the place of 780, and events repeat what is near.
_EVENTS_TYPE = b"text/event-stream"
_EVENTS_BYTES = 16 * 1024


class Plan(NamedTuple):
    """What is to be done with an answer."""

    fields: Fields
    """As they are while the bytes of the body stay what they are."""
    coding: str = IDENTITY
    """In what the body is to be coded."""
    applied: Sequence[str] = ()
    """What has to be taken off before, in the order in which it was applied."""
    length: int | None = None
    """About how many bytes are to be coded; None where nobody knows."""


class CodingRule:
    """Decides at the head of an answer.

    ``codings`` in order of preference among what the client weighs equally. ``min_size`` in bytes. ``types`` are media
    types, ``text/*`` standing for a whole tree.
    """

    def __init__(self, *, codings: Sequence[str], min_size: int, types: Iterable[str]) -> None:
        self.codings = tuple(codings)
        self.min_size = min_size
        names = [name.lower().encode() for name in types]
        self._exact_types = frozenset(name for name in names if not name.endswith(b"/*"))
        self._type_trees = tuple(name[:-1] for name in names if name.endswith(b"/*"))

    def is_compressible(self, media_type: bytes) -> bool:
        """Whether bodies of a Content-Type value gain from coding."""
        essence = media_type.split(b";", 1)[0].strip().lower()
        return essence in self._exact_types or essence.startswith(self._type_trees)

    def plan(
        self,
        status: int,
        fields: Sequence[tuple[bytes, bytes]],
        request: Sequence[tuple[bytes, bytes]],
        *,
        is_head: bool = False,
    ) -> Plan | None:
        """What is to be done with an answer to a request with the fields ``request``; None: leave it as it is."""
        if status < 200 or status in _NEVER_CODED:
            return None
        length: int | None = None
        media_type = coded = b""
        # One pass over the fields, for most answers are small and need no more than that: 0.7 us instead of 3.
        for name, value in fields:
            if name not in _READ:
                continue
            if name == b"content-length":
                length = int(value) if value.isdigit() else None
            elif name == b"content-type":
                media_type = media_type or value
            elif name == b"content-encoding":
                coded = coded + b"," + value if coded else value
            elif b"no-transform" in value.lower() and _forbids_transformation(fields):
                return None
        if status == 304:
            return Plan(_weakened_as_asked(fields, get_joined(request, b"if-none-match")))
        if coded:
            applied = parse_codings([coded])
            if applied:
                return self._plan_coded(fields, applied, request, is_head)
        if (length is not None and length < self.min_size) or not self.is_compressible(media_type):
            return None
        fields = list(fields)
        add_vary(fields, b"Accept-Encoding")
        coding = IDENTITY if is_head else choose_coding(get_joined(request, b"accept-encoding"), self.codings)
        if media_type.startswith(_EVENTS_TYPE):
            length = _EVENTS_BYTES
        return Plan(fields, coding, (), length)

    def _plan_coded(
        self,
        fields: Sequence[tuple[bytes, bytes]],
        applied: list[str],
        request: Sequence[tuple[bytes, bytes]],
        is_head: bool,
    ) -> Plan | None:
        """An upstream that coded its answer: as it is where the client takes it, else decoded, else coded anew."""
        accept = get_joined(request, b"accept-encoding")
        if all(is_accepted(coding, accept) for coding in applied):
            return None
        if len(applied) > _MAX_APPLIED or any(coding not in DECODABLE for coding in applied):
            return None
        fields = list(fields)
        add_vary(fields, b"Accept-Encoding")
        return Plan(fields) if is_head else Plan(fields, choose_coding(accept, self.codings), applied)


def fields_of_coded(fields: Fields, coding: str, length: int | None = None) -> Fields:
    """``fields`` for a body in ``coding``, of ``length`` bytes if that is known: a strong validator becomes weak."""
    fields = [
        (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else (name, value)
        for name, value in without(fields, _STALE_FIELDS)
    ]
    if coding != IDENTITY:
        fields.append((b"content-encoding", coding.encode("ascii")))
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return fields


def with_strong_tags(request: Sequence[tuple[bytes, bytes]]) -> Fields:
    """If-None-Match with the strong form beside each weak tag: the tag the service knows is the strong one."""
    fields: Fields = []
    for name, value in request:
        if name == b"if-none-match":
            tags = parse_etags(value)
            strong = [tag[2:] for tag in tags if tag.startswith(b"W/") and tag[2:] not in tags]
            value = b", ".join([value, *strong])
        fields.append((name, value))
    return fields


def _weakened_as_asked(fields: Sequence[tuple[bytes, bytes]], none_match: bytes | None) -> Fields:
    """A client that holds the coded answer knows it by a weak validator: 304 must name the same one."""
    held = [] if none_match is None else parse_etags(none_match)
    return [
        (name, b"W/" + value) if name == b"etag" and value not in held and b"W/" + value in held else (name, value)
        for name, value in fields
    ]


def _forbids_transformation(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    value = get_joined(fields, b"cache-control")
    return value is not None and b"no-transform" in [member.strip().lower() for member in value.split(b",")]
