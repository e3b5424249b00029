"""Which route a request takes, and why.

The table is compiled into a dict of hosts and, for each host, a tree of path segments that is walked in order of
precedence: literal before name before tail, exact before prefix, regular expressions last. The walk ends at the first
route whose conditions hold, so its cost is that of the path's length, not of the number of routes. Only regular
expressions are tried one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Scope

from gateway.errors import BadRequest, MethodNotAllowed, RouteNotFound
from gateway.http.cookies import cookie_value
from gateway.http.fields import get_all, get_first
from gateway.http.networks import Networks
from gateway.http.target import RequestPath
from gateway.patterns import ANY_HOST_RANK, HostPattern, PathPattern

DEFAULT_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
"""What Allow names for a route that takes every method. TRACE needs to be asked for: it shows what proxies added."""

PRESENT = "*"
_NO_PARAMS: Mapping[str, bytes] = {}


@dataclass(frozen=True)
class When:
    """Further conditions of a route: values by name, ``*`` for present, ``~`` before a regular expression."""

    header: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    cookie: tuple[tuple[str, str], ...] = ()
    client: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.header) + len(self.query) + len(self.cookie) + bool(self.client)

    def covers(self, other: When) -> bool:
        """Whether these conditions hold whenever those of ``other`` do."""
        return (
            set(self.header) <= set(other.header)
            and set(self.query) <= set(other.query)
            and set(self.cookie) <= set(other.cookie)
            and (not self.client or self.client == other.client)
        )


@dataclass(frozen=True)
class RouteRule:
    """When a route applies. ``target`` is whatever the caller wants back; no ``hosts``: any, no ``methods``: all."""

    name: str
    paths: tuple[PathPattern, ...]
    hosts: tuple[HostPattern, ...] = ()
    methods: frozenset[str] | None = None
    when: When = When()
    priority: int = 0
    position: int = 0
    target: Any = field(default=None, compare=False)

    @property
    def condition_count(self) -> int:
        return len(self.when) + (self.methods is not None)

    def precedence(self, host: HostPattern | None, path: PathPattern) -> tuple[Any, ...]:
        """Sorts before that of every rule that gives way, when both match by these patterns."""
        host_rank = ANY_HOST_RANK if host is None else host.rank
        return (-self.priority, host_rank, path.rank, -self.condition_count, self.position)


@dataclass(frozen=True)
class Verdict:
    """Whether a rule is the one that a request takes, and why or why not."""

    rule: RouteRule
    matched: bool
    reason: str


class Match:
    """The rule that a request takes; ``params`` are the client's bytes of the names in its path."""

    __slots__ = ("entry", "params", "rule")

    def __init__(self, entry: _Entry, params: Mapping[str, bytes]) -> None:
        self.entry = entry
        self.rule = entry.rule
        self.params = params


