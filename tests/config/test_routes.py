from __future__ import annotations

from typing import Any

import pytest

from gateway.config.access import Rate
from gateway.config.values import METHODS
from tests.config.support import Table, at, lines, load, problems, route

pytestmark = pytest.mark.usefixtures("everything_available")


@pytest.mark.parametrize(
    ("keys", "path", "value"),
    [
        ({"path": ["/a", "/b/*"]}, "path", ("/a", "/b/*")),
        ({"host": "example.com"}, "host", ("example.com",)),
        ({"host": ["a.example", "*.b.example"]}, "host", ("a.example", "*.b.example")),
        ({"methods": list(METHODS)}, "methods", METHODS),
        ({"when": {"header": {"X-A": "*"}, "client": ["10.1.0.0/8"]}}, "when.client", ("10.0.0.0/8",)),
        ({"when": {"query": {"a b": ""}}}, "when.query", {"a b": ""}),
        ({"when": {"cookie": {"beta": "~^[0-9]+$"}}}, "when.cookie", {"beta": "~^[0-9]+$"}),
        ({"priority": -5}, "priority", -5),
        ({"redirect": {"to": "/new", "status": 301}}, "redirect.status", 301),
        ({"redirect": {"to": "{scheme}://{host}/new"}}, "redirect.to", "{scheme}://{host}/new"),
        ({"respond": {"status": 204, "headers": {"X-A": ""}}}, "respond.headers", {"X-A": ""}),
        ({"upstream": "api", "host_header": "shop.internal:8080"}, "host_header", "shop.internal:8080"),
        ({"max_body": "none"}, "max_body", None),
        ({"upstream": "api", "buffer_request": "64KiB"}, "buffer_request", 65536),
        ({"upstream": "api", "retry": False}, "retry", None),
        ({"upstream": "api", "retry": {"on": [429, "reset"]}}, "retry.on", (429, "reset")),
        ({"upstream": "api", "websocket": False}, "websocket", None),
        ({"upstream": "api", "websocket": True}, "websocket.ping", 20.0),
        ({"cache": {"query": "none"}}, "cache.query", "none"),
        ({"cache": {"query": {"only": ["a"]}}}, "cache.query.only", ("a",)),
        ({"cache": {"query": {"except": ["a"], "sort": False}}}, "cache.query.except_", ("a",)),
        (
            {"compress": {"codings": ["br"], "types": ["Text/HTML", "text/*"]}},
            "compress.types",
            ("text/html", "text/*"),
        ),
        ({"compress": False}, "compress", None),
        ({"request_headers": {"set": {"X-A": "{client_ip} {x}y"}}, "path": "/{x}"}, "request_headers.add", {}),
        ({"request_headers": {"add": {"X-A": '{"a": {} }'}}}, "request_headers.add", {"X-A": '{"a": {} }'}),
        ({"response_headers": {"set": {"X-A": "{anything}"}}}, "response_headers.set", {"X-A": "{anything}"}),
        ({"rewrite_cookies": {"domain": {"a": ""}, "same_site": "lax"}}, "rewrite_cookies.domain", {"a": ""}),
        ({"security_headers": {"hsts": ""}}, "security_headers.hsts", ""),
        ({"middleware": ["a.b:C"]}, "middleware.0.use", "a.b:C"),
        ({"allow": ["10.0.0.1"]}, "allow", ("10.0.0.1/32",)),
        ({"auth": {}}, "auth", None),
        ({"cors": {"origins": ["HTTPS://App.example:443"]}}, "cors.origins", ("https://app.example",)),
        ({"rate_limit": {"rate": "600/m", "key": "header:X-Key"}}, "rate_limit.rate", Rate(600, 60.0)),
    ],
)
def test_values_that_are_taken(keys: Table, path: str, value: object) -> None:
    assert at(load(route(**keys)).routes[0], path) == value


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"path": 5}, "path: must be a list, not a number"),
        ({"path": []}, "path: must not be empty"),
        ({"path": ["/a", ""]}, "path[1]: must not be empty"),
        ({"path": "shop"}, 'path: must start with "/"'),
        ({"path": ["/a", "/b/*/c"]}, "path[1]: * must be the last segment"),
        ({"path": "~("}, "path: is no regular expression"),
        ({"host": []}, "host: must not be empty"),
        ({"host": "a.*.example"}, "host: * stands only at the front"),
        ({"host": ["a.example", "a.example:80"]}, "host[1]: must not name a port"),
        ({"methods": []}, "methods: must not be empty"),
        ({"methods": ["get"]}, 'methods[0]: unknown method "get" (did you mean "GET"?)'),
        ({"methods": ["CONNECT"]}, "methods[0]: CONNECT is always refused"),
        ({"when": {"header": {"X A": "1"}}}, 'when.header."X A": "X A" is no header name'),
        ({"when": {"header": {"X-A": 1}}}, 'when.header.X-A: must be a string: a value, "*" for any, or "~regex"'),
        ({"when": {"header": {"X-A": "~("}}}, "when.header.X-A: not a regular expression"),
        ({"when": {"heder": {}}}, 'when.heder: unknown key (did you mean "header"?)'),
        ({"priority": 1.5}, "priority: must be a whole number, not a number"),
        ({"name": "a\nb"}, "name: must not contain control characters"),
        ({"upstream": "shop"}, 'upstream: no upstream named "shop"'),
        ({"upstream": "http://h:0"}, "upstream: has no usable port"),
        ({"upstream": "api", "respond": {}}, "respond: a route has one action, and this one has upstream and respond"),
        ({"split": []}, "split: must not be empty"),
        ({"split": [{"upstream": "ap"}]}, 'split[0].upstream: no upstream named "ap" (did you mean "api"?)'),
        ({"split": [{"upstream": "api", "weight": 0}]}, "split: needs a weight above 0"),
        ({"split": [{"upstream": "api"}, {"upstream": "api"}]}, "split: names an upstream twice"),
        ({"upstream": "api", "split_on": "client-ip"}, "split_on: has no effect without split"),
        ({"upstream": "api", "mirror": {"upstream": "ap"}}, 'mirror.upstream: no upstream named "ap"'),
        ({"upstream": "api", "mirror": {}}, "mirror.upstream: is missing"),
        ({"redirect": {"to": "//evil.example"}}, "redirect.to: must begin with http://, https://"),
        ({"redirect": {"to": "new"}}, "redirect.to: must begin with"),
        ({"redirect": {"to": "/a b"}}, "redirect.to: must be a URL or a path, percent-encoded"),
        ({"redirect": {"to": "/", "status": 200}}, "redirect.status: must be one of 301"),
        ({"respond": {"status": 199}}, "respond.status: must be at least 200"),
        ({"respond": {"status": 600}}, "respond.status: must be at most 599"),
        ({"respond": {"headers": {"Content-Length": "1"}}}, "respond.headers.Content-Length: Content-Length belongs"),
        ({"respond": {"headers": {"X-A": "a\r\nb"}}}, "respond.headers.X-A: must be printable ASCII"),
        ({"upstream": "api", "strip_prefix": "shop"}, 'strip_prefix: must be a path such as "/shop"'),
        ({"upstream": "api", "strip_prefix": "/"}, "strip_prefix: must have a segment"),
        ({"upstream": "api", "add_prefix": "/a/../b"}, "add_prefix: must not have empty, . or .. segments"),
        ({"upstream": "api", "rewrite": "/a?b"}, "rewrite: must be a path such as"),
        ({"upstream": "api", "rewrite": "/{id}"}, "rewrite: unknown name {id}"),
        ({"upstream": "api", "rewrite": "/{host}"}, "rewrite: unknown name {host}"),
        ({"upstream": "api", "rewrite": "/a", "add_prefix": "/v1"}, "rewrite: excludes add_prefix"),
        ({"upstream": "api", "host_header": "a b"}, 'host_header: must be "preserve", "upstream", or a host'),
        ({"upstream": "api", "host_header": "h:70000"}, 'host_header: must be "preserve", "upstream", or a host'),
        ({"upstream": "api", "timeout": 30}, "timeout: must be a duration with a unit"),
        ({"max_body": 5}, "max_body: must be a size with a unit"),
        ({"upstream": "api", "buffer_request": True}, "buffer_request: must be false or a size"),
        ({"upstream": "api", "retry": True}, "retry: must be false or a table"),
        ({"upstream": "api", "retry": {"on": [200]}}, 'retry.on[0]: must be "connect", "reset", "timeout" or a status'),
        ({"upstream": "api", "retry": {"budget": -0.1}}, "retry.budget: must be at least 0"),
        ({"cache": "yes"}, "cache: must be true, false or a table"),
        ({"cache": {"query": "some"}}, 'cache.query: must be "all", "none" or a table'),
        ({"cache": {"query": "al"}}, 'cache.query: must be "all", "none" or a table (did you mean "all"?)'),
        ({"priority": 2**63}, "priority: must fit into 64 bits"),
        ({"priority": -(2**63) - 1}, "priority: must fit into 64 bits"),
        ({"cache": {"query": {}}}, "cache.query: needs only or except, and not both"),
        ({"cache": {"query": {"only": [], "except": []}}}, "cache.query: needs only or except, and not both"),
        ({"cache": {"query": {"except_": []}}}, "cache.query.except_: unknown key"),
        ({"cache": {"vary": ["a b"]}}, 'cache.vary[0]: "a b" is no header name'),
        ({"compress": {"level": "max"}}, 'compress.level: must be one of "fast", "balanced", "best"'),
        ({"compress": {"types": ["html"]}}, 'compress.types[0]: "html" is no media type'),
        ({"compress": {"codings": []}}, "compress.codings: must not be empty"),
        ({"request_headers": {"set": {"Host": "a"}}}, "request_headers.set.Host: Host belongs to the connection"),
        ({"request_headers": {"remove": ["Upgrade"]}}, "request_headers.remove[0]: Upgrade belongs to the connection"),
        ({"request_headers": {"set": {"X-A": "{clientip}"}}}, "request_headers.set.X-A: unknown name {clientip} (did"),
        ({"request_headers": {"set": {"X-A": "é"}}}, "request_headers.set.X-A: must be printable ASCII"),
        (
            {"request_headers": {"set": {"X-A": " a"}}},
            "request_headers.set.X-A: must not begin or end with white space",
        ),
        ({"middleware": ["a.b"]}, 'middleware[0]: must be "package.module:name", not "a.b"'),
        ({"middleware": [{"use": "a:B", "args": []}]}, "middleware[0].args: must be a table, not a list"),
        ({"allow": []}, "allow: must not be empty"),
        ({"deny": ["all"]}, 'deny[0]: "all" is no network'),
        ({"auth": True}, "auth: must be a table, not a boolean"),
        ({"auth": {"forward_credentials": True}}, "auth: needs exactly one of basic, api_key, jwt and forward"),
        (
            {"auth": {"api_key": {"keys": {"a": "b"}}, "forward": {"url": "http://a"}}},
            "auth: needs exactly one of basic, api_key, jwt and forward",
        ),
        ({"auth": {"basic": {}}}, "auth.basic: needs users or file, and not both"),
        ({"auth": {"basic": {"users": {"a": "plain"}}}}, "auth.basic.users.a: is no password hash; make an argon2"),
        ({"auth": {"basic": {"users": {"a": "$apr1$x"}}}}, "auth.basic.users.a: is an apr1 (MD5) hash"),
        ({"auth": {"basic": {"users": {"a": "{SHA}x"}}}}, "auth.basic.users.a: is an unsalted SHA-1 hash"),
        (
            {"auth": {"basic": {"users": {"a:b": "$2b$x"}}}},
            'auth.basic.users."a:b": a user\'s name cannot have a colon',
        ),
        ({"auth": {"api_key": {"keys": {}}}}, "auth.api_key.keys: must not be empty"),
        ({"auth": {"api_key": {"keys": {"a": ""}}}}, "auth.api_key.keys.a: must not be empty"),
        (
            {"auth": {"api_key": {"keys": {"a": "sha256:12"}}}},
            'auth.api_key.keys: the key of "a" must have 64 hex digits',
        ),
        ({"auth": {"api_key": {"keys": {"a": "k", "b": "k"}}}}, "auth.api_key.keys: two owners have the same key"),
        ({"auth": {"jwt": {"issuer": "i", "audience": "a"}}}, "auth.jwt.jwks: is missing"),
        (
            {"auth": {"jwt": {"jwks": "https://a", "issuer": "i", "audience": "a", "algorithms": ["none"]}}},
            "auth.jwt.algorithms[0]: must be one of",
        ),
        ({"auth": {"forward": {"url": "http://u:p@h"}}}, "auth.forward.url: must not contain credentials"),
        ({"cors": True}, "cors: must be false or a table"),
        ({"cors": {"origins": []}}, "cors.origins: must not be empty"),
        ({"cors": {"origins": ["https://a/"]}}, "cors.origins[0]: an origin has no path"),
        ({"cors": {"origins": ["*"], "credentials": True}}, 'cors: origins ["*"] with credentials'),
        ({"cors": {"origins": ["*", "http://a"]}}, 'cors: "*" includes every other origin'),
        ({"rate_limit": {"rate": "fast"}}, "rate_limit.rate: must be a number of requests in a unit of time"),
        ({"rate_limit": {"rate": "0/s"}}, "rate_limit.rate: must be a number of requests in a unit of time"),
        ({"rate_limit": {"key": "user"}}, 'rate_limit.key: "user" needs auth'),
        ({"max_concurrent": -1}, "max_concurrent: must be at least 0"),
        ({"upsteam": "api"}, 'upsteam: unknown key (did you mean "upstream"?)'),
    ],
)
def test_values_that_are_refused(keys: dict[str, Any], line: str) -> None:
    (found,) = lines(route(**keys))
    assert found.startswith(f"routes[0].{line}")


