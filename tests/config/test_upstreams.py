from __future__ import annotations

from typing import Any

import pytest

from tests.config.support import Table, at, lines, load, upstream

pytestmark = pytest.mark.usefixtures("everything_available")


@pytest.mark.parametrize(
    ("url", "text", "scheme", "host", "port", "base_path"),
    [
        ("http://127.0.0.1:9001", "http://127.0.0.1:9001", "http", "127.0.0.1", 9001, ""),
        ("http://example.com", "http://example.com", "http", "example.com", 80, ""),
        ("http://example.com:80/", "http://example.com", "http", "example.com", 80, ""),
        ("HTTPS://Example.COM/Base/", "https://example.com/Base", "https", "example.com", 443, "/Base"),
        ("https://h:8443/a/b%2Fc", "https://h:8443/a/b%2Fc", "https", "h", 8443, "/a/b%2Fc"),
        ("http://[::1]:9001", "http://[::1]:9001", "http", "::1", 9001, ""),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]", "http", "2001:db8::1", 80, ""),
        ("http://my_service:80", "http://my_service", "http", "my_service", 80, ""),
    ],
)
def test_an_endpoint_url_is_taken_apart(url: str, text: str, scheme: str, host: str, port: int, base_path: str) -> None:
    (endpoint,) = load(upstream(endpoints=[url])).upstreams["api"].endpoints
    found = (endpoint.url, endpoint.scheme, endpoint.host, endpoint.port, endpoint.base_path)
    assert found == (text, scheme, host, port, base_path)
    assert (endpoint.uds, endpoint.app) == ("", "")


def test_sockets_and_applications_are_endpoints() -> None:
    socket, app = load(upstream(endpoints=["unix:/run/a.sock", "asgi:package.module:app"])).upstreams["api"].endpoints
    assert (socket.scheme, socket.uds, socket.host, socket.port, socket.base_path) == (
        "unix",
        "/run/a.sock",
        "localhost",
        80,
        "",
    )
    assert (app.scheme, app.app) == ("asgi", "package.module:app")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must not be empty"),
        ("127.0.0.1:9001", "must be a URL with one of the schemes http://, https://, unix:/path.sock or asgi:"),
        ("ftp://h", "must be a URL with one of the schemes"),
        ("http:/h", "must be a URL with one of the schemes"),
        ("http://", "has no valid host"),
        ("http://h?x=1", "must not have a query"),
        ("http://h/?", "must not have a query"),
        ("http://h#x", "must not have a fragment"),
        ("http://user:geheim@h", "must not contain credentials"),
        ("http://@h", "must not contain credentials"),
        ("http://h:0", "has no usable port"),
        ("http://h:", "has no usable port"),
        ("http://h:70000", "is no URL: host or port cannot be read"),
        ("http://h:x", "is no URL: host or port cannot be read"),
        ("http://[::1", "is no URL: host or port cannot be read"),
        ("http://h h", "has no valid host"),
        ("http://münchen", "has no valid host"),
        ("http://127.1", "has a malformed IPv4 address"),
        ("http://0177.0.0.1", "has a malformed IPv4 address"),
        ("http://h/a b", "has a path with characters that must be percent-encoded"),
        ("http://h/%zz", "has a path with characters that must be percent-encoded"),
        ("http://h/a//b", "has a path with characters that must be percent-encoded, or with empty segments"),
        ("http://h/a/../b", "must not have . or .. in its path"),
        ("http://h/a/%2E%2e/b", "must not have . or .. in its path"),
        ("http://h\n", "must not contain control characters"),
        ("unix:run.sock", "must name a socket by its absolute path"),
        ("unix:/", "must name a socket by its absolute path"),
        ("asgi:package.module", 'must be "package.module:name", not "package.module"'),
        ("asgi:a b:app", 'must be "package.module:name"'),
    ],
)
def test_an_endpoint_url_that_is_refused(url: str, message: str) -> None:
    (line,) = lines(upstream(endpoints=[{"url": url}]))
    assert line.startswith(f"upstreams.api.endpoints[0].url: {message}")
    assert "geheim" not in line


