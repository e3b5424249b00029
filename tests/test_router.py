"""Which route wins: tables, a naive reference, and a cost that does not grow with the table."""

from __future__ import annotations

import functools
import gc
import re
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, MethodNotAllowed, RouteNotFound
from gateway.http.target import read_path
from gateway.patterns import parse_host, parse_path
from gateway.router import Match, RouteRule, RouteTable, Verdict, When
from tests.support.messages import Fields, http_scope

HOST = "shop.example.com"
CLIENT = "192.0.2.1"


def rule(
    paths: str = "/*",
    hosts: str = "",
    methods: str = "",
    *,
    name: str = "",
    priority: int = 0,
    position: int = 0,
    **when: dict[str, str] | tuple[str, ...],
) -> RouteRule:
    """A rule from words: several paths, hosts or methods have spaces between."""
    conditions: dict[str, Any] = {
        kind: tuple(wanted.items()) if isinstance(wanted, dict) else wanted for kind, wanted in when.items()
    }
    return RouteRule(
        name=name or " ".join(filter(None, [methods, hosts, paths])),
        paths=tuple(map(parse_path, paths.split())),
        hosts=tuple(map(parse_host, hosts.split())),
        methods=frozenset(methods.split()) or None,
        when=When(**conditions),
        priority=priority,
        position=position,
    )


def match(
    rules: Sequence[RouteRule], target: bytes = b"/", method: str = "GET", headers: Fields = (), host: str = HOST
) -> Match:
    scope = http_scope(method, target, headers)
    return RouteTable(rules).match(method, host, read_path(scope["raw_path"]), scope, CLIENT)


def winner(
    rules: Sequence[RouteRule], target: bytes = b"/", method: str = "GET", headers: Fields = (), host: str = HOST
) -> str:
    """The name of the rule that wins, or the status of the refusal; the order in the file must not matter here."""
    found = set()
    for table in (list(rules), list(reversed(rules))):
        try:
            found.add(match(table, target, method, headers, host).rule.name)
        except (BadRequest, MethodNotAllowed, RouteNotFound) as error:
            found.add(str(error.status))
    (name,) = found
    return name


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/", ["/", "//"], ["/a"]),
        ("/*", ["/", "/a", "/a/b/"], []),
        ("/a/b", ["/a/b", "/a//b", "//a/b", "/%61/b"], ["/a", "/a/b/", "/a/b/c", "/a%2Fb", "/A/b"]),
        ("/a/", ["/a/", "/a//"], ["/a", "/a/b"]),
        ("/a/*", ["/a", "/a/", "/a/b", "/a/b/c/", "//a//b"], ["/ab", "/", "/a%2Fb"]),
        ("/users/{id}/orders", ["/users/7/orders", "/users/a%2Fb/orders"], ["/users/orders", "/users//orders"]),
        ("/{id}", ["/a", "/%20"], ["/", "/a/", "/a/b"]),
        ("/files/{rest*}", ["/files", "/files/", "/files/a/b"], ["/filesystem"]),
        ("/caf\u00e9", ["/caf%C3%A9", "/caf%c3%a9"], ["/cafe"]),
        ("~^/v[0-9]+/", ["/v1/", "/v12/a", "//v1//a", "/%761/"], ["/v1", "/x/v1/"]),
        ("~/v1$", ["/v1"], ["/v1/", "/x/v1", "/v1%0A"]),
    ],
)
def test_paths_match(pattern: str, matching: list[str], others: list[str]) -> None:
    rules = [rule(pattern, name="it")]
    assert {path: winner(rules, path.encode()) for path in matching} == dict.fromkeys(matching, "it")
    assert {path: winner(rules, path.encode()) for path in others} == dict.fromkeys(others, "404")


@pytest.mark.parametrize(
    ("target", "wins"),
    [
        (b"/a/b", "/a/b"),
        (b"/a/b/", "/a/b/*"),
        (b"/a/b/c", "/a/b/*"),
        (b"/a/x", "/a/{x}"),
        (b"/a/x/y", "/a/*"),
        (b"/a", "/a/*"),
        (b"/z/b", "/{x}/b"),
        (b"/z/c", "/*"),
        (b"/v1/c", "/*"),
        (b"/", "/"),
    ],
)
def test_the_most_specific_path_wins(target: bytes, wins: str) -> None:
    texts = ["/*", "/", "/a/*", "/a/{x}", "/a/b", "/a/b/*", "/{x}/b", "~^/v1/"]
    assert winner([rule(text) for text in texts], target) == wins