def test_middleware_arguments_are_frozen_and_come_out_as_toml_has_them() -> None:
    args = {"origins": ["a", "b"], "nested": {"list": [{"x": 1}]}}
    (middleware,) = load(route(middleware=[{"use": "a.b:C", "args": args}])).routes[0].middleware
    assert middleware.arguments() == args
    assert hash(middleware) == hash(load(route(middleware=[{"use": "a.b:C", "args": args}])).routes[0].middleware[0])


def test_names_of_a_template_must_be_in_every_path() -> None:
    both = route(path=["/a/{id}", "/b/{id}"], upstream="api", rewrite="/items/{id}")
    assert load(both).routes[0].rewrite == "/items/{id}"
    assert lines(route(path=["/a/{id}", "/b"], upstream="api", rewrite="/items/{id}")) == [
        "routes[0].rewrite: {id} is not in every path of the route"
    ]


def test_rest_is_a_name_like_any_other() -> None:
    assert load(route(path="/a/{rest*}", redirect={"to": "/b/{rest}"})).routes[0].redirect is not None
    (line,) = lines(route(path="/a/*", redirect={"to": "/b/{rest}"}))
    assert line == 'routes[0].redirect.to: unknown name {rest}; give the tail of the path this name: "/.../{rest*}"'


@pytest.mark.parametrize(
    ("path", "prefix", "fits"),
    [
        ("/shop/*", "/shop", True),
        ("/shop/*", "/shop/", True),
        ("/shop/a/{id}", "/shop/a", True),
        ("/shop", "/shop", True),
        ("/shop/*", "/sho", False),
        ("/shop/*", "/shop/a", False),
        ("/{id}/a", "/x", False),
        ("/café/*", "/caf%C3%A9", True),
        ("/a%2Fb/*", "/a%2fb", True),
        ("/a%2Fb/*", "/a", False),
        ("~^/a/", "/a", False),
        (["/shop/*", "/store/*"], "/shop", False),
    ],
)
def test_strip_prefix_leads_every_path_in_whole_segments(path: str | list[str], prefix: str, fits: bool) -> None:
    table = route(path=path, upstream="api", strip_prefix=prefix)
    if fits:
        assert load(table).routes[0].strip_prefix == prefix.rstrip("/")
    else:
        (line,) = lines(table)
        assert line.startswith(f'routes[0].strip_prefix: "{prefix}" does not lead the path')


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"path": "/a/{id}"}, {"path": "/a/{name}"}, True),
        ({"path": ["/a", "/b"]}, {"path": ["/b", "/c"]}, True),
        ({"methods": ["GET", "PUT"]}, {"methods": ["PUT", "GET"]}, True),
        ({"methods": ["GET"]}, {"methods": ["GET", "HEAD"]}, True),
        ({"when": {"header": {"X-A": "1"}}}, {"when": {"header": {"x-a": "1"}}}, True),
        ({"host": "a.example"}, {"host": ["b.example", "a.example"]}, True),
        ({"path": "/a"}, {"path": "/b"}, False),
        ({"host": "a.example"}, {}, False),
        ({"methods": ["GET"]}, {}, False),
        ({"methods": ["GET"]}, {"methods": ["GET", "PUT"]}, False),
        ({"priority": 1}, {}, False),
        ({"when": {"header": {"X-A": "1"}}}, {"when": {"header": {"X-A": "2"}}}, False),
    ],
)
def test_two_routes_with_the_same_conditions_are_an_error_that_names_both(one: Table, other: Table, same: bool) -> None:
    first = {"name": "one", "path": "/", "respond": {}, **one}
    second = {"name": "other", "path": "/", "respond": {}, **other}
    if not same:
        load({"routes": [first, second]})
        return
    (problem,) = problems({"routes": [first, second]})
    assert problem.key == "routes[1].path"
    assert problem.message == 'the routes "one" and "other" have the same conditions and priority'