@pytest.mark.parametrize(
    ("keys", "path", "value"),
    [
        ({"endpoints": [{"url": "http://h", "weight": 0, "backup": True, "drain": True}]}, "endpoints.0.weight", 0),
        ({"balance": "hash", "hash_on": "cookie:id"}, "hash_on", "cookie:id"),
        ({"balance": "hash", "hash_on": "query:user id"}, "hash_on", "query:user id"),
        ({"hash_on": "client-ip"}, "hash_on", "client-ip"),
        ({"sticky": {"cookie": "c", "max_age": "0s"}}, "sticky.cookie", "c"),
        ({"health": {"status": ["200-299", 404, "500"]}}, "health.status", ((200, 299), (404, 404), (500, 500))),
        ({"health": {"path": "/h?deep=1"}}, "health.path", "/h?deep=1"),
        ({"outlier": False}, "outlier", None),
        ({"outlier": {"failures": 1}}, "outlier.interval", 10.0),
        ({"panic": 1}, "panic", 1.0),
        ({"keep_alive": "0s"}, "keep_alive", 0.0),
        ({"max_pending": 0}, "max_pending", 0),
        ({"tls": {"server_name": "shop.internal", "verify": False}}, "tls.verify", False),
    ],
)
def test_values_that_are_taken(keys: Table, path: str, value: object) -> None:
    assert at(load(upstream(**keys)).upstreams["api"], path) == value


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"endpoints": []}, "endpoints: must not be empty"),
        ({"endpoints": "http://h"}, "endpoints: must be a list, not a string"),
        ({"endpoints": [5]}, "endpoints[0]: must be a string or a table, not a number"),
        ({"endpoints": [{}]}, "endpoints[0].url: is missing"),
        ({"endpoints": ["http://h", "http://H:80/"]}, 'endpoints[1]: "http://h" stands here twice'),
        ({"endpoints": [{"url": "http://h", "weight": -1}]}, "endpoints[0].weight: must be at least 0"),
        ({"endpoints": [{"url": "http://h", "backup": "yes"}]}, "endpoints[0].backup: must be true or false"),
        ({"balance": "round_robin"}, 'balance: must be one of "round-robin"'),
        ({"balance": "hash", "hash_on": "body"}, 'hash_on: must be one of "client-ip", "path", "header:NAME"'),
        ({"hash_on": "path"}, 'hash_on: has no effect without balance = "hash"'),
        ({"sticky": True}, "sticky: must be false or a table"),
        ({"sticky": {"cookie": "a b"}}, "sticky.cookie: must be a token"),
        ({"connect_timeout": "0s"}, "connect_timeout: must be longer than 0"),
        ({"max_connections": 0}, "max_connections: must be at least 1"),
        ({"health": {"path": "healthz"}}, 'health.path: must be a path such as "/healthz"'),
        ({"health": {"status": ["2xx"]}}, "health.status[0]: must be a status"),
        ({"health": {"status": ["300-200"]}}, "health.status[0]: 300 is more than 200"),
        ({"health": {"headers": {"A": "1", "a": "2"}}}, "health.headers: a stands here twice"),
        ({"outlier": True}, "outlier: must be false or a table"),
        ({"outlier": {"max_ejected": 1.5}}, "outlier.max_ejected: must be at most 1"),
        ({"outlier": {"ejection": "1h"}}, "outlier: max_ejection must be at least as long as ejection"),
        ({"panic": float("nan")}, "panic: must be a finite number"),
        ({"panic": float("inf")}, "panic: must be a finite number"),
        ({"panic": "0.5"}, "panic: must be a number, not a string"),
        ({"http2": "no"}, "http2: must be true or false, not a string"),
    ],
)
def test_values_that_are_refused(keys: dict[str, Any], line: str) -> None:
    (found,) = lines(upstream(**keys))
    assert found.startswith(f"upstreams.api.{line}")


def test_the_endpoints_are_checked_beside_each_other() -> None:
    found = lines(upstream(endpoints=["http://h?x", "http://h:0"]))
    assert [line.split(":")[0] for line in found] == ["upstreams.api.endpoints[0]", "upstreams.api.endpoints[1]"]