class RouteTable:
    """Rules in order of precedence."""

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        self.rules = tuple(rules)
        levels: dict[int, _Level] = {}
        for rule in self.rules:
            level = levels.setdefault(rule.priority, _Level())
            for path in rule.paths:
                for host in rule.hosts or (None,):
                    level.add(host, path, _Entry(rule, host, path))
        self._levels = [levels[priority] for priority in sorted(levels, reverse=True)]
        for level in self._levels:
            level.finish()

    def match(self, method: str, host: str, path: RequestPath, scope: Scope, client: str) -> Match:
        """The rule for a request.

        Raises RouteNotFound, MethodNotAllowed when the method alone failed, and BadRequest when an upstream that takes
        encoded slashes and backslashes for separators could read the path as that of a stricter route.
        """
        method = effective_method(method, scope)
        refused: list[_Entry] = []
        entry = self._first(method, host, path, scope, client, refused)
        if entry is None:
            raise _not_matched(refused)
        if path.second is not None:
            other = self._first(method, host, path.second, scope, client, [])
            if other is not None and other.rule is not entry.rule and other.precedence < entry.precedence:
                raise BadRequest(f"the path could be read as one of the route {other.rule.name!r}")
        return Match(entry, entry.params(path) if entry.path.names else _NO_PARAMS)

    def _first(
        self, method: str, host: str, path: RequestPath, scope: Scope, client: str, refused: list[_Entry]
    ) -> _Entry | None:
        """The first entry whose conditions all hold; those that only the method keeps out are added to ``refused``."""
        for level in self._levels:
            for tree in level.trees(host):
                for leaf in tree.walk(path):
                    for entry in leaf:
                        if entry.methods is not None and method not in entry.methods:
                            if entry.condition is None or entry.condition.holds(scope, client):
                                refused.append(entry)
                        elif entry.condition is None or entry.condition.holds(scope, client):
                            return entry
        return None

    def in_order(self) -> list[RouteRule]:
        """The rules in the order in which they win."""
        return sorted(self.rules, key=_best_precedence)

    def explain(self, method: str, host: str, path: RequestPath, scope: Scope, client: str) -> list[Verdict]:
        """A verdict on every rule, in matching order."""
        asked = effective_method(method, scope)
        chosen = self._first(asked, host, path, scope, client, [])
        verdicts = []
        for rule in self.in_order():
            if chosen is not None and rule is chosen.rule:
                verdicts.append(Verdict(rule, True, _why_chosen(chosen, asked, method)))
            else:
                verdicts.append(Verdict(rule, False, _why_not(rule, asked, host, path, scope, client, chosen)))
        return verdicts

    def shadowed(self) -> list[tuple[RouteRule, RouteRule]]:
        """Rules that can never win, each with one that always wins over it."""
        found = []
        by_place: dict[Any, list[RouteRule]] = {}
        for rule in self.rules:
            for path in rule.paths:
                by_place.setdefault(path, []).append(rule)
        broad = [rule for rule in self.rules if rule.priority > min(other.priority for other in self.rules)]
        for rule in self.rules:
            candidates = {id(other): other for path in rule.paths for other in by_place[path]}
            candidates |= {id(other): other for other in broad}
            winner = next((other for other in candidates.values() if other is not rule and _shadows(other, rule)), None)
            if winner is not None:
                found.append((rule, winner))
        return found


def effective_method(method: str, scope: Scope) -> str:
    """The method that routes are matched by: a CORS preflight asks on behalf of another (Fetch, section 3.2.2)."""
    if method == "OPTIONS":
        headers = scope["headers"]
        wanted = get_first(headers, b"access-control-request-method")
        if wanted is not None and get_first(headers, b"origin") is not None:
            return wanted.decode("latin-1")
    return method


class _Entry:
    """A rule at one of its places: one host with one path."""

    __slots__ = ("condition", "host", "methods", "path", "precedence", "rule")

    def __init__(self, rule: RouteRule, host: HostPattern | None, path: PathPattern) -> None:
        self.rule = rule
        self.host = host
        self.path = path
        self.precedence = rule.precedence(host, path)
        methods = rule.methods
        if methods is not None and "GET" in methods:
            methods = methods | {"HEAD"}
        self.methods: _Methods = _ALL_BUT_TRACE if methods is None else methods
        self.condition = _Condition(rule.when) if len(rule.when) else None

    def params(self, path: RequestPath) -> dict[str, bytes]:
        params = {}
        names = iter(self.path.names)
        for index, segment in enumerate(self.path.segments):
            if segment is None:
                params[next(names)] = path.raw_segment(index)
        if self.path.tail_name:
            params[self.path.tail_name] = path.tail(len(self.path.segments))
        return params


class _AllBut:
    """Every method except a few."""

    def __init__(self, *excluded: str) -> None:
        self._excluded = excluded

    def __contains__(self, method: str) -> bool:
        return method not in self._excluded

    def __iter__(self) -> Iterator[str]:
        return iter(DEFAULT_METHODS)


_Methods = frozenset[str] | _AllBut
_ALL_BUT_TRACE = _AllBut("TRACE", "CONNECT")


class _Level:
    """All entries of one priority, by host."""

    def __init__(self) -> None:
        self._exact: dict[str, _Tree] = {}
        self._wildcard: dict[str, _Tree] = {}
        self._any: _Tree | None = None

    def add(self, host: HostPattern | None, path: PathPattern, entry: _Entry) -> None:
        if host is None:
            if self._any is None:
                self._any = _Tree()
            tree = self._any
        else:
            tree = (self._wildcard if host.is_wildcard else self._exact).setdefault(host.name, _Tree())
        tree.add(path, entry)

    def finish(self) -> None:
        for tree in (*self._exact.values(), *self._wildcard.values(), *([self._any] if self._any else [])):
            tree.finish()

    def trees(self, host: str) -> Iterator[_Tree]:
        """The trees that a host belongs to, the most specific first."""
        tree = self._exact.get(host)
        if tree is not None:
            yield tree
        if self._wildcard:
            dot = host.find(".")
            while dot >= 0:
                tree = self._wildcard.get(host[dot + 1 :])
                if tree is not None:
                    yield tree
                dot = host.find(".", dot + 1)
        if self._any is not None:
            yield self._any