def test_what_only_forwarding_needs_is_a_warning_beside_an_answer() -> None:
    config = load(route(respond={}, timeout="1s", retry=False))
    assert [str(warning) for warning in config.warnings] == [
        "routes[0].timeout: has no effect beside respond",
        "routes[0].retry: has no effect beside respond",
    ]
    assert load({**route(respond={}), "defaults": {"timeout": "1s"}}).warnings == ()


def test_users_of_a_password_file_become_part_of_the_configuration(tmp_path: Any) -> None:
    file = tmp_path / "htpasswd"
    table = route(auth={"basic": {"file": str(file)}})
    file.write_text("# staff\nalice:$2y$05$abc\n\nbob:$argon2id$v=19$x\n")
    config = load(table)
    auth = config.routes[0].auth
    assert auth is not None
    assert auth.basic is not None
    assert {user: secret.get_secret_value() for user, secret in auth.basic.users.items()} == {
        "alice": "$2y$05$abc",
        "bob": "$argon2id$v=19$x",
    }
    file.write_text("alice:$2y$05$xyz\n")
    assert load(table) != config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"alice:plain\n", "line 1: is no password hash"),
        (b"\nalice:$apr1$x$y\n", "line 2: is an apr1 (MD5) hash"),
        (b"alice\n", "line 1: must be user:hash"),
        (b"a:$2y$x\na:$2y$y\n", 'line 2: the user "a" stands here twice'),
        (b"# nobody\n", "has no users"),
        (b"\xff:$2y$x\n", "is not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_password_file_that_is_refused(tmp_path: Any, content: bytes | None, message: str) -> None:
    file = tmp_path / "htpasswd"
    if content is not None:
        file.write_bytes(content)
    (line,) = lines(route(auth={"basic": {"file": str(file)}}))
    assert line.startswith("routes[0].auth.basic.file: ")
    assert message in line
    assert "plain" not in line
