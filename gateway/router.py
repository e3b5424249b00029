"""Which route a request takes, and why.

Among the rules whose conditions all hold: the highest priority; the most specific host; the most specific path, by the
leftmost segment that differs; more conditions; the earlier in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Scope

from gateway.errors import BadRequest, MethodNotAllowed, RouteNotFound
from gateway.http.target import RequestPath
from gateway.router_rules import (
    DEFAULT_METHODS,
    ON_REQUEST,
    PRESENT,
    Entry,
    Match,
    Precedence,
    RouteRule,
    When,
    effective_method,
)
from gateway.router_tree import Places, precedence_of

__all__ = [
    "DEFAULT_METHODS",
    "PRESENT",
    "Match",
    "RouteRule",
    "RouteTable",
    "Verdict",
    "When",
    "effective_method",
]


@dataclass(frozen=True)
class Verdict:
    """Whether a rule is the one that a request takes, and why or why not."""

    rule: RouteRule
    matched: bool
    reason: str


class RouteTable:
    """Rules, compiled. Raises ValueError for a condition with a regular expression that is none."""

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        self.rules = tuple(rules)
        self._places = Places(self.rules)
        self.has_conditions = any(len(rule.when) for rule in self.rules)
        """Whether more than host, path and method decides about a route."""

    def match(self, method: str, host: str, path: RequestPath, scope: Scope, client: str) -> Match:
        """The rule for a request.

        ``host`` is in lower case without port, ``client`` the address of the client. Raises RouteNotFound,
        MethodNotAllowed when every rule for host and path fails by the method alone, and BadRequest when an upstream
        that takes encoded slashes and backslashes for separators could read the path as that of a stricter route, or
        for ``*`` with another method than OPTIONS.
        """
        if not path.segments and path.raw == b"*" and method != "OPTIONS":
            raise BadRequest("only OPTIONS has the target *")
        asked = effective_method(method, scope) if method == "OPTIONS" else method
        entry = self._places.first(asked, host, path, scope, client)
        if entry is None:
            raise self._refusal(asked, host, path, scope, client)
        if path.second is not None:
            other = self._places.first(asked, host, path.second, scope, client)
            if other is not None and other.rule is not entry.rule and other.precedence < entry.precedence:
                raise BadRequest(f"the path could be read as one of the route {other.rule.name!r}")
        return entry.plain_match or entry.match(path)

    def _refusal(
        self, method: str, host: str, path: RequestPath, scope: Scope, client: str
    ) -> RouteNotFound | MethodNotAllowed:
        allowed: set[str] = set()
        for entry in self._places.candidates(host, path):
            if entry.admits(method) or entry.failure(scope, client):
                return RouteNotFound("no route matches host, path and conditions")
            allowed |= DEFAULT_METHODS if entry.methods is None else entry.methods
        if not allowed:
            return RouteNotFound("no route matches host and path")
        value = ", ".join(sorted(allowed)).encode("ascii")
        return MethodNotAllowed("only the method keeps routes out", headers=[(b"allow", value)])

    def in_order(self) -> list[RouteRule]:
        """The rules in the order in which they win."""
        return sorted(self.rules, key=_best_precedence)

    def explain(self, method: str, host: str, path: RequestPath, scope: Scope, client: str) -> list[Verdict]:
        """A verdict on every rule, in matching order."""
        asked = effective_method(method, scope)
        chosen = self._places.first(asked, host, path, scope, client)
        candidates: dict[int, Entry] = {}
        for entry in sorted(self._places.candidates(host, path), key=precedence_of):
            candidates.setdefault(id(entry.rule), entry)
        verdicts = []
        for rule in self.in_order():
            candidate = candidates.get(id(rule))
            if chosen is not None and rule is chosen.rule:
                verdicts.append(Verdict(rule, True, _why_chosen(chosen, asked, method)))
            elif candidate is None:
                verdicts.append(Verdict(rule, False, _why_no_candidate(rule, host)))
            else:
                verdicts.append(Verdict(rule, False, _why_not(candidate, asked, scope, client, chosen)))
        return verdicts

    def shadowed(self) -> list[tuple[RouteRule, RouteRule]]:
        """Rules that can never win, each with one that always wins over it; only those where that can be seen."""
        found = []
        for rule in self.rules:
            # A winner covers every place of the rule, so it is among those that cover the first.
            covering = sorted(self._places.covering(*rule.places[0]), key=precedence_of)
            winners = (entry.rule for entry in covering if entry.rule is not rule and _shadows(entry.rule, rule))
            winner = next(winners, None)
            if winner is not None:
                found.append((rule, winner))
        return found


def _best_precedence(rule: RouteRule) -> Precedence:
    return min(rule.precedence(host, path) for host, path in rule.places)


def _shadows(winner: RouteRule, rule: RouteRule) -> bool:
    """Whether ``winner`` takes every request that ``rule`` could; False when that cannot be seen."""
    if not winner.when.covers(rule.when) or not _covers_methods(winner.accepted_methods, rule.accepted_methods):
        return False
    return all(
        any(
            (winner_host is None or (host is not None and winner_host.covers(host)))
            and winner_path.covers(path)
            and winner.precedence(winner_host, winner_path) < rule.precedence(host, path)
            for winner_host, winner_path in winner.places
        )
        for host, path in rule.places
    )


def _covers_methods(methods: frozenset[str] | None, others: frozenset[str] | None) -> bool:
    if methods is None:
        return others is None or others.isdisjoint(ON_REQUEST)
    return others is not None and others <= methods


def _why_chosen(entry: Entry, asked: str, method: str) -> str:
    host = "any host" if entry.host is None else f"host {entry.host.text}"
    reason = f"{host}, path {entry.path.text}"
    if asked != method:
        reason += f", as the preflight of {asked}"
    count = entry.rule.condition_count
    if count:
        reason += f", {count} further condition{'s' if count > 1 else ''}"
    return reason + (f", priority {entry.rule.priority}" if entry.rule.priority else "")


def _why_no_candidate(rule: RouteRule, host: str) -> str:
    if rule.hosts and not any(pattern.matches(host) for pattern in rule.hosts):
        return f"the host {host} is not {_either(pattern.text for pattern in rule.hosts)}"
    return f"the path is not {_either(pattern.text for pattern in rule.paths)}"


def _why_not(candidate: Entry, method: str, scope: Scope, client: str, chosen: Entry | None) -> str:
    if not candidate.admits(method):
        methods = candidate.methods
        wanted = "which a route must name" if methods is None else f"not {_either(sorted(methods))}"
        return f"the method is {method}, {wanted}"
    failure = candidate.failure(scope, client)
    if failure or chosen is None:
        return failure
    return f"matches too, but gives way to {chosen.rule.name!r}: {_difference(chosen, candidate)}"


def _difference(winner: Entry, loser: Entry) -> str:
    """The first step of precedence in which two entries differ."""
    steps = ("a higher priority", "a more specific host", "a more specific path", "more conditions")
    pairs = zip(steps, winner.precedence, loser.precedence, strict=False)
    return next((step for step, left, right in pairs if left != right), "earlier in the file")


def _either(texts: Iterable[str]) -> str:
    return " or ".join(texts)
