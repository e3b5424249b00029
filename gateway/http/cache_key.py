"""Under which key a request is stored, and the public URL that a purge names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from gateway.http.cookies import cookie_pairs
from gateway.http.vary import normal_value

CacheKey = tuple[str, str, bytes, bytes, tuple[bytes | None, ...]]
"""Namespace (the route), public scheme, Host and target as the client sent them, then chosen cookies and fields."""

QuerySetting = str | Mapping[str, object]
"""``"all"``, ``"none"``, ``{"only": names}`` or ``{"except": names}``, the last two with ``"sort": bool``."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_FORWARDED_URL_FIELDS = frozenset(
    b"x-forwarded-" + name for name in (b"host", b"port", b"prefix", b"proto", b"scheme", b"server", b"ssl")
)
_FORWARDED_NODE = re.compile(
    rb'("(?:[^"\\]++|\\.)*+"?)|\b(?:for|by)=(?:"(?:[^"\\]++|\\.)*+"?|[^";,]*+);?', re.IGNORECASE | re.DOTALL
)
_NEEDS_ESCAPE = re.compile(rb"[^!-~]")


class KeyPolicy:
    """What of a request enters its key.

    ``vary`` names fields, ``cookies`` names cookies, ``query`` chooses the parameters of the query.
    """

    __slots__ = ("cookies", "filter_query", "namespace", "vary")

    def __init__(
        self, namespace: str = "", *, query: QuerySetting = "all", cookies: Sequence[str] = (), vary: Sequence[str] = ()
    ) -> None:
        self.namespace = namespace
        self.filter_query = query_filter(query)
        self.cookies = tuple(name.encode("latin-1") for name in cookies)
        self.vary = tuple(name.lower().encode("latin-1") for name in vary)

    def target(self, target: bytes) -> bytes:
        """A target of path and query with the part of the query that enters the key."""
        if self.filter_query is None:
            return target
        path, mark, query = target.partition(b"?")
        kept = self.filter_query(query) if mark else b""
        return b"%b?%b" % (path, kept) if kept else path

    def extras(self, request: Sequence[tuple[bytes, bytes]]) -> tuple[bytes | None, ...]:
        """The chosen cookies and fields of a request."""
        if not self.cookies and not self.vary:
            return ()
        pairs = cookie_pairs(request) if self.cookies else []
        values: list[bytes | None] = []
        for name in self.cookies:
            found = [value for key, value in pairs if key == name]
            values.append(b";".join(found) if found else None)
        values.extend(normal_value(name, request) for name in self.vary)
        return tuple(values)

    def key(self, scheme: str, host: bytes, target: bytes, request: Sequence[tuple[bytes, bytes]]) -> CacheKey:
        """The key of a request for ``target`` of ``scheme`` and ``host``."""
        return (self.namespace, scheme, host, self.target(target), self.extras(request))

    def describe(self, scheme: str, host: bytes, target: bytes, request: Sequence[tuple[bytes, bytes]] = ()) -> str:
        """The key in words, for people."""
        _, _, _, kept, extras = self.key(scheme, host, target, request)
        parts = [f"{scheme}://{host.decode('latin-1')}{kept.decode('latin-1')}"]
        names = [f"cookie {name.decode('latin-1')}" for name in self.cookies] + [
            name.decode("latin-1") for name in self.vary
        ]
        for name, value in zip(names, extras, strict=True):
            parts.append(f"{name}={value.decode('latin-1')!r}" if value is not None else f"{name} absent")
        return " ".join(parts)


