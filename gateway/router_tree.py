"""The compiled table: a dict of hosts and, for each host, a tree of path segments.

A search descends in order of precedence: the most specific host first; literal before name before tail, exact before
prefix, regular expressions last. The first entry that holds wins among those of its priority, and subtrees without a
higher priority are passed over. The cost is that of the path's length, not of the number of routes; only regular
expressions of one host, and routes that share host and path, are tried one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.types import Scope

from gateway.http.target import RequestPath
from gateway.patterns import EVERY_PATH, HostPattern, PathPattern, Segment
from gateway.router_rules import ON_REQUEST, Entry, Precedence, RouteRule

_NOTHING = -(2**63)
"""The priority of a subtree without entries: no integer of TOML is lower."""


class Places:
    """Every entry of a table, found by host and path."""

    __slots__ = ("_any", "_exact", "_wildcards")

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        self._exact: dict[str, _Tree] = {}
        self._wildcards: dict[str, _Tree] = {}
        self._any = _Tree()
        for rule in rules:
            for host, path in rule.places:
                self._tree(host).add(Entry(rule, host, path))
        for tree in (*self._exact.values(), *self._wildcards.values(), self._any):
            tree.finish()

    def _tree(self, host: HostPattern | None) -> _Tree:
        if host is None:
            return self._any
        return (self._wildcards if host.is_wildcard else self._exact).setdefault(host.name, _Tree())

    def first(self, method: str, host: str, path: RequestPath, scope: Scope, client: str) -> Entry | None:
        """The entry that wins among those whose conditions all hold."""
        tree = self._exact.get(host)
        best = None if tree is None else tree.first(None, method, path, scope, client)
        if self._wildcards:
            for tree in self._wildcards_of(host):
                best = tree.first(best, method, path, scope, client)
        return self._any.first(best, method, path, scope, client)

    def candidates(self, host: str, path: RequestPath) -> Iterator[Entry]:
        """Every entry whose host and path match, whatever its other conditions."""
        for tree in self._trees(host):
            yield from tree.candidates(path)

    def covering(self, host: HostPattern | None, path: PathPattern) -> Iterator[Entry]:
        """Every entry that is seen to match whatever ``host`` and ``path`` do."""
        for tree in self._trees("" if host is None else host.text):
            yield from tree.covering(path)

    def _trees(self, host: str) -> Iterator[_Tree]:
        """The trees that a host, or the text of a host pattern, belongs to, the most specific first."""
        tree = self._exact.get(host)
        if tree is not None:
            yield tree
        yield from self._wildcards_of(host)
        yield self._any

    def _wildcards_of(self, host: str) -> Iterator[_Tree]:
        dot = host.find(".")
        while dot >= 0:
            tree = self._wildcards.get(host[dot + 1 :])
            if tree is not None:
                yield tree
            dot = host.find(".", dot + 1)


class _Tree:
    """The paths under one host."""

    __slots__ = ("_regexes", "_root")

    def __init__(self) -> None:
        self._root = _Node()
        self._regexes: list[Entry] = []

    def add(self, entry: Entry) -> None:
        path = entry.path
        if path.regex:
            self._regexes.append(entry)
            return
        node = self._root
        for segment in path.segments:
            node = node.child(segment)
        node.leaf(path).append(entry)

    def finish(self) -> None:
        """Put the entries in order of precedence."""
        self._root.finish()
        self._regexes.sort(key=precedence_of)

    def first(self, best: Entry | None, method: str, path: RequestPath, scope: Scope, client: str) -> Entry | None:
        """The entry that wins here, if it wins over ``best``."""
        if best is None or self._root.top > best.priority:
            best = _first_below(self._root, 0, best, method, path, scope, client)
        if self._regexes and (best is None or self._regexes[0].priority > best.priority):
            # Regular expressions are equally specific: conditions and position decide among all of them.
            decoded = path.decoded
            matching = (entry for entry in self._regexes if entry.path.match_regex(decoded))
            best = _first_of(matching, best, method, scope, client)
        return best

    def candidates(self, path: RequestPath) -> Iterator[Entry]:
        yield from _matching_below(self._root, 0, path)
        if self._regexes:
            decoded = path.decoded
            yield from (entry for entry in self._regexes if entry.path.match_regex(decoded))

    def covering(self, path: PathPattern) -> Iterator[Entry]:
        if path.regex:
            yield from self._root.leaf(EVERY_PATH)
            yield from (entry for entry in self._regexes if entry.path == path)
        else:
            yield from _covering_below(self._root, 0, path)


class _Node:
    """One segment of a path. ``exact`` ends here, ``slash`` with a slash after it, ``tail`` with anything below.

    ``top`` is the highest priority here and below.
    """

    __slots__ = ("exact", "literals", "name", "slash", "tail", "top")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.name: _Node | None = None
        self.exact: list[Entry] = []
        self.slash: list[Entry] = []
        self.tail: list[Entry] = []
        self.top = _NOTHING

    def child(self, segment: Segment) -> _Node:
        if segment is not None:
            return self.literals.setdefault(segment, _Node())
        if self.name is None:
            self.name = _Node()
        return self.name

    def leaf(self, path: PathPattern) -> list[Entry]:
        if path.has_tail:
            return self.tail
        return self.slash if path.ends_with_slash else self.exact

    def finish(self) -> None:
        tops = [_NOTHING]
        for leaf in (self.exact, self.slash, self.tail):
            if leaf:
                leaf.sort(key=precedence_of)
                tops.append(leaf[0].priority)
        for node in (*self.literals.values(), *([self.name] if self.name is not None else [])):
            node.finish()
            tops.append(node.top)
        self.top = max(tops)


def precedence_of(entry: Entry) -> Precedence:
    """Sorts before that of every entry that gives way."""
    return entry.precedence


# Functions with every argument spelt out: an object for them costs more than the search of a short path.


def _first_below(
    node: _Node, depth: int, best: Entry | None, method: str, path: RequestPath, scope: Scope, client: str
) -> Entry | None:
    """The entry that wins at or below ``node``, if it wins over ``best``."""
    segments = path.segments
    if depth == len(segments):
        leaf = node.slash if path.trailing_slash else node.exact
        if leaf:
            best = _first_of(leaf, best, method, scope, client)
    else:
        child = node.literals.get(segments[depth])
        if child is not None and (best is None or child.top > best.priority):
            best = _first_below(child, depth + 1, best, method, path, scope, client)
        child = node.name
        if child is not None and (best is None or child.top > best.priority):
            best = _first_below(child, depth + 1, best, method, path, scope, client)
    if node.tail:
        best = _first_of(node.tail, best, method, scope, client)
    return best


def _first_of(entries: Iterable[Entry], best: Entry | None, method: str, scope: Scope, client: str) -> Entry | None:
    """The first of ``entries`` that holds, if it has a higher priority than ``best``; they are in order."""
    for entry in entries:
        if best is not None and entry.priority <= best.priority:
            return best
        methods = entry.methods
        if (method in methods if methods is not None else method not in ON_REQUEST) and (
            entry.condition is None or entry.condition.holds(scope, client)
        ):
            return entry
    return best


def _matching_below(node: _Node, depth: int, path: RequestPath) -> Iterator[Entry]:
    if depth == len(path.segments):
        yield from node.slash if path.trailing_slash else node.exact
    else:
        child = node.literals.get(path.segments[depth])
        if child is not None:
            yield from _matching_below(child, depth + 1, path)
        if node.name is not None:
            yield from _matching_below(node.name, depth + 1, path)
    yield from node.tail


def _covering_below(node: _Node, depth: int, path: PathPattern) -> Iterator[Entry]:
    if depth < len(path.segments):
        segment = path.segments[depth]
        child = node.literals.get(segment) if segment is not None else None
        if child is not None:
            yield from _covering_below(child, depth + 1, path)
        if node.name is not None:
            yield from _covering_below(node.name, depth + 1, path)
    elif not path.has_tail:
        yield from node.leaf(path)
    yield from node.tail
