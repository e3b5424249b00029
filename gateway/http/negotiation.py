"""Which content coding a client takes, RFC 9110 section 12.5.3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

IDENTITY = "identity"

_MEMBER = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)
_MAX_CACHED_BYTES = 256


def accepted_codings(accept_encoding: bytes) -> dict[str, float]:
    """Weight by lower-case coding; members that are malformed do not count. ``x-gzip`` is ``gzip``."""
    weights: dict[str, float] = {}
    for member in accept_encoding.split(b","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            continue
        coding = match[1].decode("ascii").lower()
        coding = {"x-gzip": "gzip", "x-compress": "compress"}.get(coding, coding)
        weights.setdefault(coding, float(match[2]) if match[2] is not None else 1.0)
    return weights


def choose_coding(accept_encoding: bytes | None, offered: tuple[str, ...]) -> str:
    """The coding to answer with: the client's weights first, the order of ``offered`` among equals.

    ``identity`` when the field is absent, when nothing offered is wanted, and also when the client refuses identity but
    takes nothing that is offered: RFC 9110 section 12.5.3 lets such an answer go out as it is.
    """
    if accept_encoding is None:
        return IDENTITY
    if len(accept_encoding) <= _MAX_CACHED_BYTES:
        return _choose_cached(accept_encoding, offered)
    return _choose(accept_encoding, offered)


def _choose(accept_encoding: bytes, offered: tuple[str, ...]) -> str:
    weights = accepted_codings(accept_encoding)
    rest = weights.get("*", 0.0)
    best, best_weight = IDENTITY, weights.get(IDENTITY, 0.0)
    for coding in reversed(offered):
        weight = weights.get(coding, rest)
        # Not strictly greater: a coding wins over identity, and what is offered earlier over what is offered later.
        if weight > 0 and weight >= best_weight:
            best, best_weight = coding, weight
    return best


_choose_cached = lru_cache(maxsize=1024)(_choose)


def is_accepted(coding: str, accept_encoding: bytes | None) -> bool:
    """Whether a client takes a body in ``coding``; without the field it takes any."""
    if accept_encoding is None:
        return True
    weights = accepted_codings(accept_encoding)
    if coding in weights:
        return weights[coding] > 0
    return weights.get("*", 1.0 if coding == IDENTITY else 0.0) > 0


def parse_codings(values: Sequence[bytes]) -> list[str]:
    """The codings of Content-Encoding fields in the order in which they were applied, without identity."""
    names = [name.strip(b" \t").decode("latin-1").lower() for value in values for name in value.split(b",")]
    aliases = {"x-gzip": "gzip", "x-compress": "compress"}
    return [aliases.get(name, name) for name in names if name and name != IDENTITY]