class _Tree:
    """The paths under one host."""

    __slots__ = ("_regexes", "_root")

    def __init__(self) -> None:
        self._root = _Node()
        self._regexes: dict[PathPattern, list[_Entry]] = {}

    def add(self, path: PathPattern, entry: _Entry) -> None:
        if path.regex:
            self._regexes.setdefault(path, []).append(entry)
            return
        node = self._root
        for segment in path.segments:
            node = node.child(segment)
        node.leaf(path).append(entry)

    def finish(self) -> None:
        """Put the entries of each leaf in order of precedence."""
        self._root.finish()
        for leaf in self._regexes.values():
            leaf.sort(key=_entry_precedence)

    def walk(self, path: RequestPath) -> Iterator[list[_Entry]]:
        """The leaves that match ``path``, the most specific first."""
        yield from self._root.walk(path, 0)
        if self._regexes:
            decoded = path.decoded
            matching = [leaf for pattern, leaf in self._regexes.items() if pattern.search(decoded)]
            # Regular expressions are equally specific: conditions and position decide among all of them.
            yield sorted((entry for leaf in matching for entry in leaf), key=_entry_precedence)


class _Node:
    """One segment of a path. ``exact`` ends here, ``slash`` with a slash after it, ``tail`` with anything below."""

    __slots__ = ("exact", "literals", "name", "slash", "tail")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.name: _Node | None = None
        self.exact: list[_Entry] = []
        self.slash: list[_Entry] = []
        self.tail: list[_Entry] = []

    def child(self, segment: bytes | None) -> _Node:
        if segment is None:
            if self.name is None:
                self.name = _Node()
            return self.name
        return self.literals.setdefault(segment, _Node())

    def leaf(self, path: PathPattern) -> list[_Entry]:
        if path.has_tail:
            return self.tail
        return self.slash if path.ends_with_slash else self.exact

    def finish(self) -> None:
        for leaf in (self.exact, self.slash, self.tail):
            leaf.sort(key=_entry_precedence)
        for node in (*self.literals.values(), *([self.name] if self.name else [])):
            node.finish()

    def walk(self, path: RequestPath, depth: int) -> Iterator[list[_Entry]]:
        segments = path.segments
        if depth == len(segments):
            end = self.slash if path.ends_with_slash else self.exact
            if end:
                yield end
        else:
            node = self.literals.get(segments[depth])
            if node is not None:
                yield from node.walk(path, depth + 1)
            if self.name is not None:
                yield from self.name.walk(path, depth + 1)
        if self.tail:
            yield self.tail


class _Condition:
    """The conditions of ``when``, compiled."""

    __slots__ = ("_client", "_tests", "texts")

    def __init__(self, when: When) -> None:
        self._tests = [
            *(_Test("header", name.lower(), wanted) for name, wanted in when.header),
            *(_Test("query", name, wanted) for name, wanted in when.query),
            *(_Test("cookie", name, wanted) for name, wanted in when.cookie),
        ]
        self._client = Networks(when.client) if when.client else None

    def holds(self, scope: Scope, client: str) -> bool:
        return self.failure(scope, client) is None

    def failure(self, scope: Scope, client: str) -> str | None:
        """The first condition that does not hold, in words; None when all do."""
        for test in self._tests:
            if not test.holds(scope):
                return test.text
        if self._client is not None and not self._client.contains(client):
            return f"the client {client} is in none of its networks"
        return None