def test_a_regular_expression_wins_only_where_nothing_else_matches() -> None:
    rules = [rule("~^/v[0-9]+/"), rule("/v1/*")]
    assert winner(rules, b"/v1/a") == "/v1/*"
    assert winner(rules, b"/v2/a") == "~^/v[0-9]+/"


def test_regular_expressions_are_equally_specific() -> None:
    first, second = rule("~^/a", position=0), rule("~^/ab", position=1)
    assert winner([first, second], b"/ab") == "~^/a"
    conditional = rule("~^/a.", "", "GET", name="conditional", position=2)
    assert winner([first, second, conditional], b"/ab") == "conditional"


@pytest.mark.parametrize(
    ("host", "wins"),
    [
        ("a.b.example.com", "a.b.example.com /*"),
        ("x.b.example.com", "*.b.example.com /*"),
        ("y.x.b.example.com", "*.b.example.com /*"),
        ("x.example.com", "*.example.com /*"),
        ("b.example.com", "*.example.com /*"),
        ("example.com", "/deep/path"),
        ("[::1]", "[::1] /*"),
        ("other.example", "/deep/path"),
    ],
)
def test_the_most_specific_host_wins_before_the_path(host: str, wins: str) -> None:
    rules = [
        rule("/deep/path"),
        rule("/*", "*.example.com"),
        rule("/*", "*.b.example.com"),
        rule("/*", "a.b.example.com"),
        rule("/*", "[::1]"),
    ]
    assert winner(rules, b"/deep/path", host=host) == wins


def test_a_less_specific_route_wins_when_the_conditions_of_the_more_specific_one_fail() -> None:
    exact = rule("/a/b", HOST, "POST", name="exact")
    wildcard = rule("/a/{x}", "*.example.com", name="wildcard", header={"X-Beta": "1"})
    fallback = rule("/*", name="fallback")
    rules = [exact, wildcard, fallback]
    assert winner(rules, b"/a/b", "POST") == "exact"
    assert winner(rules, b"/a/b", headers=[(b"x-beta", b"1")]) == "wildcard"
    assert winner(rules, b"/a/b") == "fallback"


def test_a_literal_that_leads_nowhere_gives_way_to_a_name() -> None:
    rules = [rule("/a/b/c"), rule("/{x}/b/d"), rule("/a/{y}/e")]
    assert winner(rules, b"/a/b/c") == "/a/b/c"
    assert winner(rules, b"/a/b/d") == "/{x}/b/d"
    assert winner(rules, b"/a/b/e") == "/a/{y}/e"
    assert winner(rules, b"/a/b/f") == "404"


def test_priority_comes_before_everything() -> None:
    specific = rule("/a/b", HOST, "GET", name="specific", header={"x": "*"})
    raised = rule("~^/a", name="raised", priority=1)
    lowered = rule("/a/b", HOST, name="lowered", priority=-1)
    headers = [(b"x", b"1")]
    assert winner([specific, raised, lowered], b"/a/b", headers=headers) == "raised"
    assert winner([specific, lowered], b"/a/b", headers=headers) == "specific"
    assert winner([lowered], b"/a/b") == "lowered"


def test_more_conditions_win_then_the_earlier_route() -> None:
    plain = rule(name="plain", position=0)
    one = rule(methods="GET", name="one", position=3)
    header = rule(name="header", position=2, header={"a": "*"})
    two = rule(name="two", position=4, header={"a": "*"}, client=("192.0.2.0/24", "198.51.100.0/24"))
    headers = [(b"a", b"1")]
    assert winner([plain, one, header], headers=headers) == "header"
    assert winner([plain, one, header, two], headers=headers) == "two"
    assert winner([plain, one], headers=headers) == "one"


def test_several_networks_are_one_condition() -> None:
    networks = rule(name="networks", position=1, client=("192.0.2.0/24", "198.51.100.0/24"))
    assert winner([rule(name="header", position=0, header={"a": "*"}), networks], headers=[(b"a", b"1")]) == "header"


