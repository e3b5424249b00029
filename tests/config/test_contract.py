"""The defaults of the contract, key by key; contract.toml is the contract's own example."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.config.json_schema import json_schema
from tests.config.support import Table, at, load, route, upstream, violations

CONTRACT = Path(__file__).with_name("contract.toml").read_text(encoding="utf-8")
MiB = 1024 * 1024

SERVER = {
    "workers": 1,
    "trusted_proxies": (),
    "client_ip_from": "x-forwarded-for",
    "request_id_header": "X-Request-ID",
    "via": "",
    "access_log": "text",
    "shutdown_timeout": 30.0,
    "limits.header_timeout": 10.0,
    "limits.body_timeout": 30.0,
    "limits.min_body_rate": 500,
    "limits.send_timeout": 60.0,
    "limits.keep_alive": 75.0,
    "limits.max_header_bytes": 32 * 1024,
    "limits.max_headers": 100,
    "limits.max_target_bytes": 8 * 1024,
    "limits.max_body": 64 * MiB,
    "limits.max_connections": 10000,
    "overload.max_in_flight": 0,
    "overload.max_loop_lag": 0.0,
    "overload.exempt": (),
    "tls": None,
}
CACHE_STORE = {"store": "memory", "max_size": 256 * MiB, "max_object": 8 * MiB, "prefix": "gw:", "timeout": 0.25}
UPSTREAM = {
    "endpoints.0.weight": 1,
    "endpoints.0.backup": False,
    "endpoints.0.drain": False,
    "balance": "p2c",
    "hash_on": "client-ip",
    "sticky": None,
    "connect_timeout": 5.0,
    "keep_alive": 4.0,
    "max_response_header": 64 * 1024,
    "max_connections": 512,
    "max_pending": 1024,
    "queue_timeout": 5.0,
    "slow_start": 0.0,
    "http2": False,
    "resolve": 30.0,
    "tls.ca": None,
    "tls.verify": True,
    "health": None,
    "outlier.failures": 5,
    "outlier.interval": 10.0,
    "outlier.ejection": 10.0,
    "outlier.max_ejection": 300.0,
    "outlier.max_ejected": 0.5,
    "panic": 0.0,
}
ROUTE = {
    "host": (),
    "methods": (),
    "when.header": {},
    "priority": 0,
    "upstream": None,
    "split": (),
    "split_on": "random",
    "redirect": None,
    "strip_prefix": "",
    "add_prefix": "",
    "rewrite": "",
    "host_header": "preserve",
    "timeout": 30.0,
    "idle_timeout": 60.0,
    "max_body": 64 * MiB,
    "buffer_request": None,
    "retry.attempts": 2,
    "retry.attempt_timeout": 0.0,
    "retry.on": ("connect", "reset", "timeout", 502, 503, 504),
    "retry.methods": ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"),
    "retry.max_body": 64 * 1024,
    "retry.backoff": 0.025,
    "retry.budget": 0.2,
    "websocket.idle_timeout": 300.0,
    "websocket.ping": 20.0,
    "websocket.max_message": 16 * MiB,
    "mirror": None,
    "cache": None,
    "compress.codings": ("zstd", "br", "gzip"),
    "compress.min_size": 1024,
    "compress.types": None,
    "compress.level": "fast",
    "decompress_request": False,
    "request_headers.set": {},
    "request_headers.add": {},
    "request_headers.remove": (),
    "response_headers.remove": (),
    "hide_headers": (
        "Server",
        "X-Powered-By",
        "X-AspNet-Version",
        "X-AspNetMvc-Version",
        "X-Runtime",
        "X-Generator",
    ),
    "rewrite_location": True,
    "rewrite_cookies.domain": {},
    "rewrite_cookies.secure": "keep",
    "rewrite_cookies.same_site": "keep",
    "security_headers": None,
    "middleware": (),
    "allow": None,
    "deny": (),
    "auth": None,
    "cors": None,
    "rate_limit": None,
    "max_concurrent": 0,
}


@pytest.mark.parametrize(("path", "value"), SERVER.items())
def test_default_of_server(path: str, value: object) -> None:
    assert at(load({}).server, path) == value


def test_an_empty_configuration_listens_on_loopback_and_has_no_admin_listener() -> None:
    config = load({})
    assert [str(bind) for bind in config.server.bind] == ["127.0.0.1:8080"]
    assert config.admin is None
    assert config.routes == ()
    assert config.path is None


@pytest.mark.parametrize(("path", "value"), CACHE_STORE.items())
def test_default_of_cache_store(path: str, value: object) -> None:
    assert at(load({}).cache, path) == value


@pytest.mark.parametrize(("path", "value"), UPSTREAM.items())
def test_default_of_upstream(path: str, value: object) -> None:
    assert at(load(upstream()).upstreams["api"], path) == value


@pytest.mark.parametrize(("path", "value"), ROUTE.items())
def test_default_of_route(path: str, value: object) -> None:
    assert at(load(route()).routes[0], path) == value


@pytest.mark.parametrize(
    ("table", "path", "defaults"),
    [
        (
            route(cache=True),
            "routes.0.cache",
            {
                "ttl": 0.0,
                "override": False,
                "stale_while_revalidate": 0.0,
                "stale_if_error": 0.0,
                "vary": (),
                "query": "all",
                "cookies": (),
                "request_cookie": "pass",
                "set_cookie": "pass",
                "tags_header": "Surrogate-Key",
                "lock_timeout": 5.0,
                "status_header": True,
            },
        ),
        (
            route(security_headers=True),
            "routes.0.security_headers",
            {
                "hsts": "max-age=31536000",
                "content_type_options": "nosniff",
                "frame_options": "DENY",
                "referrer_policy": "strict-origin-when-cross-origin",
                "permissions_policy": "",
                "content_security_policy": "",
                "cross_origin_opener_policy": "same-origin",
            },
        ),
        (
            upstream(health={}),
            "upstreams.api.health",
            {
                "path": "/healthz",
                "interval": 5.0,
                "timeout": 2.0,
                "rise": 2,
                "fall": 3,
                "status": ((200, 399),),
                "method": "GET",
                "headers": {},
            },
        ),
        (upstream(sticky={}), "upstreams.api.sticky", {"cookie": "gw_endpoint", "max_age": 3600.0}),
        (
            route(mirror={"upstream": "api"}, upstream="api"),
            "routes.0.mirror",
            {"share": 0.1, "max_body": 65536, "timeout": 5.0},
        ),
        (route(rate_limit={}), "routes.0.rate_limit", {"burst": 50, "key": "client-ip", "on_error": "open"}),
        (route(cors={"origins": ["*"]}), "routes.0.cors", {"credentials": False, "max_age": 600.0}),
        (
            route(auth={"jwt": {"jwks": "https://a/b", "issuer": "i", "audience": "a"}}),
            "routes.0.auth.jwt",
            {"algorithms": ("RS256", "ES256"), "leeway": 30.0, "claims_to_headers": {}},
        ),
        (
            route(redirect={"to": "/x"}),
            "routes.0.redirect",
            {"status": 308},
        ),
        (route(respond={}), "routes.0.respond", {"status": 200, "body": "", "headers": {}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("everything_available")
def test_defaults_inside_a_table(table: Table, path: str, defaults: Table) -> None:
    loaded = at(load(table), path)
    assert {key: getattr(loaded, key) for key in defaults} == defaults


@pytest.fixture(scope="module")
def schema() -> Table:
    return json_schema()


def test_the_json_schema_takes_the_contracts_example(schema: Table) -> None:
    assert violations(tomllib.loads(CONTRACT), schema, schema) == []


def test_the_json_schema_takes_the_demo(schema: Table) -> None:
    demo = Path(__file__).parents[2] / "routes.toml"
    assert violations(tomllib.loads(demo.read_text(encoding="utf-8")), schema, schema) == []


def test_the_json_schema_knows_every_key_of_the_contract_with_a_description(schema: Table) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    undescribed = [
        (name, key)
        for name, table in schema["$defs"].items()
        for key, value in table["properties"].items()
        if not value.get("description")
    ]
    assert undescribed == []


def test_the_json_schema_shows_defaults_as_toml_has_them(schema: Table) -> None:
    routes = schema["$defs"]["RouteConfig"]["properties"]
    assert routes["timeout"]["default"] == "30s"
    assert routes["compress"]["default"] is True
    assert routes["cache"]["default"] is False
    assert "default" not in routes["max_body"]
    for table in schema["$defs"].values():
        for key, value in table["properties"].items():
            if "default" in value:
                assert violations(value["default"], value, schema, key) == []


def test_the_json_schema_is_new_each_time(schema: Table) -> None:
    another = json_schema()
    assert another == schema
    another["$defs"].clear()
    assert json_schema() == schema


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.workers", "${WORKERS}"),
        ("server.limits.max_headers", "${N}"),
        ("server.limits.header_timeout", "${T:-5s}"),
        ("upstreams.shop.balance", "${BALANCE}"),
        ("upstreams.shop.panic", "${SHARE}"),
        ("upstreams.shop.http2", "${H2}"),
        ("routes.0.cache", "${CACHE:-false}"),
        ("routes.0.rewrite_location", "${REWRITE}"),
        ("routes.0.respond.status", "${STATUS}"),
        ("routes.0.upstream", "${UPSTREAM}"),
    ],
)
def test_the_json_schema_admits_references(schema: Table, path: str, value: str) -> None:
    assert violations(_changed(path, value), schema, schema) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.workers", "many"),
        ("server.bnd", "127.0.0.1:1"),
        ("server.limits.max_headers", "100"),
        ("server.limits.max_headers", 0),
        ("server.limits.header_timeout", 10),
        ("server.limits.header_timeout", "10"),
        ("server.limits.max_body", "64MB"),
        ("upstreams.shop.balance", "fastest"),
        ("upstreams.shop.sticky", True),
        ("upstreams.shop.endpoints", []),
        ("routes.0.cache", "yes"),
        ("routes.0.cache", {"tll": "1s"}),
        ("routes.0.rewrite_location", "yes"),
        ("routes.0.respond.status", 99),
        ("routes.0.allow", []),
        ("unknown", {}),
    ],
)
def test_the_json_schema_refuses_what_check_refuses(schema: Table, path: str, value: object) -> None:
    assert violations(_changed(path, value), schema, schema) != []


def _changed(path: str, value: object) -> Table:
    table: Any = copy.deepcopy(tomllib.loads(CONTRACT))
    changed = table
    *parts, last = path.split(".")
    for part in parts:
        changed = changed[int(part) if part.isdecimal() else part]
    changed[last] = value
    return dict(table)
