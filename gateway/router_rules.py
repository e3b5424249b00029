"""What a route asks of a request, and which of two routes that both apply wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Scope

from gateway.http.cookies import cookie_value
from gateway.http.fields import get_all, get_first
from gateway.http.networks import Networks
from gateway.http.target import RequestPath
from gateway.patterns import ANY_HOST_RANK, EVERY_PATH, HostPattern, PathPattern, compile_regex

DEFAULT_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
"""What Allow names for a route that takes every method."""

ON_REQUEST = frozenset(["TRACE", "CONNECT"])
"""Methods that a route takes only by name: TRACE shows what proxies added, CONNECT asks for a tunnel."""

PRESENT = "*"

Precedence = tuple[int, tuple[int, int], tuple[int, ...], int, int]
_NO_PARAMS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class When:
    """Further conditions of a route, all of which must hold.

    Values by name: ``*`` is present with any value, ``~`` stands before a regular expression that is matched from the
    start, anything else is the very value. Of a header or query parameter that is repeated one value is enough.
    ``client`` are networks, of which one must hold the client.
    """

    header: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    cookie: tuple[tuple[str, str], ...] = ()
    client: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.header) + len(self.query) + len(self.cookie) + bool(self.client)

    def covers(self, other: When) -> bool:
        """Whether these conditions hold whenever those of ``other`` do; False when that cannot be seen."""
        return (
            set(self.header) <= set(other.header)
            and set(self.query) <= set(other.query)
            and set(self.cookie) <= set(other.cookie)
            and (not self.client or self.client == other.client)
        )


@dataclass(frozen=True)
class RouteRule:
    """When a route applies. No ``hosts``: any; no ``paths``: every one; no ``methods``: all but TRACE.

    ``position`` is its order in the file, ``target`` whatever the caller wants back.
    """

    name: str
    paths: tuple[PathPattern, ...] = ()
    hosts: tuple[HostPattern, ...] = ()
    methods: frozenset[str] | None = None
    when: When = When()
    priority: int = 0
    position: int = 0
    target: Any = field(default=None, compare=False)

    @property
    def places(self) -> list[tuple[HostPattern | None, PathPattern]]:
        """Each host with each path."""
        return [(host, path) for host in self.hosts or (None,) for path in self.paths or (EVERY_PATH,)]

    @property
    def accepted_methods(self) -> frozenset[str] | None:
        """``methods`` with HEAD beside GET."""
        if self.methods is not None and "GET" in self.methods:
            return self.methods | {"HEAD"}
        return self.methods

    @property
    def condition_count(self) -> int:
        """How many conditions it has beside host and path."""
        return len(self.when) + (self.methods is not None)

    def precedence(self, host: HostPattern | None, path: PathPattern) -> Precedence:
        """Sorts before that of every rule that gives way, when both match by these patterns."""
        host_rank = ANY_HOST_RANK if host is None else host.rank
        return (-self.priority, host_rank, path.rank, -self.condition_count, self.position)


class Match:
    """The rule that a request takes; ``params`` are the client's bytes of the names in its path."""

    __slots__ = ("params", "rule")

    def __init__(self, rule: RouteRule, params: Mapping[str, bytes] = _NO_PARAMS) -> None:
        self.rule = rule
        self.params = params


class Entry:
    """A rule at one of its places, compiled."""

    __slots__ = ("condition", "host", "methods", "path", "plain_match", "precedence", "priority", "rule")

    def __init__(self, rule: RouteRule, host: HostPattern | None, path: PathPattern) -> None:
        self.rule = rule
        self.host = host
        self.path = path
        self.priority = rule.priority
        self.precedence = rule.precedence(host, path)
        self.methods = rule.accepted_methods
        self.condition = Condition(rule.when) if len(rule.when) else None
        # Without names every match is the same one.
        self.plain_match = None if path.names else Match(rule)

    def admits(self, method: str) -> bool:
        """Whether the method is one of the rule's."""
        return method not in ON_REQUEST if self.methods is None else method in self.methods

    def failure(self, scope: Scope, client: str) -> str:
        """The first condition of ``when`` that does not hold, in words; empty when all do."""
        return "" if self.condition is None else self.condition.failure(scope, client)

    def match(self, path: RequestPath) -> Match:
        """The match of a path that this entry's pattern admits."""
        return self.plain_match or Match(self.rule, self._params(path))

    def _params(self, path: RequestPath) -> dict[str, bytes]:
        params = {}
        raw = path.raw_segments
        names = iter(self.path.names)
        for index, segment in enumerate(self.path.segments):
            if segment is None:
                params[next(names)] = raw[index]
        if self.path.tail_name:
            params[self.path.tail_name] = path.tail(len(self.path.segments))
        return params


class Condition:
    """The conditions of a ``When``, compiled. Raises ValueError for regular expressions that are none."""

    __slots__ = ("_client", "_tests")

    def __init__(self, when: When) -> None:
        self._tests = [
            *(_Test("header", name, wanted) for name, wanted in when.header),
            *(_Test("query", name, wanted) for name, wanted in when.query),
            *(_Test("cookie", name, wanted) for name, wanted in when.cookie),
        ]
        self._client = Networks(when.client) if when.client else None

    def holds(self, scope: Scope, client: str) -> bool:
        """Whether all conditions hold for a request of ``client``."""
        return not self.failure(scope, client)

    def failure(self, scope: Scope, client: str) -> str:
        """The first condition that does not hold, in words; empty when all do."""
        for test in self._tests:
            if not test.holds(scope):
                return test.text
        if self._client is not None and not self._client.contains(client):
            return f"the client {client} is in none of its networks"
        return ""


class _Test:
    """The values that a request has under one name against what is wanted of one of them."""

    __slots__ = ("_kind", "_matches", "_name", "_wanted", "text")

    def __init__(self, kind: str, name: str, wanted: str) -> None:
        self._kind = kind
        self._name = (name.lower() if kind == "header" else name).encode("utf-8")
        self._wanted = None if wanted == PRESENT else wanted.encode("utf-8")
        self._matches = compile_regex(wanted[1:]) if wanted.startswith("~") else None
        self.text = f"{kind} {name} is not {'present' if wanted == PRESENT else wanted}"

    def holds(self, scope: Scope) -> bool:
        values = self._values(scope)
        if self._matches is not None:
            matches = self._matches
            return any(matches(value.decode("utf-8", "replace")) for value in values)
        return bool(values) if self._wanted is None else self._wanted in values

    def _values(self, scope: Scope) -> list[bytes]:
        if self._kind == "header":
            return get_all(scope["headers"], self._name)
        if self._kind == "cookie":
            value = cookie_value(scope["headers"], self._name)
            return [] if value is None else [value]
        name = self._name
        # As latin-1 bytes go through unharmed, however they are escaped.
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return [value.encode("latin-1") for key, value in pairs if key.encode("latin-1") == name]


def effective_method(method: str, scope: Scope) -> str:
    """The method that routes are matched by: a CORS preflight asks on behalf of another (Fetch, section 3.2.2)."""
    if method == "OPTIONS":
        headers = scope["headers"]
        wanted = get_first(headers, b"access-control-request-method")
        if wanted is not None and get_first(headers, b"origin") is not None:
            return wanted.decode("latin-1")
    return method