def test_a_rule_without_paths_is_for_every_path() -> None:
    assert match([RouteRule("every")], b"/a/b").rule.name == "every"


# Methods.


@pytest.mark.parametrize(
    ("methods", "method", "wins"),
    [
        ("GET", "GET", "it"),
        ("GET", "HEAD", "it"),
        ("HEAD", "GET", "405"),
        ("GET", "get", "405"),
        ("POST", "GET", "405"),
        ("", "PROPFIND", "it"),
        ("", "MADE-UP", "it"),
        ("", "TRACE", "405"),
        ("", "CONNECT", "405"),
        ("TRACE", "TRACE", "it"),
    ],
)
def test_methods(methods: str, method: str, wins: str) -> None:
    assert winner([rule(methods=methods, name="it")], method=method) == wins


def test_allow_lists_the_methods_of_every_candidate_with_head_beside_get() -> None:
    rules = [rule("/a", methods="PUT GET"), rule("/{x}", methods="DELETE"), rule("/b", methods="PATCH")]
    with pytest.raises(MethodNotAllowed) as caught:
        match(rules, b"/a", "POST")
    assert caught.value.headers == [(b"allow", b"DELETE, GET, HEAD, PUT")]


def test_allow_of_a_route_for_every_method_does_not_offer_trace() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        match([rule()], b"/a", "TRACE")
    assert caught.value.headers == [(b"allow", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")]


def test_it_is_404_when_a_candidate_fails_by_another_condition() -> None:
    beta = rule("/a", name="beta", header={"X-Beta": "1"})
    assert winner([rule("/a", methods="GET"), beta], b"/a", "POST") == "404"
    assert winner([rule("/a", methods="GET", header={"X-Beta": "1"})], b"/a", "POST") == "404"
    assert winner([rule("/a", methods="GET"), rule("/b", name="other")], b"/a", "POST") == "405"


def test_a_preflight_is_matched_by_the_method_it_asks_for() -> None:
    rules = [rule("/a", methods="PUT", name="put"), rule("/a", methods="OPTIONS", name="options")]
    asks = [(b"origin", b"https://other.example"), (b"access-control-request-method", b"PUT")]
    assert winner(rules, b"/a", "OPTIONS", asks) == "put"
    assert winner(rules, b"/a", "OPTIONS", asks[:1]) == "options"
    assert winner(rules, b"/a", "OPTIONS", asks[1:]) == "options"
    assert winner(rules, b"/a", "OPTIONS", [asks[0], (b"access-control-request-method", b"DELETE")]) == "405"
    assert winner(rules, b"/a", "DELETE", asks) == "405"


def test_the_asterisk_is_for_options_only() -> None:
    assert winner([rule(name="it")], b"*", "OPTIONS") == "it"
    assert winner([rule("/", name="it")], b"*", "OPTIONS") == "it"
    assert winner([rule(name="it")], b"*", "GET") == "400"


# Conditions.


@pytest.mark.parametrize(
    ("when", "headers", "query", "holds"),
    [
        ({"header": {"X-Beta": "1"}}, [(b"x-beta", b"1")], b"", True),
        ({"header": {"X-Beta": "1"}}, [(b"x-beta", b"2")], b"", False),
        ({"header": {"X-Beta": "1"}}, [(b"x-beta", b"2"), (b"x-beta", b"1")], b"", True),
        ({"header": {"X-Beta": "1"}}, [], b"", False),
        ({"header": {"X-Beta": "*"}}, [(b"x-beta", b"")], b"", True),
        ({"header": {"X-Beta": "*"}}, [], b"", False),
        ({"header": {"X-Beta": ""}}, [(b"x-beta", b"")], b"", True),
        ({"header": {"X-Beta": "~v[0-9]+"}}, [(b"x-beta", b"v12-next")], b"", True),
        ({"header": {"X-Beta": "~v[0-9]+$"}}, [(b"x-beta", b"v12-next")], b"", False),
        ({"header": {"X-Beta": "~v[0-9]+"}}, [(b"x-beta", b"dev1")], b"", False),
        ({"header": {"X-Beta": "~.*"}}, [], b"", False),
        ({"header": {"X-City": "Z\u00fcrich"}}, [(b"x-city", "Z\u00fcrich".encode())], b"", True),
        ({"header": {"X-City": "~Z.rich"}}, [(b"x-city", b"Z\xfcrich")], b"", True),
        ({"query": {"v": "2"}}, [], b"v=2", True),
        ({"query": {"v": "2"}}, [], b"v=1&v=2", True),
        ({"query": {"v": "2"}}, [], b"vv=2&V=2", False),
        ({"query": {"v": "a b"}}, [], b"v=a+b", True),
        ({"query": {"v": "caf\u00e9"}}, [], b"%76=caf%C3%A9", True),
        ({"query": {"v": "*"}}, [], b"v", True),
        ({"query": {"v": "*"}}, [], b"", False),
        ({"query": {"v": "~[0-9]+$"}}, [], b"v=12", True),
        ({"cookie": {"beta": "*"}}, [(b"cookie", b"a=1; beta=")], b"", True),
        ({"cookie": {"beta": "1"}}, [(b"cookie", b"a=1"), (b"cookie", b"beta=1")], b"", True),
        ({"cookie": {"beta": "1"}}, [(b"cookie", b"abeta=1")], b"", False),
        ({"cookie": {"beta": "~on|yes"}}, [(b"cookie", b"beta=yes")], b"", True),
        ({"client": ("192.0.2.0/24",)}, [], b"", True),
        ({"client": ("10.0.0.0/8", "::/0")}, [], b"", False),
        ({"header": {"a": "1", "b": "2"}}, [(b"a", b"1")], b"", False),
        ({"header": {"a": "1"}, "query": {"v": "1"}}, [(b"a", b"1")], b"v=1", True),
    ],
)
def test_conditions(when: dict[str, Any], headers: Fields, query: bytes, holds: bool) -> None:
    assert winner([rule(name="it", **when)], b"/?" + query, headers=headers) == ("it" if holds else "404")


# Names.


@pytest.mark.parametrize(
    ("pattern", "target", "params"),
    [
        ("/users/{id}/orders", b"//users/a%2Fb%20c/orders", {"id": b"a%2Fb%20c"}),
        ("/{a}/{b}/{rest*}", b"/1//2///3//4/?q=1", {"a": b"1", "b": b"2", "rest": b"//3//4/"}),
        ("/files/{rest*}", b"/files", {"rest": b""}),
        ("/{rest*}", b"//host/x", {"rest": b"/host/x"}),
        ("/{id}/", b"/a;v=1/", {"id": b"a;v=1"}),
        ("/a/*", b"/a/b", {}),
    ],
)
def test_names_are_the_clients_bytes(pattern: str, target: bytes, params: dict[str, bytes]) -> None:
    assert dict(match([rule(pattern)], target).params) == params


def test_matches_without_names_share_one_empty_mapping_that_cannot_be_changed() -> None:
    one, other = match([rule("/a")], b"/a"), match([rule("/b")], b"/b")
    assert one.params is other.params
    with pytest.raises(TypeError):
        one.params["id"] = b"7"  # type: ignore[index]


# The second reading.


@pytest.mark.parametrize(
    ("target", "wins"),
    [
        (b"/admin/x", "/admin/*"),
        (b"/admin%2Fx", "400"),
        (b"/admin%5cx", "400"),
        (b"/%2Fadmin", "400"),
        (b"/files/a", "/files/{name}"),
        (b"/files/a%2Fb", "/files/{name}"),
        (b"/files%2Fa", "400"),
        (b"/a%2Fb", "/*"),
        (b"/v1%2Fb", "/*"),
    ],
)
def test_no_spelling_slips_past_a_route_that_ranks_higher(target: bytes, wins: str) -> None:
    assert (
        winner([rule("/*"), rule("/admin/*"), rule("/files/{name}"), rule("/files/*"), rule("~^/v1/")], target) == wins
    )


def test_the_second_reading_counts_only_where_its_route_would_be_taken() -> None:
    rules = [rule("/*"), rule("/admin/*", methods="POST", name="admin")]
    assert winner(rules, b"/admin%2Fx") == "/*"
    assert winner(rules, b"/admin%2Fx", "POST") == "400"
    assert winner([rule("/admin/*")], b"/admin%2Fx") == "404"


def test_the_second_reading_of_a_route_with_a_higher_priority_is_refused() -> None:
    assert winner([rule("/a/{x}"), rule("/*", name="all", priority=1), rule("~^/b/c", priority=2)], b"/b%2fc") == "400"


# Explaining.


def verdicts(rules: Sequence[RouteRule], target: bytes, method: str = "GET", headers: Fields = ()) -> list[Verdict]:
    scope = http_scope(method, target, headers)
    return RouteTable(rules).explain(method, HOST, read_path(scope["raw_path"]), scope, CLIENT)


def test_every_rule_gets_a_verdict_in_matching_order() -> None:
    rules = [
        rule("/*", name="fallback", position=0),
        rule("/*", "other.example", name="elsewhere", position=1),
        rule("/a/c", name="path", position=2),
        rule("/a/b", methods="POST PUT", name="method", position=3),
        rule("/a/b", name="when", position=4, cookie={"beta": "1"}),
        rule("/a/b", name="client", position=5, client=("10.0.0.0/8",)),
        rule("/a/{x}", name="chosen", position=6, header={"X": "*"}),
        rule("/{x}/b", name="specific", position=7),
        rule("/{x}/{y}", "*.example.com shop.example.com", name="host", position=8, priority=-1),
        rule("/a/{y}", name="conditions", position=9),
        rule("/a/{z}", name="later", position=10, header={"X": "*"}),
    ]
    found = {verdict.rule.name: verdict for verdict in verdicts(rules, b"/a/b", headers=[(b"x", b"1")])}
    in_order = "elsewhere method when client path chosen later conditions specific fallback host"
    assert list(found) == in_order.split()
    assert [name for name, verdict in found.items() if verdict.matched] == ["chosen"]
    assert {name: verdict.reason for name, verdict in found.items()} == {
        "elsewhere": "the host shop.example.com is not other.example",
        "path": "the path is not /a/c",
        "method": "the method is GET, not POST or PUT",
        "when": "cookie beta is not 1",
        "client": "the client 192.0.2.1 is in none of its networks",
        "chosen": "any host, path /a/{x}, 1 further condition",
        "specific": "matches too, but gives way to 'chosen': a more specific path",
        "fallback": "matches too, but gives way to 'chosen': a more specific path",
        "host": "matches too, but gives way to 'chosen': a higher priority",
        "conditions": "matches too, but gives way to 'chosen': more conditions",
        "later": "matches too, but gives way to 'chosen': earlier in the file",
    }


def test_the_reasons_name_host_priority_preflight_and_methods_on_request() -> None:
    rules = [
        rule("/*", "*.example.com", "PUT", name="chosen", priority=3, header={"Origin": "*"}),
        rule("/a", "a.example b.example", name="hosts"),
        rule("/a /b", name="paths", position=1),
    ]
    asks = [(b"origin", b"https://x.example"), (b"access-control-request-method", b"PUT")]
    chosen, hosts, paths = verdicts(rules, b"/c", "OPTIONS", asks)
    assert chosen.reason == "host *.example.com, path /*, as the preflight of PUT, 2 further conditions, priority 3"
    assert hosts.reason == "the host shop.example.com is not a.example or b.example"
    assert paths.reason == "the path is not /a or /b"
    (trace,) = verdicts([rule()], b"/", "TRACE")
    assert (trace.matched, trace.reason) == (False, "the method is TRACE, which a route must name")
    exact, wide = verdicts([rule("/a"), rule("/*", HOST)], b"/a")
    assert exact.matched
    assert wide.reason == "matches too, but gives way to 'shop.example.com /*': a more specific host"


# Shadows.


@pytest.mark.parametrize(
    ("shadowing", "shadowed"),
    [
        (rule("/{x}", priority=1), rule("/a")),
        (rule("/*", priority=1), rule("/a /b/{x}/*", HOST)),
        (rule("/*", priority=1), rule("~^/a")),
        (rule("~^/a", priority=1), rule("~^/a", HOST)),
        (rule("/*", "*.example.com", priority=1), rule("/a", "shop.example.com *.b.example.com")),
        (rule("/a /b", methods="GET POST", priority=1), rule("/b", methods="HEAD POST")),
        (rule("/*", priority=1, header={"a": "1"}), rule("/a", header={"a": "1", "b": "*"})),
        (rule("/a", methods="GET POST"), rule("/a", methods="GET", position=1)),
        (rule("/{x}", HOST), rule("/{y}", HOST, position=1)),
    ],
)
def test_a_rule_that_never_wins_is_found(shadowing: RouteRule, shadowed: RouteRule) -> None:
    for rules in ([shadowing, shadowed], [shadowed, shadowing]):
        assert RouteTable(rules).shadowed() == [(shadowed, shadowing)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rule("/{x}"), rule("/a", position=1)),
        (rule("/*"), rule("/a", HOST, position=1)),
        (rule("/*", "*.example.com", priority=1), rule("/*", "example.com")),
        (rule("/*", "*.example.com", priority=1), rule("/*")),
        (rule("/*", methods="GET", priority=1), rule("/a")),
        (rule("/*", priority=1), rule("/a", methods="GET TRACE")),
        (rule("/*", priority=1, header={"a": "1"}), rule("/a", header={"a": "2"})),
        (rule("/*", priority=1, client=("10.0.0.0/8",)), rule("/a", client=("192.0.2.0/24",))),
        (rule("/a/*", priority=1), rule("/a/b /c")),
        (rule("/a/*", priority=1), rule("~^/a/")),
        (rule("/a"), rule("/a", position=1, query={"v": "*"})),
        (rule("/a", methods="GET"), rule("/a", methods="POST", position=1)),
    ],
)
def test_a_rule_that_can_win_is_not_called_shadowed(one: RouteRule, other: RouteRule) -> None:
    assert RouteTable([one, other]).shadowed() == []


