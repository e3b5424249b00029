"""Cache directives: Cache-Control (RFC 9111 section 5.2), the targeted fields (RFC 9213) and Surrogate-Control.

Where a field is odd, it is read in the way that reuses less (RFC 9111 section 4.2.1): a freshness directive that is
repeated with another value, or whose value is no number, counts as zero; an unfinished quote as ``no-store``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import http_sf

from gateway.http.fields import get_all, get_joined

Directives = dict[str, str | None]
"""Argument by lower-case name; None where there is none."""

MAX_SECONDS = 2**31
"""What larger delta-seconds are taken for, RFC 9111 section 1.2.2."""

_UNFINISHED = "\0unfinished"
_REPEATED = "\0repeated"
_MEMBER = re.compile(rb'(?:[^,"]++|"(?:[^"\\]++|\\.)*+")*+')
_DIRECTIVE = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:\"((?:[^\"\\]|\\.)*)\"|([^\" \t]*)))?[ \t]*", re.DOTALL
)
_NAME = re.compile(rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_SURROGATE = re.compile(r"([0-9]+)(?:\+([0-9]+))?")


@dataclass(frozen=True, slots=True)
class ResponseDirectives:
    """What an answer says about its storage, RFC 9111 section 5.2.2; times in seconds, None where not said."""

    max_age_s: int | None = None
    s_maxage_s: int | None = None
    stale_while_revalidate_s: int | None = None
    stale_if_error_s: int | None = None
    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: frozenset[bytes] = frozenset()
    private: bool = False
    private_fields: frozenset[bytes] = frozenset()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    immutable: bool = False
    targeted: bool = field(default=False, compare=False)
    """Whether this came from a targeted field, which also replaces Expires."""


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """What a client asks of caches, RFC 9111 section 5.2.1; times in seconds, None where not said."""

    max_age_s: int | None = None
    max_stale_s: int | None = None
    min_fresh_s: int | None = None
    stale_if_error_s: int | None = None
    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False


NO_DIRECTIVES = RequestDirectives()


def parse_directives(value: bytes) -> Directives:
    """Name and argument of each directive of a Cache-Control value, quotes taken off.

    Repetitions that agree are one; those that do not get an argument that no directive accepts.
    """
    found: Directives = {}
    position = 0
    while position <= len(value):
        member = _MEMBER.match(value, position)
        end = member.end() if member is not None else position
        if end < len(value) and value[end : end + 1] == b'"':
            _take_unfinished(found, value[position:])
            return found
        _take(found, value[position:end])
        position = end + 1
    return found


def _take(found: Directives, member: bytes) -> None:
    if not member.strip(b" \t"):
        return
    match = _DIRECTIVE.fullmatch(member)
    if match is None:
        # Junk behind a name that is known: the name counts, its argument does not.
        named = _NAME.match(member)
        if named is None:
            return
        name, argument = named[1], _REPEATED
    elif match[2] is not None:
        name, argument = match[1], re.sub(r"\\(.)", r"\1", match[2].decode("latin-1"), flags=re.DOTALL)
    elif match[3] is not None:
        # An unquoted list of field names would end at the first comma: said without quotes it stands for all fields.
        name, argument = match[1], match[3].decode("latin-1")
        if name.lower() in (b"no-cache", b"private"):
            argument = ""
    else:
        _set(found, match[1].decode("ascii").lower(), None)
        return
    _set(found, name.decode("ascii").lower(), argument)


def _set(found: Directives, name: str, argument: str | None) -> None:
    if name in found and found[name] != argument:
        if name in ("no-cache", "private"):
            argument = None if not found[name] or not argument else f"{found[name]},{argument}"
        else:
            argument = _REPEATED
    found[name] = argument


def _take_unfinished(found: Directives, rest: bytes) -> None:
    for member in rest.split(b","):
        named = _NAME.match(member)
        if named is not None:
            _set(found, named[1].decode("ascii").lower(), _REPEATED)
    found[_UNFINISHED] = None


def delta_seconds(argument: str | None) -> int:
    """A freshness argument in seconds: zero for what is no number, MAX_SECONDS for what is larger."""
    if argument is None or not argument.isascii() or not argument.isdigit():
        return 0
    # Comparing lengths first keeps an argument of a thousand digits from being converted.
    digits = argument.lstrip("0")
    return MAX_SECONDS if len(digits) > 10 else min(int(digits or "0"), MAX_SECONDS)


def _optional_seconds(found: Directives, name: str) -> int | None:
    return delta_seconds(found[name]) if name in found else None


def _lenient_seconds(found: Directives, name: str) -> int | None:
    """As a permission: one that is malformed is not given."""
    return delta_seconds(found[name]) or None if name in found else None


def _field_names(argument: str | None) -> frozenset[bytes]:
    """The names of ``private`` or ``no-cache``; none, which stands for every field, when one of them is no name."""
    names = [name.strip().lower().encode("latin-1", "replace") for name in (argument or "").split(",") if name.strip()]
    return frozenset(names) if all(_NAME.fullmatch(name) for name in names) else frozenset()


def response_directives(found: Directives, *, targeted: bool = False) -> ResponseDirectives:
    """The directives of an answer from their names and arguments."""
    no_cache_fields = _field_names(found.get("no-cache"))
    private_fields = _field_names(found.get("private"))
    return ResponseDirectives(
        max_age_s=_optional_seconds(found, "max-age"),
        s_maxage_s=_optional_seconds(found, "s-maxage"),
        stale_while_revalidate_s=_optional_seconds(found, "stale-while-revalidate"),
        stale_if_error_s=_optional_seconds(found, "stale-if-error"),
        no_store="no-store" in found or _UNFINISHED in found,
        no_cache="no-cache" in found and not no_cache_fields,
        no_cache_fields=no_cache_fields,
        private="private" in found and not private_fields,
        private_fields=private_fields,
        public="public" in found and found["public"] is None,
        must_revalidate="must-revalidate" in found,
        proxy_revalidate="proxy-revalidate" in found,
        must_understand="must-understand" in found,
        immutable="immutable" in found and found["immutable"] is None,
        targeted=targeted,
    )


def effective_directives(fields: Sequence[tuple[bytes, bytes]]) -> ResponseDirectives:
    """The directives that this cache obeys: a targeted field where one applies, else Cache-Control."""
    for name, _ in fields:
        if name == b"cdn-cache-control" or name == b"surrogate-control":
            break
    else:
        return _parse_response(get_joined(fields, b"cache-control") or b"")
    found = _structured(b", ".join(get_all(fields, b"cdn-cache-control")))
    if not found:
        found = _surrogate(b", ".join(get_all(fields, b"surrogate-control")))
    if found:
        return response_directives(found, targeted=True)
    return _parse_response(get_joined(fields, b"cache-control") or b"")


@lru_cache(maxsize=1024)
def _parse_short_response(value: bytes) -> ResponseDirectives:
    return response_directives(parse_directives(value))


def _parse_response(value: bytes) -> ResponseDirectives:
    # Upstreams send few different values; long ones are not worth their memory.
    if len(value) <= 256:
        return _parse_short_response(value)
    return response_directives(parse_directives(value))


def _structured(value: bytes) -> Directives:
    """A targeted field: a Dictionary; empty when it is not one, RFC 9213 section 2.1."""
    if not value.strip():
        return {}
    try:
        members = cast("dict[str, tuple[object, object]]", http_sf.parse(value, tltype="dictionary"))
    except ValueError:
        return {}
    found: Directives = {}
    for name, (item, _) in members.items():
        if item is True:
            found[name] = None
        elif item is not False:
            # Lists of fields are strings, all other arguments integers: one of another type says nothing.
            expected = str if name in ("no-cache", "private") else int
            found[name] = str(item) if type(item) is expected else ""
    return found


def _surrogate(value: bytes) -> Directives:
    """Surrogate-Control (Edge Architecture): ``max-age=30+60`` adds a time to serve stale in.

    Empty unless it speaks about storage: many applications send it only to announce ESI. Directives aimed at one
    named surrogate do not concern this one.
    """
    found: Directives = {}
    for name, argument in parse_directives(value).items():
        if name == "no-store":
            found[name] = None
        elif name == "max-age":
            match = _SURROGATE.fullmatch(argument or "")
            if match is None and ";" in (argument or ""):
                continue
            found[name] = match[1] if match else argument
            if match is not None and match[2]:
                found["stale-while-revalidate"] = match[2]
        elif name == _UNFINISHED:
            found["no-store"] = None
    return found


def request_directives(cache_control: bytes | None, pragma: bytes | None = None) -> RequestDirectives:
    """What a request asks for; ``Pragma: no-cache`` counts where there is no Cache-Control (RFC 9111 section 5.4)."""
    if cache_control is None:
        if pragma is not None and "no-cache" in parse_directives(pragma):
            return RequestDirectives(no_cache=True)
        return NO_DIRECTIVES
    return _parse_short_request(cache_control) if len(cache_control) <= 256 else _parse_request(cache_control)


def _parse_request(value: bytes) -> RequestDirectives:
    found = parse_directives(value)
    max_stale = None
    if "max-stale" in found:
        max_stale = MAX_SECONDS if found["max-stale"] is None else delta_seconds(found["max-stale"])
    return RequestDirectives(
        max_age_s=_optional_seconds(found, "max-age"),
        max_stale_s=max_stale,
        # Malformed, it asks for nothing that could be met: zero is what is left of it.
        min_fresh_s=_optional_seconds(found, "min-fresh"),
        stale_if_error_s=_lenient_seconds(found, "stale-if-error"),
        no_cache="no-cache" in found or _UNFINISHED in found,
        no_store="no-store" in found or _UNFINISHED in found,
        only_if_cached="only-if-cached" in found,
    )


_parse_short_request = lru_cache(maxsize=1024)(_parse_request)
