"""Request targets: which are safe, how they are read for matching, and how they are written anew for an upstream.

Matching works on decoded segments; what is forwarded is the client's own bytes, minus and plus prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from gateway.errors import BadRequest
from gateway.patterns import decode_segment

MAX_CACHED_BYTES = 256

# Control bytes, space, #, ? (it would begin a query), backslash, DEL and raw bytes from 0x80; a % that begins no
# escape; an encoded NUL.
_UNSAFE_PATH = re.compile(rb"[\x00-\x20#?\\\x7f-\xff]|%(?![0-9A-Fa-f]{2})|%00")
_UNSAFE_QUERY = re.compile(rb"[\x00-\x20#\x7f-\xff]")
_OTHER_SEPARATOR = re.compile(rb"%2[fF]|%5[cC]")
_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\*?\}")


class RequestPath:
    """A safe path, read for matching; never changed, for it is shared between requests.

    ``segments`` are decoded, runs of slashes counting as one and an encoded slash staying ``%2F``. ``second`` is the
    path as an upstream would read it that takes encoded slashes and backslashes for separators, None where that makes
    no difference.
    """

    __slots__ = ("raw", "second", "segments", "trailing_slash")

    def __init__(self, raw: bytes, segments: tuple[bytes, ...]) -> None:
        self.raw = raw
        self.segments = segments
        self.trailing_slash = bool(segments) and raw.endswith(b"/")
        self.second: RequestPath | None = None

    @property
    def raw_segments(self) -> tuple[bytes, ...]:
        """The client's bytes of each segment."""
        return tuple([part for part in self.raw.split(b"/") if part]) if self.segments else ()

    def tail(self, count: int) -> bytes:
        """The client's bytes after the first ``count`` segments and the slash that ends them."""
        return strip_segments(self.raw, count)[1:]

    @property
    def decoded(self) -> str:
        """The whole path as regular expressions see it."""
        slash = "/" if self.trailing_slash else ""
        return "/" + b"/".join(self.segments).decode("utf-8", "replace") + slash


def read_path(raw_path: bytes) -> RequestPath:
    """Read a path of a request; BadRequest when two servers could read it in two ways.

    Refused are ``.`` and ``..`` segments in any spelling, an encoded NUL, broken escapes, backslashes, ``#``, ``?``,
    control bytes and bytes from 0x80. ``*``, which is for OPTIONS only, reads as a path without segments.
    """
    if len(raw_path) <= MAX_CACHED_BYTES:
        return _read_cached(raw_path)
    return read_path_anew(raw_path)


def check_query(query: bytes) -> None:
    """BadRequest for bytes that no query has, RFC 3986 section 3.4."""
    if query and _UNSAFE_QUERY.search(query):
        raise BadRequest("the query contains bytes that must be percent-encoded")


def read_path_anew(raw_path: bytes) -> RequestPath:
    """``read_path`` for whoever remembers what became of a path, and asks only about those that it does not know."""
    if raw_path == b"*":
        return RequestPath(raw_path, ())
    if not raw_path.startswith(b"/"):
        raise BadRequest("the target is no path")
    if _UNSAFE_PATH.search(raw_path):
        raise BadRequest("the path contains bytes that must be percent-encoded, or a broken percent escape")
    if b"%" not in raw_path and b"/." not in raw_path:
        return RequestPath(raw_path, tuple(filter(None, raw_path.split(b"/"))))
    path = _segmented(raw_path)
    if b"%" in raw_path and _OTHER_SEPARATOR.search(raw_path):
        path.second = _segmented(_OTHER_SEPARATOR.sub(b"/", raw_path))
    return path


_read_cached = lru_cache(maxsize=4096)(read_path_anew)


def _segmented(raw: bytes) -> RequestPath:
    segments = [part for part in raw.split(b"/") if part]
    if b"%" in raw:
        segments = [decode_segment(part) for part in segments]
    for segment in segments:
        # Some servers cut ;parameters off before they resolve dots.
        if segment[0] == 0x2E and segment.split(b";", 1)[0] in (b".", b".."):
            raise BadRequest("the path contains a . or .. segment")
    return RequestPath(raw, tuple(segments))