# Against a naive reference, written from the contract: every rule is tried, the candidates are compared in pairs.


_SEGMENTS = ["a", "b"]
_PATHS = ["/", "/*", "/a", "/a/", "/a/*", "/{x}", "/{x}/", "/{x}/*", "/a/b", "/a/{x}", "/{x}/b", "/{x}/{y}/*", "/a/b/*"]
_REGEXES = ["~^/a", "~.*/b", "~^/[ab]/"]
_HOSTS = ["a.b.c", "b.c", "*.b.c", "*.c"]
_METHODS = ["GET", "POST", "GET PUT"]


@st.composite
def _rules(draw: st.DrawFn) -> list[RouteRule]:
    rules = []
    for position in range(draw(st.integers(1, 9))):
        paths = draw(st.lists(st.sampled_from(_PATHS + _REGEXES), min_size=1, max_size=2, unique=True))
        hosts = draw(st.lists(st.sampled_from(_HOSTS), max_size=2, unique=True))
        header = {name: draw(st.sampled_from(["*", "1"])) for name in draw(st.sets(st.sampled_from("xy")))}
        rules.append(
            rule(
                " ".join(paths),
                " ".join(hosts),
                draw(st.sampled_from(["", "", *_METHODS])),
                name=f"r{position}",
                priority=draw(st.sampled_from([0, 0, 0, 1, -1, 2])),
                position=position,
                header=header,
            )
        )
    return rules


