"""Host and path patterns of the route table.

    /a/b                 exactly that path
    /a/*                 /a, /a/ and everything below
    /users/{id}/orders   one segment, not empty, for each name
    /files/{rest*}       names the whole tail
    ~^/v[0-9]+/          a regular expression, matched from the start
    *.example.com        any subdomain, at any depth

Patterns are compared with what requests mean: paths decoded, hosts in lower case without port. The text of a pattern
may be written decoded or with percent escapes: ``/café`` and ``/caf%C3%A9`` are one pattern. Two patterns are equal
when they admit the same requests for the same reason, whatever their names are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote_to_bytes

Segment = bytes | None
"""A decoded literal, or None for a name."""

Matcher = Callable[[str], object]
"""Gives something true when a text matches from its start."""

LITERAL, END, NAME, TAIL, REGEX = range(5)
"""How specific each position of a path pattern is, the most specific first."""

_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TAIL_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\*\}")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_ENCODED_SLASH = re.compile(rb"%2[fF]")
_MAX_SEGMENTS = 128
"""Of a pattern; the table descends by one call a segment."""


@dataclass(frozen=True)
class PathPattern:
    """One path of a route. ``segments`` are decoded as those of a request are: an encoded slash stays encoded."""

    segments: tuple[Segment, ...] = ()
    has_tail: bool = False
    ends_with_slash: bool = False
    regex: str = ""
    text: str = field(default="", compare=False)
    names: tuple[str, ...] = field(default=(), compare=False)
    """Names of segments in order, that of the tail last."""
    tail_name: str = field(default="", compare=False)

    @property
    def literal_segments(self) -> tuple[str, ...]:
        """The segments before the first name or tail, as the pattern spells them."""
        literals: list[str] = []
        if not self.regex:
            raw = [part for part in self.text.split("/") if part]
            for segment, part in zip(self.segments, raw, strict=False):
                if segment is None:
                    break
                literals.append(part)
        return tuple(literals)

    @cached_property
    def rank(self) -> tuple[int, ...]:
        """Sorts before the rank of every pattern that is less specific, by the leftmost segment that differs."""
        if self.regex:
            return (REGEX,)
        kinds = [LITERAL if segment is not None else NAME for segment in self.segments]
        return (*kinds, TAIL if self.has_tail else END)

    @cached_property
    def match_regex(self) -> Matcher:
        """Matches a decoded path with the regular expression, from its start."""
        return compile_regex(self.regex)

    def covers(self, other: PathPattern) -> bool:
        """Whether this pattern matches every path that ``other`` does; False when that cannot be seen."""
        if self.regex or other.regex:
            return self in (other, EVERY_PATH)
        for index, segment in enumerate(self.segments):
            if index >= len(other.segments) or (segment is not None and segment != other.segments[index]):
                return False
        if self.has_tail:
            return True
        same_length = len(self.segments) == len(other.segments)
        return same_length and not other.has_tail and self.ends_with_slash == other.ends_with_slash


@dataclass(frozen=True)
class HostPattern:
    """One host of a route: a name in lower case, or with ``is_wildcard`` any subdomain of it."""

    name: str
    is_wildcard: bool = False

    @property
    def text(self) -> str:
        return f"*.{self.name}" if self.is_wildcard else self.name

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts before the rank of every host that is less specific."""
        return (1, -len(self.name)) if self.is_wildcard else (0, 0)

    def matches(self, host: str) -> bool:
        return host.endswith("." + self.name) if self.is_wildcard else host == self.name

    def covers(self, other: HostPattern) -> bool:
        """Whether this pattern matches every host that ``other`` does."""
        if not self.is_wildcard:
            return self == other
        return other.name.endswith("." + self.name) or (other.is_wildcard and other.name == self.name)


ANY_HOST_RANK = (2, 0)

EVERY_PATH = PathPattern(has_tail=True, text="/*")


