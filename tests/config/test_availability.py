from __future__ import annotations

from typing import Any

import pytest

from gateway.config import availability
from gateway.config.policies import WebSocketConfig
from gateway.config.problems import ConfigError
from tests.config.support import Table, lines, load, problems, route, upstream

USED: dict[str, tuple[Table, Table]] = {
    # A value that uses the key, and the value that leaves it off.
    "server.workers": ({"server": {"workers": "auto"}}, {"server": {"workers": 1}}),
    "server.tls": ({"server": {"tls": {"certificates": [{"cert": "a", "key": "b"}]}}}, {}),
    "server.overload.max_in_flight": (
        {"server": {"overload": {"max_in_flight": 1}}},
        {"server": {"overload": {"max_in_flight": 0}}},
    ),
    "server.overload.max_loop_lag": (
        {"server": {"overload": {"max_loop_lag": "1s"}}},
        {"server": {"overload": {"max_loop_lag": "0s"}}},
    ),
    "server.overload.exempt": (
        {"server": {"overload": {"exempt": ["r"]}}},
        {"server": {"overload": {"exempt": []}}},
    ),
    "admin": ({"admin": {"bind": "127.0.0.1:1"}}, {}),
    "cache.store": ({"cache": {"store": "redis://h"}}, {"cache": {"store": "memory"}}),
    "upstreams.*.http2": (upstream(http2=True), upstream(http2=False)),
    "upstreams.*.sticky": (upstream(sticky={}), upstream(sticky=False)),
    "upstreams.*.health": (upstream(health={}), upstream(health=False)),
    "routes.*.split": (route(split=[{"upstream": "api"}]), route(upstream="api")),
    "routes.*.mirror": (route(upstream="api", mirror={"upstream": "api"}), route(mirror=False)),
    "routes.*.decompress_request": (route(decompress_request=True), route(decompress_request=False)),
    "routes.*.auth": (route(auth={"api_key": {"keys": {"a": "b"}}}), route(auth={})),
    "routes.*.cors": (route(cors={"origins": ["*"]}), route(cors=False)),
    "routes.*.rate_limit": (route(rate_limit={}), route(rate_limit=False)),
    "routes.*.max_concurrent": (route(max_concurrent=1), route(max_concurrent=0)),
    "routes.*.websocket": (
        route(upstream="api", websocket={"ping": "1s"}),
        route(upstream="api", websocket={"ping": "20s"}),
    ),
}


def test_the_table_lists_only_keys_that_have_a_test() -> None:
    assert availability.NOT_YET.keys() <= USED.keys()


@pytest.mark.parametrize("key", availability.NOT_YET)
def test_a_key_that_is_not_built_is_refused_but_for_its_off_value(key: str) -> None:
    used, off = USED[key]
    shown = key.replace("upstreams.*", "upstreams.api").replace("routes.*", "routes[0]")
    assert f"{shown}: is not available yet" in lines(used)
    load(off)


@pytest.mark.usefixtures("everything_available")
@pytest.mark.parametrize("key", USED)
def test_a_key_that_is_built_is_not_refused(key: str) -> None:
    try:
        load(USED[key][0])
    except ConfigError as error:
        assert "not available" not in str(error)


@pytest.mark.parametrize("websocket", [True, False, {}])
def test_plain_websockets_are_off_values(monkeypatch: pytest.MonkeyPatch, websocket: Any) -> None:
    monkeypatch.setattr(availability, "NOT_YET", {"routes.*.websocket": (None, WebSocketConfig())})
    load(route(upstream="api", websocket=websocket))


def test_what_holds_for_routes_holds_for_defaults_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "NOT_YET", {"routes.*.max_concurrent": (0,)})
    found = problems({**route(), "defaults": {"max_concurrent": 5}})
    assert [str(problem) for problem in found] == ["defaults.max_concurrent: is not available yet"]