def _naive_path(text: str, path: str) -> tuple[str, ...] | None:
    """What each position of a pattern is at ``path``, or None when it does not match."""
    if text.startswith("~"):
        return ("regex",) if re.match(text[1:], path) else None
    expression, kinds = "", []
    for part in text.removesuffix("/*").split("/")[1:]:
        kinds.append("name" if part.startswith("{") else "literal" if part else "end")
        expression += "/" + ("[^/]+" if part.startswith("{") else part)
    if text.endswith("/*"):
        kinds.append("tail")
        expression += "(/.*)?"
    return tuple(kinds) if re.fullmatch(expression, path) else None


def _naive_host(text: str, host: str) -> int | None:
    """How specific a host pattern is, or None when it does not match."""
    if text.startswith("*."):
        return len(text) if host.endswith(text[1:]) else None
    return 1000 if text == host else None


def _compare_paths(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    order = ["literal", "end", "name", "tail", "regex"]
    for left, right in zip((*one, "end"), (*other, "end"), strict=False):
        if left != right:
            return order.index(left) - order.index(right)
    return 0


def _reference(rules: list[RouteRule], method: str, host: str, path: str, headers: dict[str, str]) -> str:
    found = []
    refused = []
    for each in rules:
        hosts = [_naive_host(pattern.text, host) for pattern in each.hosts] if each.hosts else [0]
        paths = [_naive_path(pattern.text, path) for pattern in each.paths]
        best_host = max((rank for rank in hosts if rank is not None), default=None)
        matching = sorted((kinds for kinds in paths if kinds), key=functools.cmp_to_key(_compare_paths))
        if best_host is None or not matching:
            continue
        named = each.methods
        by_method = method != "TRACE" if named is None else method in named or (method == "HEAD" and "GET" in named)
        by_when = all(name in headers and wanted in ("*", headers[name]) for name, wanted in each.when.header)
        if by_method and by_when:
            found.append((each, best_host, matching[0]))
        refused.append(by_when and not by_method)
    if not found:
        return "405" if refused and all(refused) else "404"

    def compare(one: tuple[RouteRule, int, tuple[str, ...]], other: tuple[RouteRule, int, tuple[str, ...]]) -> int:
        (left, left_host, left_path), (right, right_host, right_path) = one, other
        return (
            right.priority - left.priority
            or right_host - left_host
            or _compare_paths(left_path, right_path)
            or (len(right.when) + (right.methods is not None)) - (len(left.when) + (left.methods is not None))
            or left.position - right.position
        )

    return min(found, key=functools.cmp_to_key(compare))[0].name


@settings(max_examples=250)
@given(
    rules=_rules(),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "TRACE"]),
    host=st.sampled_from(["a.b.c", "b.c", "x.b.c", "x.c", "z"]),
    segments=st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    slash=st.booleans(),
    headers=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)