def forwarded_parts(request: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """What proxies say of the URL that the client asked for, but not for whom: applications build links from it."""
    parts = []
    for name, value in request:
        if name in _FORWARDED_URL_FIELDS:
            parts.append(b"%b:%b" % (name, value))
        elif name == b"forwarded":
            parts.append(b"%b:%b" % (name, _FORWARDED_NODE.sub(_quoted_alone, value)))
    return tuple(parts)


def _quoted_alone(match: re.Match[bytes]) -> bytes:
    return match[1] or b""


def query_filter(setting: QuerySetting) -> Callable[[bytes], bytes] | None:
    """The function that keeps what a setting keeps of a query; None when that is all. Raises ValueError."""
    if setting == "all":
        return None
    if setting == "none":
        return lambda query: b""
    if isinstance(setting, str):
        raise ValueError(f'query must be "all", "none" or a table with only or except, not {setting!r}')
    unknown = set(setting) - {"only", "except", "sort"}
    if unknown or ("only" in setting) == ("except" in setting):
        raise ValueError("query needs either only or except, and may have sort")
    wanted = "only" in setting
    listed = setting["only" if wanted else "except"]
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ValueError("the parameters of query must be a list of names")
    names = frozenset(str(name).encode("utf-8") for name in listed)
    sort = bool(setting.get("sort", True))

    def keep(query: bytes) -> bytes:
        # Upstreams disagree about these, so that a parameter could hide in another one's value: all of it counts.
        if b";" in query or _BROKEN_ESCAPE.search(query) is not None:
            return query
        kept = [pair for pair in query.split(b"&") if pair and (parameter_name(pair) in names) == wanted]
        if sort:
            kept.sort(key=parameter_name)
        return b"&".join(kept)

    return keep


def parameter_name(pair: bytes) -> bytes:
    """The name of ``name=value`` as an upstream reads it."""
    name = pair.partition(b"=")[0]
    return unquote_to_bytes(name.replace(b"+", b" ")) if b"%" in name or b"+" in name else name


def public_url(scheme: str | bytes, host: bytes, target: bytes) -> bytes:
    """The URL in the form in which it is compared: scheme and host in lower case, no default port."""
    scheme = (scheme if isinstance(scheme, bytes) else scheme.encode("ascii", "replace")).lower()
    host = host.lower()
    port = _DEFAULT_PORTS.get(scheme)
    if port is not None and host.endswith(port):
        host = host[: -len(port)]
    return b"%b://%b%b" % (scheme, host, target)


def parse_public_url(url: str) -> bytes:
    """An absolute URL, or the beginning of one, in the form of ``public_url``. Raises ValueError for anything else."""
    raw = _NEEDS_ESCAPE.sub(lambda match: b"%%%02X" % match[0][0], url.strip().encode("utf-8")).partition(b"#")[0]
    scheme, mark, rest = raw.partition(b"://")
    if not mark or scheme.lower() not in _DEFAULT_PORTS or not rest:
        raise ValueError(f"not an absolute http or https URL: {url!r}")
    end = min((index for index in (rest.find(b"/"), rest.find(b"?")) if index >= 0), default=len(rest))
    if not end:
        raise ValueError(f"a URL without a host: {url!r}")
    return public_url(scheme, rest[:end], rest[end:])


def with_root(url: bytes) -> bytes:
    """``url`` with the path that every URL has: ``https://host`` is ``https://host/``."""
    head, mark, rest = url.partition(b"://")
    host, question, query = rest.partition(b"?")
    return url if b"/" in host else b"%b%b%b/%b%b" % (head, mark, host, question, query)


def covers(url: bytes, stored: bytes) -> bool:
    """Whether ``url`` would be answered from what is stored under ``stored``, a URL with a part of its query."""
    path, _, query = url.partition(b"?")
    stored_path, _, stored_query = stored.partition(b"?")
    if path != stored_path:
        return False
    remaining = query.split(b"&")
    for pair in stored_query.split(b"&") if stored_query else ():
        if pair not in remaining:
            return False
        remaining.remove(pair)
    return True


def same_origin_url(base: bytes, reference: bytes) -> bytes | None:
    """The public URL that a Location names, seen from ``base``; None unless its origin is the same.

    RFC 9111 section 4.4: one site must not invalidate what is stored for another.
    """
    reference = reference.strip(b" \t").partition(b"#")[0]
    scheme, _, rest = base.partition(b"://")
    host = rest.partition(b"/")[0].partition(b"?")[0]
    origin = b"%b://%b" % (scheme, host)
    if reference.startswith(b"//"):
        reference = b"%b:%b" % (scheme, reference)
    if b"://" in reference.partition(b"?")[0]:
        try:
            url = with_root(parse_public_url(reference.decode("latin-1")))
        except ValueError:
            return None
        return url if url.startswith(origin + b"/") else None
    if reference.startswith(b"/"):
        return origin + reference
    if not reference or b":" in reference.partition(b"/")[0]:
        return None
    path = base[len(origin) :].partition(b"?")[0]
    if reference.startswith(b"?"):
        return origin + path + reference
    return origin + _merge(path, reference)


def _merge(path: bytes, reference: bytes) -> bytes:
    """A relative path on top of ``path``, RFC 3986 section 5.2."""
    relative, mark, query = reference.partition(b"?")
    segments: list[bytes] = []
    whole = path.rpartition(b"/")[0].split(b"/") + relative.split(b"/")
    for segment in whole:
        if segment == b"..":
            if len(segments) > 1:
                segments.pop()
        elif segment != b".":
            segments.append(segment)
    if whole[-1] in (b".", b".."):
        segments.append(b"")
    return b"/".join(segments) + mark + query
