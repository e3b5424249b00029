"""Vary: which stored answer fits which request, RFC 9111 section 4.1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.http.fields import get_all
from gateway.http.negotiation import IDENTITY, accepted_codings, parse_codings

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

MAX_NAMES = 64
"""An answer that depends on more request fields than that is not stored: every lookup would compare them all."""

NORMAL_CODINGS = ("zstd", "br", "gzip")
"""The codings that Accept-Encoding is reduced to; an answer in any other is told apart by the exact field."""


class Selector(NamedTuple):
    """One request field that selected an answer: its normal form, or None when the request had none."""

    name: bytes
    value: bytes | None
    exact: bool = False
    """Compared as it came, for an answer whose coding the normal form of Accept-Encoding leaves out."""


Selectors = tuple[Selector, ...]


def vary_names(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...] | None:
    """The request fields an answer depends on, lower case and sorted.

    None for ``*``, for what cannot be read, and for more than ``MAX_NAMES``.
    """
    names: set[bytes] = set()
    for key, value in fields:
        if key != b"vary":
            continue
        for member in value.split(b","):
            member = member.strip(b" \t").lower()
            if not member:
                continue
            if member == b"*" or _TOKEN.fullmatch(member) is None:
                return None
            names.add(member)
            if len(names) > MAX_NAMES:
                return None
    return tuple(sorted(names))


def selectors_of(
    names: Sequence[bytes], request: Sequence[tuple[bytes, bytes]], answer: Sequence[tuple[bytes, bytes]] = ()
) -> Selectors:
    """What the fields ``names`` of a request were when it got an answer with the fields ``answer``."""
    return tuple(
        Selector(name, normal_value(name, request, exact=exact), exact)
        for name in names
        for exact in (name == b"accept-encoding" and _needs_exact(answer),)
    )


def selects(selectors: Selectors, request: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request may get the answer that was selected by ``selectors``."""
    return all(normal_value(name, request, exact=exact) == value for name, value, exact in selectors)


def normal_value(name: bytes, request: Sequence[tuple[bytes, bytes]], *, exact: bool = False) -> bytes | None:
    """A request field in a form that is equal for values that mean the same; None when it is absent."""
    values = get_all(request, name)
    if not values:
        return None
    value = values[0] if len(values) == 1 else (b"; " if name == b"cookie" else b", ").join(values)
    normalise = None if exact else _NORMAL_FORMS.get(name, _list)
    return value.strip(b" \t") if normalise is None else normalise(value)


def _needs_exact(answer: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(coding not in NORMAL_CODINGS for coding in parse_codings(get_all(answer, b"content-encoding")))


def _list(value: bytes) -> bytes:
    """Any field may be a list, whose members blanks around the commas do not change, RFC 9110 section 5.6.1."""
    if b"," not in value or b'"' in value:
        return value.strip(b" \t")  # A comma in quotes divides nothing.
    return b",".join(filter(None, (member.strip(b" \t") for member in value.split(b","))))


def _case_free_list(value: bytes) -> bytes:
    return _list(value).lower()


def _codings(value: bytes) -> bytes:
    """The codings taken, best first: clients name many, in any order, with weights that change nothing."""
    return _codings_cached(value) if len(value) <= 256 else _order_codings(value)


def _order_codings(value: bytes) -> bytes:
    weights = accepted_codings(value)
    rest = weights.get("*", 0.0)
    identity = weights.get(IDENTITY, rest if "*" in weights else 1.0)
    taken = [coding for coding in NORMAL_CODINGS if weights.get(coding, rest) > 0]
    # A stable sort keeps the order of NORMAL_CODINGS among equals.
    taken.sort(key=lambda coding: -weights.get(coding, rest))
    # What identity weighs decides only when it is said: as the best choice, or as refused.
    if IDENTITY in weights and identity > 0:
        better = [coding for coding in taken if weights.get(coding, rest) >= identity]
        taken = [*better, IDENTITY, *taken[len(better) :]] if len(better) < len(taken) else taken
    if identity == 0:
        taken.append("!identity")
    return ",".join(taken).encode("ascii")


_codings_cached = lru_cache(maxsize=1024)(_order_codings)

_NORMAL_FORMS: dict[bytes, Callable[[bytes], bytes] | None] = {
    b"accept-charset": _case_free_list,
    b"accept-encoding": _codings,
    b"accept-language": _case_free_list,
    b"authorization": None,
    b"cookie": None,
}