def test_the_table_agrees_with_a_naive_matcher(
    rules: list[RouteRule], method: str, host: str, segments: list[str], slash: bool, headers: dict[str, str]
) -> None:
    path = "/" + "/".join(segments) + ("/" if slash and segments else "")
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = http_scope(method, path.encode(), fields)
    table = RouteTable(rules)
    try:
        found = table.match(method, host, read_path(path.encode()), scope, CLIENT).rule.name
    except (RouteNotFound, MethodNotAllowed) as error:
        found = str(error.status)
    assert found == _reference(rules, method, host, path, headers)

    explained = table.explain(method, host, read_path(path.encode()), scope, CLIENT)
    assert [verdict.rule for verdict in explained] == table.in_order()
    assert [verdict.rule.name for verdict in explained if verdict.matched] == [found] * found.startswith("r")
    assert all(verdict.reason for verdict in explained)
    assert found not in {shadowed.name for shadowed, _ in table.shadowed()}


# Cost.


def _calls(table: RouteTable, target: bytes, host: str = HOST) -> int:
    """How many calls one match makes, those of built-in functions included."""
    scope, path = http_scope("GET", target), read_path(target)
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    # Collecting garbage calls whoever has asked to hear of it, in the middle of a match.
    gc.disable()
    sys.setprofile(profile)
    try:
        table.match("GET", host, path, scope, CLIENT)
    except RouteNotFound:
        pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@functools.cache
