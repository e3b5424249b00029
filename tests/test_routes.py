"""The routes of a configuration as a table, without serving any."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.load import load_config
from gateway.routes import key_policy, query_setting, route_table, table_warnings, target_rewrite, upstream_names

UPSTREAM = "http://127.0.0.1:9001"


def route(**keys: Any) -> dict[str, Any]:
    return {"upstream": UPSTREAM, **keys}


def test_rules_carry_every_condition_of_their_route() -> None:
    when = {"header": {"X-A": "1"}, "query": {"q": "*"}, "cookie": {"c": "x"}, "client": ["10.0.0.0/8"]}
    config = load_config(
        {"routes": [route(name="a", host="A.example", path=["/x", "/y/*"], methods=["PUT"], priority=3, when=when)]}
    )
    (rule,) = route_table(config).rules
    assert rule.name == "a"
    assert [pattern.text for pattern in rule.paths] == ["/x", "/y/*"]
    assert [pattern.name for pattern in rule.hosts] == ["a.example"]
    assert (rule.methods, rule.priority, rule.position) == (frozenset(["PUT"]), 3, 0)
    assert rule.when.header == (("X-A", "1"),)
    assert rule.when.query == (("q", "*"),)
    assert rule.when.cookie == (("c", "x"),)
    assert rule.when.client == ("10.0.0.0/8",)
    assert len(rule.when) == 4


def test_the_table_has_the_matching_order() -> None:
    paths = ["/*", "/a/*", "/a/{id}", "/a/b"]
    config = load_config({"routes": [route(name=path, path=path) for path in paths]})
    assert [rule.name for rule in route_table(config).in_order()] == paths[::-1]


@pytest.mark.parametrize(
    "second, shadowed",
    [
        (route(name="b", path="/a/*", methods=["GET"], priority=-1), True),
        (route(name="b", path="/a/b", priority=-1), True),
        (route(name="b", path="/a/*", methods=["GET"]), False),
        (route(name="b", path="/b", priority=-1), False),
    ],
)
def test_a_route_that_is_never_taken_is_warned_of(second: dict[str, Any], shadowed: bool) -> None:
    config = load_config({"routes": [route(name="a", path="/a/*"), second]}, extra_warnings=table_warnings)
    found = [(problem.key, problem.severity) for problem in config.warnings]
    assert found == ([("routes[1]", "warning")] if shadowed else [])


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({}, b"/base/shop/x?q"),
        ({"strip_prefix": "/shop"}, b"/base/x?q"),
        ({"strip_prefix": "/shop", "add_prefix": "/v1"}, b"/base/v1/x?q"),
        ({"rewrite": "/r/{rest}"}, b"/base/r/x?q"),
    ],
)
def test_targets_are_rewritten_as_the_route_says(keys: dict[str, str], expected: bytes) -> None:
    config = load_config({"routes": [route(path="/shop/{rest*}", **keys)]})
    rewrite = target_rewrite(config.routes[0], b"/base")
    assert rewrite.apply(b"/shop/x", b"q", {"rest": b"x"}) == expected


@pytest.mark.parametrize(
    "keys, names",
    [
        ({"upstream": "a"}, ["a"]),
        ({"split": [{"upstream": "a"}, {"upstream": "b"}]}, ["a", "b"]),
        ({"upstream": "a", "mirror": {"upstream": "b"}}, ["a", "b"]),
        ({"respond": {}}, []),
    ],
)
def test_the_upstreams_of_a_route(keys: dict[str, Any], names: list[str]) -> None:
    upstreams = {name: {"endpoints": [UPSTREAM]} for name in ("a", "b")}
    config = load_config({"upstreams": upstreams, "routes": [{"path": "/", **keys}]})
    assert upstream_names(config.routes[0]) == names


@pytest.mark.parametrize(
    "query, setting, kept",
    [
        ("all", "all", b"/?b=1&a=2"),
        ("none", "none", b"/"),
        ({"only": ["a"]}, {"only": ("a",), "sort": True}, b"/?a=2"),
        ({"except": ["a"]}, {"except": ("a",), "sort": True}, b"/?b=1"),
        ({"except": [], "sort": False}, {"except": (), "sort": False}, b"/?b=1&a=2"),
        ({"except": []}, {"except": (), "sort": True}, b"/?a=2&b=1"),
    ],
)
def test_the_query_in_the_cache_key(query: Any, setting: Any, kept: bytes) -> None:
    config = load_config({"routes": [route(name="r", path="/*", cache={"query": query})]})
    cache = config.routes[0].cache
    assert cache is not None
    assert query_setting(cache) == setting
    key = key_policy("r", cache).key("http", b"h", b"/?b=1&a=2", [])
    assert key == ("r", "http", b"h", kept, ())