class _Test:
    """One value of a request against what is wanted of it."""

    __slots__ = ("_kind", "_name", "_regex", "_wanted", "text")

    def __init__(self, kind: str, name: str, wanted: str) -> None:
        self._kind = kind
        self._name = name
        self._wanted = wanted
        self._regex = PathPattern(regex=wanted[1:]).search if wanted.startswith("~") else None
        self.text = f"{kind} {name} is not {'present' if wanted == PRESENT else wanted}"

    def holds(self, scope: Scope) -> bool:
        values = self._values(scope)
        if self._wanted == PRESENT:
            return bool(values)
        if self._regex is not None:
            return any(self._regex(value) for value in values)
        return self._wanted in values

    def _values(self, scope: Scope) -> Sequence[str]:
        if self._kind == "header":
            return [value.decode("latin-1") for value in get_all(scope["headers"], self._name.encode("latin-1"))]
        if self._kind == "cookie":
            value = cookie_value(scope["headers"], self._name.encode("latin-1"))
            return [] if value is None else [value.decode("latin-1")]
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return [value for name, value in pairs if name == self._name]


def _entry_precedence(entry: _Entry) -> tuple[Any, ...]:
    return entry.precedence


def _best_precedence(rule: RouteRule) -> tuple[Any, ...]:
    return min(rule.precedence(host, path) for host in rule.hosts or (None,) for path in rule.paths)


def _not_matched(refused: Sequence[_Entry]) -> RouteNotFound | MethodNotAllowed:
    if not refused:
        return RouteNotFound("no route matches host, path and conditions")
    allowed = sorted({method for entry in refused for method in entry.methods})
    return MethodNotAllowed(
        "only the method keeps routes out", headers=[(b"allow", ", ".join(allowed).encode("ascii"))]
    )


def _shadows(winner: RouteRule, rule: RouteRule) -> bool:
    """Whether ``winner`` takes every request that ``rule`` could; False when that cannot be seen."""
    if not winner.when.covers(rule.when):
        return False
    if winner.methods is not None and (rule.methods is None or not rule.methods <= winner.methods):
        return False
    return all(
        any(
            (winner_host is None or (host is not None and winner_host.covers(host)))
            and winner_path.covers(path)
            and winner.precedence(winner_host, winner_path) < rule.precedence(host, path)
            for winner_host in winner.hosts or (None,)
            for winner_path in winner.paths
        )
        for host in rule.hosts or (None,)
        for path in rule.paths
    )


def _why_chosen(entry: _Entry, asked: str, method: str) -> str:
    host = "any host" if entry.host is None else f"host {entry.host.text}"
    reason = f"{host}, path {entry.path.text}"
    if asked != method:
        reason += f", as the preflight of {asked}"
    if entry.rule.condition_count:
        count = entry.rule.condition_count
        reason += f", {count} further condition{'s' if count > 1 else ''}"
    return reason + (f", priority {entry.rule.priority}" if entry.rule.priority else "")


def _why_not(
    rule: RouteRule, method: str, host: str, path: RequestPath, scope: Scope, client: str, chosen: _Entry | None
) -> str:
    hosts = [pattern for pattern in rule.hosts or (None,) if pattern is None or pattern.matches(host)]
    if not hosts:
        return f"the host {host} is not {' or '.join(pattern.text for pattern in rule.hosts)}"
    paths = [pattern for pattern in rule.paths if _path_matches(pattern, path)]
    if not paths:
        return f"the path is not {' or '.join(pattern.text for pattern in rule.paths)}"
    entry = min((_Entry(rule, place, pattern) for place in hosts for pattern in paths), key=_entry_precedence)
    if method not in entry.methods:
        return f"the method is {method}, not {', '.join(sorted(entry.methods))}"
    failure = entry.condition.failure(scope, client) if entry.condition is not None else None
    if failure is not None:
        return failure
    assert chosen is not None
    return f"matches too, but gives way to {chosen.rule.name!r}: {_difference(chosen, entry)}"


def _difference(winner: _Entry, loser: _Entry) -> str:
    """The first step of precedence in which two entries differ."""
    reasons = (
        "a higher priority",
        "a more specific host",
        "a more specific path",
        "more conditions",
        "earlier in the file",
    )
    steps = zip(winner.precedence, loser.precedence, reasons, strict=True)
    return next(reason for left, right, reason in steps if left != right)


def _path_matches(pattern: PathPattern, path: RequestPath) -> bool:
    tree = _Tree()
    tree.add(pattern, _Entry(RouteRule("", (pattern,)), None, pattern))
    return any(True for leaf in tree.walk(path) if leaf)