def _large(shape: str, first: int, last: int) -> RouteTable:
    makers = {
        "paths": lambda number: rule(f"/r{number}/*", position=number),
        "hosts": lambda number: rule("/{x}/*", f"h{number}.example", position=number),
        "wildcards": lambda number: rule("/{x}/*", f"*.h{number}.example", position=number),
        "priorities": lambda number: rule(f"/r{number}/*", HOST, position=number, priority=number % 1000),
    }
    return RouteTable(map(makers[shape], range(first, last)))


@pytest.mark.parametrize("target", [b"/r5/items/7", b"/r5", b"/nowhere/at/all"])
@pytest.mark.parametrize("shape", ["paths", "hosts", "wildcards", "priorities"])
def test_a_match_costs_the_same_among_ten_thousand_routes(shape: str, target: bytes) -> None:
    host = {"hosts": "h5.example", "wildcards": "a.h5.example"}.get(shape, HOST)
    one, many = _large(shape, 5, 6), _large(shape, 0, 10_000)
    assert _calls(many, target, host) == _calls(one, target, host)


def test_looking_for_shadows_does_not_compare_every_rule_with_every_other() -> None:
    table = RouteTable([rule(f"/r{number}/*", position=number, priority=number % 3) for number in range(2000)])
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        assert table.shadowed() == []
    finally:
        sys.setprofile(None)
    assert count < 2000 * 100