def parse_path(text: str) -> PathPattern:
    """A pattern from its text; ValueError in words for the user."""
    if text.startswith("~"):
        return _parse_regex(text)
    if not text.startswith("/"):
        raise ValueError('must start with "/", or with "~" for a regular expression')
    if "?" in text or "#" in text:
        raise ValueError("must not contain a query or a fragment; use when = { query = ... }")
    if _BROKEN_ESCAPE.search(text):
        raise ValueError("has a % that is no percent escape")
    parts = text[1:].split("/")
    ends_with_slash = len(parts) > 1 and parts[-1] == ""
    if ends_with_slash or parts == [""]:
        parts.pop()
    if "" in parts:
        raise ValueError("has an empty segment: runs of slashes count as one")
    segments: list[Segment] = []
    names: list[str] = []
    tail_name, has_tail = "", False
    if len(parts) > _MAX_SEGMENTS:
        raise ValueError(f"has more than {_MAX_SEGMENTS} segments")
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1 and not ends_with_slash
        tail = _TAIL_NAME.fullmatch(part)
        if part == "*" or tail:
            if not is_last:
                raise ValueError(f"{part} must be the last segment")
            has_tail, tail_name = True, tail[1] if tail else ""
        elif name := _NAME.fullmatch(part):
            names.append(name[1])
            segments.append(None)
        else:
            segments.append(_literal(part))
    if tail_name:
        names.append(tail_name)
    if len(set(names)) != len(names):
        raise ValueError("uses a name twice")
    return PathPattern(tuple(segments), has_tail, ends_with_slash, "", text, tuple(names), tail_name)


def _literal(part: str) -> bytes:
    if "{" in part or "}" in part:
        raise ValueError(f"{part}: a name is a whole segment, such as {{id}} or {{rest*}} at the end")
    if "*" in part:
        raise ValueError(f"{part}: * stands alone as the last segment")
    decoded = decode_segment(part.encode("utf-8"))
    if decoded.split(b";", 1)[0] in (b".", b".."):
        raise ValueError(f"{part}: . and .. segments never reach the table")
    if b"\\" in decoded or any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise ValueError(f"{part}: backslashes and control characters never reach the table")
    return decoded


def _parse_regex(text: str) -> PathPattern:
    pattern = PathPattern(regex=text[1:], text=text)
    if not pattern.regex:
        raise ValueError("has no regular expression after ~")
    pattern.match_regex  # noqa: B018 - compiles
    return pattern


def compile_regex(expression: str) -> Matcher:
    """A regular expression in the linear-time engine; ValueError in words for the user."""
    try:
        import re2
    except ImportError:
        raise ValueError('a regular expression needs the linear-time engine: pip install "gateway[regex]"') from None
    options = re2.Options()
    options.log_errors = False
    # A path may hold an encoded line break: it must not slip past what "." guards.
    options.dot_nl = True
    try:
        matcher: Matcher = re2.compile(expression, options).match
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise ValueError(
            f"is no regular expression: {reason.decode() if isinstance(reason, bytes) else reason}"
        ) from None
    return matcher


def parse_host(text: str) -> HostPattern:
    """A pattern from its text; ValueError in words for the user."""
    name = text.lower().removesuffix(".")
    is_wildcard = name.startswith("*.")
    name = name[2:] if is_wildcard else name
    if name.startswith("[") and name.endswith("]") and not is_wildcard:
        return HostPattern(_ipv6(name))
    if name.count(":") > 1:
        raise ValueError('an IPv6 address stands in brackets, without a port, as in "[::1]"')
    if ":" in name:
        raise ValueError("must not name a port: hosts are matched without it")
    if "*" in name:
        raise ValueError('* stands only at the front, as in "*.example.com"')
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("is no host name") from None
    if not name or len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("is no host name")
    return HostPattern(name, is_wildcard)


def _ipv6(literal: str) -> str:
    import ipaddress

    try:
        return f"[{ipaddress.IPv6Address(literal[1:-1]).compressed}]"
    except ValueError:
        raise ValueError("is no IPv6 address") from None


def decode_segment(raw: bytes) -> bytes:
    """A path segment with its escapes decoded; an encoded slash stays ``%2F``, for it separates nothing."""
    if b"%" not in raw:
        return raw
    return b"%2F".join(unquote_to_bytes(piece) for piece in _ENCODED_SLASH.split(raw))
