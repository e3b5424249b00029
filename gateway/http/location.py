"""References in responses that name an upstream, made public again: Location, Content-Location and Refresh."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from urllib.parse import quote as percent_encoded

PublicPath = Callable[[bytes], bytes | None]
"""The public path of an upstream's path; None when it has none."""

_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]*))?")
_REFERENCE_END = re.compile(rb"[/?#]")
_PATH_END = re.compile(rb"[?#]")
# Seconds, a separator, "url=" or nothing, and the URL with or without quotes: as browsers read it.
_REFRESH = re.compile(
    rb"([ \t]*[0-9.]+[ \t]*[;,\t ][ \t]*(?:url[ \t]*=[ \t]*)?)(['\"]?)(.*)", re.IGNORECASE | re.DOTALL
)


def normal_authority(scheme: bytes, authority: bytes) -> bytes:
    """``host:port`` in lower case, without user information; empty when ``authority`` is none."""
    match = _AUTHORITY.fullmatch(authority.rpartition(b"@")[2])
    port = (match[2] or _DEFAULT_PORTS.get(scheme, b"")) if match is not None else b""
    if match is None or not match[1] or not port:
        return b""
    return b"%b:%b" % (match[1].lower().rstrip(b"."), port.lstrip(b"0"))


def upstream_authorities(urls: Iterable[str]) -> frozenset[bytes]:
    """What endpoints are called in URLs: ``host:port`` of each ``http`` or ``https`` URL.

    One on a default port answers to both: behind the gateway's TLS a service may not know which scheme is in use.
    Endpoints on UNIX sockets and in the process have no name of their own.
    """
    names: set[bytes] = set()
    for url in urls:
        scheme, mark, rest = url.encode("ascii").partition(b"://")
        if mark and scheme in _DEFAULT_PORTS:
            name = normal_authority(scheme, rest.partition(b"/")[0])
            host, _, port = name.rpartition(b":")
            names.update([host + b":80", host + b":443"] if port in _DEFAULT_PORTS.values() else [name])
    return frozenset(names)


def mount_prefix(root_path: str) -> bytes:
    """The path that an application is mounted under, as ASGI has it, as it stands in a URL: without a last slash."""
    return percent_encoded(root_path, safe="/%:@!$&'()*+,;=~-._").rstrip("/").encode("ascii")


class PublicReferences:
    """Turns references of one upstream into public ones.

    ``upstream`` holds what its endpoints are called, as ``upstream_authorities`` gives it; a live container may be used
    where addresses change. ``public_path`` maps the path of an upstream to the public one. References that name neither
    the upstream nor the public host are left alone, as are relative ones without a leading slash.
    """

    __slots__ = ("_public_path", "_upstream")

    def __init__(self, upstream: Container[bytes], public_path: PublicPath | None = None) -> None:
        self._upstream = upstream
        self._public_path = public_path

    def reference(self, value: bytes, *, scheme: bytes, host: bytes, prefix: bytes = b"") -> bytes:
        """A URI reference, RFC 3986 section 4.1, as the client can use it. ``scheme`` and ``host`` are the public ones.

        ``prefix`` is the path that all of this is mounted under: it leads every public path.
        Without a public host what named the upstream becomes a path. A public host in plain HTTP becomes the public
        scheme: the upstream does not know of the TLS in front of it.
        """
        if value[:1] == b"/" and value[1:2] not in (b"/", b"\\"):
            return self._with_public_path(value, prefix)
        match = _SCHEME.match(value)
        named = match[1].lower() if match is not None else b""
        start = match.end() if match is not None else 0
        if (named and named not in _DEFAULT_PORTS) or value[start : start + 2] != b"//":
            return value
        end = _REFERENCE_END.search(value, start + 2)
        authority = value[start + 2 : end.start() if end is not None else len(value)]
        rest = value[end.start() :] if end is not None else b""
        name = normal_authority(named or scheme, authority)
        if name and name in self._upstream:
            public_rest = self._with_public_path(rest, prefix)
            if not host:
                return public_rest if public_rest.startswith(b"/") else b"/" + public_rest
            return (scheme + b":" if named else b"") + b"//" + host + public_rest
        if authority.lower() == host.lower() and host:
            before = b"https:" if named == b"http" and scheme == b"https" else value[:start]
            return before + b"//" + authority + self._with_public_path(rest, prefix)
        return value

    def refresh(self, value: bytes, *, scheme: bytes, host: bytes, prefix: bytes = b"") -> bytes:
        """A value of Refresh, seconds and then a reference, as the client can use it."""
        match = _REFRESH.fullmatch(value)
        if match is None:
            return value
        head, quote, rest = match[1], match[2], match[3]
        url, mark, tail = rest.partition(quote) if quote else (rest, b"", b"")
        return head + quote + self.reference(url, scheme=scheme, host=host, prefix=prefix) + mark + tail

    def _with_public_path(self, rest: bytes, prefix: bytes) -> bytes:
        """Path, query and fragment with the public path; one that has none stays as it is."""
        if rest[:1] not in (b"/", b"") or (self._public_path is None and not prefix):
            return rest
        end = _PATH_END.search(rest)
        path = (rest[: end.start()] if end is not None else rest) or b"/"
        public = path if self._public_path is None else self._public_path(path)
        if public is None:
            return rest
        return prefix + public + (rest[end.start() :] if end is not None else b"")
