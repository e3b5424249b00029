from __future__ import annotations

from typing import Any

import pytest

from tests.config.support import Table, lines, load, route

API = {"api": {"endpoints": ["http://127.0.0.1:9001"]}}


def routes(*tables: Table, **top: Any) -> Table:
    return {"upstreams": API, "routes": [{"respond": {}, **table} for table in tables], **top}


def test_a_route_has_the_defaults_unless_it_says_otherwise() -> None:
    config = load(
        routes(
            {"path": "/a"},
            {"path": "/b", "timeout": "1s", "cache": False},
            defaults={"timeout": "9s", "cache": {"ttl": "5s"}, "hide_headers": ["X-A"]},
        )
    )
    inherited, own = config.routes
    assert (inherited.timeout, own.timeout) == (9.0, 1.0)
    assert inherited.cache is not None
    assert inherited.cache.ttl == 5.0
    assert own.cache is None
    assert own.hide_headers == ("X-A",)


def test_a_key_of_the_route_replaces_the_whole_key_of_the_defaults() -> None:
    config = load(routes({"path": "/a", "cache": {"override": True}}, defaults={"cache": {"ttl": "5s"}}))
    cache = config.routes[0].cache
    assert cache is not None
    assert (cache.override, cache.ttl) == (True, 0.0)


def test_max_body_is_that_of_the_limits_unless_a_route_or_the_defaults_say_otherwise() -> None:
    server = {"limits": {"max_body": "1MiB"}}
    tables = ({"path": "/a"}, {"path": "/b", "max_body": "2MiB"}, {"path": "/c", "max_body": "none"})
    MiB = 1024 * 1024
    assert [each.max_body for each in load(routes(*tables, server=server)).routes] == [MiB, 2 * MiB, None]
    defaults = {"max_body": "none"}
    assert [each.max_body for each in load(routes(*tables, server=server, defaults=defaults)).routes] == [
        None,
        2 * MiB,
        None,
    ]


def test_routes_without_a_name_get_one_from_host_and_path() -> None:
    config = load(
        routes(
            {"path": "/a/*"},
            {"path": "/a/*", "methods": ["GET"]},
            {"path": ["/b", "/c"], "host": ["x.example", "y.example"]},
            {"path": "/d", "name": "/e"},
            {"path": "/e"},
        )
    )
    assert [each.name for each in config.routes] == ["/a/*", "/a/* 2", "x.example/b", "/e", "/e 2"]


def test_two_routes_of_one_name_are_an_error() -> None:
    assert lines(routes({"path": "/a", "name": "n"}, {"path": "/b", "name": "n"})) == [
        'routes[1].name: another route has the name "n" already'
    ]


@pytest.mark.usefixtures("everything_available")
def test_urls_written_in_place_become_one_shared_upstream_each() -> None:
    config = load(
        {
            "routes": [
                {"path": "/a", "upstream": "http://h:9000/base/"},
                {"path": "/b", "upstream": "http://H:9000/base", "mirror": {"upstream": "http://m"}},
                {"path": "/c", "split": [{"upstream": "unix:/s.sock"}, {"upstream": "asgi:pkg.mod:app"}]},
            ]
        }
    )
    assert list(config.upstreams) == ["http://h:9000/base", "http://m", "unix:/s.sock", "asgi:pkg.mod:app"]
    assert {each.upstream for each in config.routes[:2]} == {"http://h:9000/base"}
    (endpoint,) = config.upstreams["http://h:9000/base"].endpoints
    assert (endpoint.host, endpoint.port, endpoint.base_path) == ("h", 9000, "/base")
    assert config.upstreams["http://m"].balance == "p2c"


def test_a_wrong_default_is_told_once_and_where_it_is_written() -> None:
    tables = [{"path": f"/{index}", "upstream": "api", "respond": None} for index in range(3)]
    table = {"upstreams": API, "routes": tables, "defaults": {"timeout": "0s"}}
    assert lines(table) == ["defaults.timeout: must be longer than 0"]


def test_a_default_that_fits_no_route_is_told_where_it_is_written() -> None:
    table = route(path="/a/*", upstream="api")
    table["defaults"] = {"strip_prefix": "/b", "request_headers": {"set": {"X-A": "{nope}"}}}
    found = lines(table)
    assert found[0] == 'defaults.strip_prefix: "/b" does not lead the path "/a/*" of the route "/a/*"'
    assert found[1].startswith("defaults.request_headers.set.X-A: unknown name {nope}")


def test_a_route_can_lift_a_prefix_of_the_defaults() -> None:
    table = route(path="/x", upstream="api", strip_prefix="")
    table["defaults"] = {"strip_prefix": "/b"}
    assert load(table).routes[0].strip_prefix == ""