class Template:
    """Text with names in braces: ``Template("/items/{id}").render({"id": b"7"}) == b"/items/7"``."""

    __slots__ = ("_pieces", "names")

    def __init__(self, text: str) -> None:
        parts = _NAME.split(text)
        self._pieces: list[bytes | str] = []
        for index, part in enumerate(parts):
            if index % 2:
                self._pieces.append(part)
            elif part:
                self._pieces.append(part.encode("utf-8"))
        self.names = tuple(parts[1::2])

    def render(self, names: Mapping[str, bytes]) -> bytes:
        """The text with the bytes of ``names``; one that is missing counts as empty."""
        return b"".join([piece if isinstance(piece, bytes) else names.get(piece, b"") for piece in self._pieces])


class RedirectTarget:
    """Where a redirect leads: ``to`` may use {host}, {scheme} and the names of the path.

    The query goes along, unless ``to`` has one of its own.
    """

    __slots__ = ("_keeps_query", "_template")

    def __init__(self, to: str) -> None:
        self._template = Template(to)
        self._keeps_query = "?" not in to

    def location(self, params: Mapping[str, bytes], host: bytes, scheme: str, query: bytes) -> bytes:
        """The value of Location."""
        # A tail may begin with slashes: a redirect to /{rest} must not become one to //host.
        names = {name: value.lstrip(b"/") for name, value in params.items()}
        names |= {"host": host, "scheme": scheme.encode("ascii")}
        location = self._template.render(names)
        return b"%b?%b" % (location, query) if self._keeps_query and query else location


class TargetRewrite:
    """Turns a public path into an endpoint's and back: less ``strip_prefix``, plus ``add_prefix`` and ``base_path``.

    ``rewrite`` replaces the whole path below ``base_path`` and cannot be turned back.
    """

    __slots__ = ("_count", "_prefix", "_strip_prefix", "_template", "is_identity")

    def __init__(
        self, *, base_path: bytes = b"", strip_prefix: bytes = b"", add_prefix: bytes = b"", rewrite: str = ""
    ) -> None:
        self._strip_prefix = strip_prefix.rstrip(b"/")
        self._count = len([part for part in strip_prefix.split(b"/") if part])
        self._prefix = base_path.rstrip(b"/") + add_prefix.rstrip(b"/")
        self._template = Template(rewrite) if rewrite else None
        self.is_identity = not self._count and not self._prefix and not rewrite
        """Whether every target stays as it is."""

    def apply(self, raw_path: bytes, query: bytes, params: Mapping[str, bytes]) -> bytes:
        """Path and query for the endpoint; ``params`` are the client's bytes of the names in the route's path."""
        if not self.is_identity:
            raw_path = self._rewritten(raw_path, params)
        return b"%b?%b" % (raw_path, query) if query else raw_path

    def _rewritten(self, raw_path: bytes, params: Mapping[str, bytes]) -> bytes:
        if self._template is not None:
            path = self._template.render(params)
        else:
            path = strip_segments(raw_path, self._count) if self._count else raw_path
        if path == b"*":
            return path
        return join(self._prefix, path)

    def public_path(self, upstream_path: bytes) -> bytes | None:
        """The public path of an endpoint's path; None where it has none."""
        if self._template is not None:
            return None
        prefix = self._prefix
        if not prefix:
            rest = upstream_path
        elif upstream_path == prefix or upstream_path.startswith(prefix + b"/"):
            rest = upstream_path[len(prefix) :]
        else:
            return None
        return join(self._strip_prefix, rest)


def strip_segments(raw_path: bytes, count: int) -> bytes:
    """What follows the first ``count`` segments: empty, or beginning with a slash."""
    offset = 0
    for _ in range(count):
        while raw_path[offset : offset + 1] == b"/":
            offset += 1
        offset = raw_path.find(b"/", offset)
        if offset < 0:
            return b""
    return raw_path[offset:]


def join(prefix: bytes, path: bytes) -> bytes:
    """``path`` below ``prefix``, with exactly one slash between them; never empty."""
    if not path:
        return prefix or b"/"
    if path.startswith(b"/"):
        return prefix + path
    return b"%b/%b" % (prefix, path)


def cut_root_path(raw_path: bytes, root_path: str) -> bytes:
    """``raw_path`` without the prefix that an application is mounted under, cut at a segment boundary.

    ``root_path`` may be decoded, as ASGI has it, or percent-encoded. A path that does not begin with it is returned as
    it is: some servers leave the prefix out of ``raw_path``.
    """
    root = [part for part in root_path.split("/") if part]
    if not root:
        return raw_path
    parts = [unquote(part.decode("latin-1")) for part in raw_path.split(b"/") if part][: len(root)]
    if parts != root and parts != [unquote(part) for part in root]:
        return raw_path
    return strip_segments(raw_path, len(root)) or b"/"
