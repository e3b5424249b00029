"""What ``gateway explain`` says of a request, and that serving it does the same."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.explain import Question, explain_request, explanation_text
from tests.support.gateway import request, serving

TABLE: dict[str, Any] = {
    "server": {"via": "edge", "trusted_proxies": ["10.0.0.1"], "access_log": "off"},
    "upstreams": {
        "shop": {
            "endpoints": [
                "http://shop-1.internal:9001/base",
                {"url": "http://shop-2.internal:9002", "weight": 2, "backup": True},
                {"url": "http://shop-3.internal:9003", "drain": True},
            ]
        },
        "next": {"endpoints": ["unix:/run/next.sock", "asgi:some.module:app"]},
    },
    "routes": [
        {"name": "shop", "path": "/shop/*", "upstream": "shop", "strip_prefix": "/shop", "add_prefix": "/v1"},
        {"name": "item", "path": "/shop/items/{id}", "upstream": "shop", "rewrite": "/i/{id}", "methods": ["GET"]},
        {"name": "strict", "path": "/shop/admin/*", "upstream": "shop", "allow": ["192.0.2.0/24"]},
        {"name": "beta", "path": "/*", "upstream": "shop", "when": {"header": {"X-Beta": "1"}}},
        {"name": "split", "path": "/split", "split": [{"upstream": "shop", "weight": 3}, {"upstream": "next"}]},
        {"name": "moved", "path": "/old/{rest*}", "redirect": {"to": "{scheme}://{host}/new/{rest}", "status": 301}},
        {"name": "fixed", "path": "/fixed", "respond": {"status": 410, "body": "gone"}},
        {"name": "hosted", "host": "*.example.com", "path": "/*", "upstream": "shop", "host_header": "upstream"},
        {
            "name": "cached",
            "path": "/cached/*",
            "upstream": "shop",
            "websocket": False,
            "cache": {"query": {"only": ["a"]}, "vary": ["Accept-Language"], "cookies": ["lang"]},
        },
        {"name": "shared", "path": "/shared", "upstream": "shop", "cors": {"origins": ["https://app.example"]}},
    ],
}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(TABLE)


def explained(config: Config, url: str, *headers: str, method: str = "GET", client: str = "198.51.100.7") -> Any:
    return explain_request(config, Question.parse(url, method=method, headers=headers, client=client))


@pytest.mark.parametrize(
    "url, route, why",
    [
        ("/shop/x", "shop", "any host, path /shop/*"),
        ("/shop/items/7", "item", "any host, path /shop/items/{id}, 1 further condition"),
        ("http://a.example.com/shop/x", "hosted", "host *.example.com, path /*"),
        ("/fixed", "fixed", "any host, path /fixed"),
        ("HTTP://LOCALHOST:80/fixed", "fixed", "any host, path /fixed"),
        ("fixed", "fixed", "any host, path /fixed"),
    ],
)
def test_the_route_and_why(config: Config, url: str, route: str, why: str) -> None:
    answer = explained(config, url)
    assert (answer["route"], answer["why"]) == (route, why)


@pytest.mark.parametrize(
    "url, other, reason",
    [
        ("/shop/items/7", "shop", "matches too, but gives way to 'item': a more specific path"),
        ("/shop/items/7", "fixed", "the path is not /fixed"),
        ("/shop/items/7", "beta", "header X-Beta is not 1"),
        ("/shop/items/7", "hosted", "the host localhost is not *.example.com"),
    ],
)
def test_why_the_others_do_not(config: Config, url: str, other: str, reason: str) -> None:
    answer = explained(config, url)
    assert {"name": other, "reason": reason} in answer["others"]
    assert len(answer["others"]) == len(config.routes) - 1


@pytest.mark.parametrize(
    "url, method, headers, status, said",
    [
        ("/nowhere", "GET", [], 404, "no route matches host, path and conditions"),
        ("/shop/../etc", "GET", [], 400, ". or .. segment"),
        ("/shop/%2e%2e/etc", "GET", [], 400, ". or .. segment"),
        ("/shop/%00", "GET", [], 400, "broken percent escape"),
        ("/shop\\x", "GET", [], 400, "percent-encoded"),
        ("/shop%2fadmin/x", "GET", ["X-Beta: 1"], 400, "could be read as one of the route 'strict'"),
        ("http://a_b..c/fixed", "GET", [], 400, "Host"),
        ("/fixed", "GET", ["Host: a", "Host: b"], 400, "several Host fields"),
        ("/fixed", "GET", ["Via: 1.1 edge"], 508, "own Via"),
        ("/fixed", "GET", ["Expect: the-impossible"], 417, "expectation"),
        ("/fixed", "CONNECT", [], 501, "tunnel"),
        ("/fixed", "TRACE", [], 404, "no route matches"),
        ("/fixed", "BREW", [], 501, "no method BREW"),
        ("/fixed?" + "x" * 9000, "GET", [], 414, "bytes"),
        ("/fixed", "GET", [f"X-{number}: 1" for number in range(101)], 431, "fields"),
    ],
)
def test_what_is_refused_before_any_route(
    config: Config, url: str, method: str, headers: list[str], status: int, said: str
) -> None:
    answer = explained(config, url, *headers, method=method)
    assert answer["route"] is None
    assert answer["status"] == status
    assert said in answer["why"]
    assert f"no route  {status} " in explanation_text(answer)


def test_a_wrong_method_names_those_that_are_allowed() -> None:
    config = load_config({"routes": [{"path": "/a", "methods": ["GET", "POST"], "respond": {}}]})
    answer = explained(config, "/a", method="DELETE")
    assert (answer["status"], answer["allow"]) == (405, "GET, HEAD, POST")
    assert "allow     GET, HEAD, POST" in explanation_text(answer)


@pytest.mark.parametrize(
    "url, targets",
    [
        (
            "/shop/a%2Fb//c?x=1&x=2",
            [
                ("http://shop-1.internal:9001/base/v1/a%2Fb//c?x=1&x=2", ""),
                ("http://shop-2.internal:9002/v1/a%2Fb//c?x=1&x=2", "backup"),
                ("http://shop-3.internal:9003/v1/a%2Fb//c?x=1&x=2", "drains: no new requests"),
            ],
        ),
        (
            "/shop/items/caf%C3%A9?q",
            [
                ("http://shop-1.internal:9001/base/i/caf%C3%A9?q", ""),
                ("http://shop-2.internal:9002/i/caf%C3%A9?q", "backup"),
                ("http://shop-3.internal:9003/i/caf%C3%A9?q", "drains: no new requests"),
            ],
        ),
        (
            "/split",
            [
                ("http://shop-1.internal:9001/base/split", "shop, 75 %"),
                ("http://shop-2.internal:9002/split", "shop, 75 %, backup"),
                ("http://shop-3.internal:9003/split", "shop, 75 %, drains: no new requests"),
                ("unix:/run/next.sock /split", "next, 25 %"),
                ("asgi:some.module:app /split", "next, 25 %"),
            ],
        ),
    ],
)
def test_the_target_at_each_endpoint(config: Config, url: str, targets: list[tuple[str, str]]) -> None:
    answer = explained(config, url)
    assert [(target["url"], target["note"]) for target in answer["targets"]] == targets


def test_names_hold_the_bytes_of_the_client(config: Config) -> None:
    assert explained(config, "/shop/items/caf%C3%A9")["params"] == {"id": "caf%C3%A9"}


@pytest.mark.parametrize(
    "url, host", [("http://x.example.com:8080/", "the endpoint's own"), ("http://Other:8080/shop/x", "Other:8080")]
)
def test_the_host_that_the_upstream_sees(config: Config, url: str, host: str) -> None:
    assert explained(config, url)["host_header"] == host


@pytest.mark.parametrize(
    "url, method, headers, status, reply",
    [
        ("/fixed", "GET", [], 410, "410, the fixed answer"),
        ("/old/a%20b?x=1", "GET", [], 301, "301 to http://localhost/new/a%20b?x=1"),
        ("/shop/admin/x", "GET", [], 403, "the client 198.51.100.7 is not admitted"),
        ("ws://localhost/cached/x", "GET", [], 403, "takes no WebSockets"),
        ("/cached/x", "GET", ["Connection: Upgrade", "Upgrade: websocket"], 403, "takes no WebSockets"),
        (
            *("/shared", "OPTIONS", ["Origin: https://app.example", "Access-Control-Request-Method: GET"]),
            *(204, "the preflight, answered by cors"),
        ),
        (
            *("/shared", "OPTIONS", ["Origin: https://evil.example", "Access-Control-Request-Method: GET"]),
            *(403, "a preflight from an origin"),
        ),
    ],
)
def test_what_the_gateway_answers_itself(
    config: Config, url: str, method: str, headers: list[str], status: int, reply: str
) -> None:
    answer = explained(config, url, *headers, method=method)
    assert answer["status"] == status
    assert reply in answer["reply"]
    assert reply in explanation_text(answer)


def test_what_goes_to_an_upstream_has_no_status(config: Config) -> None:
    assert "status" not in explained(config, "/shop/x")
    assert "status" not in explained(config, "ws://localhost/shop/x")


def test_a_preflight_is_matched_by_the_method_it_asks_for(config: Config) -> None:
    headers = ["Origin: https://app.example", "Access-Control-Request-Method: GET"]
    answer = explained(config, "/shop/items/7", *headers, method="OPTIONS")
    assert answer["route"] == "item"
    assert "as the preflight of GET" in answer["why"]


@pytest.mark.parametrize(
    "client, headers, seen, route",
    [
        ("10.0.0.1", ["X-Forwarded-For: 192.0.2.9"], "192.0.2.9", None),
        ("10.0.0.1", [], "10.0.0.1", 403),
        ("198.51.100.7", ["X-Forwarded-For: 192.0.2.9"], "198.51.100.7", 403),
        ("::ffff:192.0.2.9", [], "192.0.2.9", None),
    ],
)
def test_the_client_is_whom_trusted_proxies_name(
    config: Config, client: str, headers: list[str], seen: str, route: int | None
) -> None:
    answer = explained(config, "/shop/admin/x", *headers, client=client)
    assert answer["client"] == seen
    assert answer.get("status") == route


KEY = "http://localhost/cached/x?a=1 cookie lang absent accept-language absent"


@pytest.mark.parametrize(
    "method, headers, used, decision, key",
    [
        ("GET", [], True, "used", KEY),
        ("HEAD", [], True, "used; HEAD reads what a GET stored", KEY),
        ("POST", [], False, "not used: POST is not stored; a GET would be, under the key below", KEY),
        ("GET", ["Cookie: session=1"], False, "not used: it carries a cookie", KEY),
        ("GET", ["Cookie: lang=de"], True, "used", KEY.replace("lang absent", "lang='de'")),
        ("GET", ["Content-Length: 3"], False, "not used: it has a body", KEY),
        ("GET", ['If-Match: "1"'], False, "not used: only the upstream can judge If-Match", KEY),
        ("GET", ["Authorization: Basic x"], True, "used; its sender is identified", KEY),
        ("GET", ["X-Original-URL: /x"], False, "not used: it has a field that some frameworks", KEY),
        ("GET", ["Cache-Control: no-store"], True, "used; no-store", KEY),
        ("GET", ["Range: bytes=0-1"], True, "used; a range is cut", KEY),
        ("GET", ["Accept-Language: de"], True, "used", KEY.replace("language absent", "language='de'")),
    ],
)
def test_whether_it_is_cached_and_under_which_key(
    config: Config, method: str, headers: list[str], used: bool, decision: str, key: str
) -> None:
    answer = explained(config, "/cached/x?b=2&a=1", *headers, method=method)
    assert answer["cache"]["used"] is used
    assert answer["cache"]["decision"].startswith(decision)
    assert answer["cache"]["key"] == key
    assert key in explanation_text(answer)


def test_whoever_has_to_show_a_certificate_is_identified(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    files = {name: tmp_path / name for name in ("a.pem", "a.key", "ca.pem")}
    issued.cert_chain_pems[0].write_to_path(str(files["a.pem"]))
    issued.private_key_pem.write_to_path(str(files["a.key"]))
    authority.cert_pem.write_to_path(str(files["ca.pem"]))
    tls = {
        "certificates": [{"cert": str(files["a.pem"]), "key": str(files["a.key"])}],
        "client_ca": str(files["ca.pem"]),
        "client_auth": "require",
    }
    routes = [{"path": "/*", "upstream": "http://127.0.0.1:1", "cache": True}]
    answer = explained(load_config({"server": {"tls": tls}, "routes": routes}), "https://localhost/x")
    assert answer["cache"]["decision"].startswith("used; its sender is identified")


def test_a_websocket_is_not_cached() -> None:
    config = load_config({"routes": [{"path": "/*", "upstream": "http://127.0.0.1:1", "cache": True}]})
    answer = explained(config, "wss://localhost/x")
    assert answer["cache"]["decision"] == "not used: a WebSocket"
    assert answer["cache"]["key"] == "https://localhost/x"


def test_a_route_without_a_cache_has_none(config: Config) -> None:
    answer = explained(config, "/shop/x")
    assert answer["cache"] is None
    assert "  cache " not in explanation_text(answer)


def test_policies_are_those_of_the_file_and_hold_no_secrets() -> None:
    route = {
        "path": "/*",
        "upstream": "http://127.0.0.1:1",
        "timeout": "5s",
        "retry": False,
        "compress": False,
        "request_headers": {"set": {"Authorization": "Bearer s3cret"}, "remove": ["Cookie"]},
        "response_headers": {"set": {"X-A": "b"}},
        "rate_limit": {"rate": "10/m", "store": "redis://:s3cret@127.0.0.1/0"},
        "middleware": [{"use": "a.b:C", "args": {"key": "s3cret"}}],
    }
    answer = explained(load_config({"routes": [route]}), "/")
    shown = answer["policies"]
    assert shown["timeout"] == "5s"
    assert (shown["retry"], shown["compress"], shown["websocket"]) == (False, False, True)
    assert shown["request_headers"] == {"set": ["Authorization"], "remove": ["Cookie"]}
    assert shown["response_headers"] == {"set": {"X-A": "b"}}
    assert shown["rate_limit"]["rate"] == "10/m"
    assert shown["rate_limit"]["store"] == "redis"
    assert shown["middleware"] == ["a.b:C"]
    text = explanation_text(answer)
    assert "s3cret" not in text + repr(answer)
    assert 'response_headers={ set = { X-A = "b" } }' in text


@pytest.mark.parametrize(
    "url, path, query",
    [
        ("/a b", b"/a%20b", b""),
        ("/café?q=ü", b"/caf%C3%A9", b"q=%C3%BC"),
        ("/a%2Fb%zz", b"/a%2Fb%zz", b""),
        ("http://h", b"/", b""),
        ("http://h?x", b"/", b"x"),
        ("/a#fragment", b"/a", b""),
    ],
)
def test_a_url_is_read_as_a_browser_does(url: str, path: bytes, query: bytes) -> None:
    question = Question.parse(url)
    assert (question.raw_path, question.query) == (path, query)


def test_an_international_host_is_written_in_ascii() -> None:
    assert Question.parse("http://bücher.example/").headers[0] == (b"host", b"xn--bcher-kva.example")


REQUESTS: list[tuple[str, bytes, list[tuple[bytes, bytes]]]] = [
    ("GET", b"/shop/x", []),
    ("GET", b"/shop/items/7", []),
    ("DELETE", b"/shop/items/7", []),
    ("TRACE", b"/fixed", []),
    ("BREW", b"/fixed", []),
    ("CONNECT", b"/fixed", []),
    ("GET", b"/shop/../x", []),
    ("GET", b"/shop/%2e%2E/x", []),
    ("GET", b"/shop/%5c..%5cadmin", []),
    ("GET", b"/shop%2fadmin/x", [(b"X-Beta", b"1")]),
    ("GET", b"/shop/admin/x", []),
    ("GET", b"/fixed", [(b"Via", b"1.1 edge")]),
    ("GET", b"/fixed", [(b"Expect", b"something")]),
    ("GET", b"/old/a//b?x=1", []),
    ("GET", b"/old//evil.example", []),
    ("GET", b"/nowhere", []),
    ("GET", b"/nowhere", [(b"X-Beta", b"1")]),
    ("GET", b"/fixed?" + b"x" * 9000, []),
    ("GET", b"/cached/x", [(b"Cookie", b"a=b")]),
    ("OPTIONS", b"/shared", [(b"Origin", b"https://app.example"), (b"Access-Control-Request-Method", b"GET")]),
    ("OPTIONS", b"/shared", [(b"Origin", b"https://evil.example"), (b"Access-Control-Request-Method", b"GET")]),
    ("OPTIONS", b"/shop/items/7", [(b"Origin", b"https://a"), (b"Access-Control-Request-Method", b"DELETE")]),
]


@pytest.mark.anyio
async def test_serving_does_what_was_said(tmp_path: Path) -> None:
    """Every request is explained, then sent: route, own status and Location must be the same."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # Bound, not listening: whatever goes to an upstream is 502 at once.
        table = with_endpoints(TABLE, f"http://127.0.0.1:{closed.getsockname()[1]}")
        config = load_config(table)
        async with serving(table) as served:
            for count, (method, target, fields) in enumerate(REQUESTS, 1):
                headers = [f"{name.decode()}: {value.decode()}" for name, value in fields]
                url = f"http://localhost{target.decode()}"
                expected = explain_request(config, Question.parse(url, method=method, headers=headers))
                answer = await served.ask(request(method, target, fields, host=b"localhost"))
                case = (method, target[:40], expected["why"])
                assert answer.status == expected.get("status", 502), case
                if "allow" in expected:
                    assert answer.value(b"allow") == expected["allow"].encode(), case
                if expected.get("reply", "").startswith("301 to"):
                    assert answer.value(b"location") == expected["reply"][7:].encode(), case
                if expected["route"] is not None:
                    exchange = served.exchanges[-1]
                    assert exchange.route == expected["route"], case
                    if expected["cache"] is not None:
                        assert (exchange.cache != "bypass") == expected["cache"]["used"], case
                assert count >= len(served.exchanges)


def with_endpoints(table: Mapping[str, Any], url: str) -> dict[str, Any]:
    upstreams = {name: {"endpoints": [url], "outlier": False} for name in table["upstreams"]}
    return {**table, "upstreams": upstreams}
