"""The request as the upstream gets it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.exchange import Exchange
from gateway.http.fields import Fields
from gateway.http.target import TargetRewrite
from gateway.proxy.outbound import Outbound
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.settings import EndpointSettings
from tests.support.messages import http_scope


def endpoint(url: str = "http://10.0.0.1:9001") -> Endpoint:
    parsed = httpx.URL(url)
    settings = EndpointSettings(
        url=url, scheme="http", host=parsed.host, port=parsed.port or 80, base_path=parsed.path.rstrip("/")
    )
    return Endpoint(settings, httpx.AsyncBaseTransport())


def outbound(**settings: Any) -> Outbound:
    rewrite = settings.pop("rewrite", {})
    return Outbound(make_rewrite=lambda base: TargetRewrite(base_path=base, **rewrite), **settings)


def fields_of(made: Outbound, headers: Fields, to: Endpoint | None = None) -> Fields:
    scope = http_scope(headers=headers)
    return made.fields_for(to or endpoint(), made.fields(scope, Exchange("GET", b"/")))


HEADERS = [(b"host", b"public.example"), (b"x-a", b"1"), (b"connection", b"close"), (b"expect", b"100-continue")]


def test_hop_by_hop_fields_go_and_the_gateways_come_after_the_clients() -> None:
    made = outbound(add=(lambda scope, exchange: [(b"via", b"1.1 gw")],))
    assert fields_of(made, HEADERS) == [(b"host", b"public.example"), (b"x-a", b"1"), (b"via", b"1.1 gw")]


def test_the_fields_of_the_scope_are_not_changed() -> None:
    headers = list(HEADERS)
    fields_of(outbound(add=(lambda scope, exchange: [(b"via", b"x")],), host_header="upstream"), headers)
    assert headers == HEADERS


def test_what_is_dropped_never_leaves() -> None:
    assert fields_of(outbound(drop=frozenset([b"x-a"])), HEADERS) == [(b"host", b"public.example")]


def test_the_rule_of_the_route_sees_what_the_gateway_added() -> None:
    def rule(fields: Fields, exchange: Exchange) -> Fields:
        return [*fields, (b"x-count", b"%d" % len(fields))]

    made = outbound(add=(lambda scope, exchange: [(b"via", b"x")],), rule=rule)
    assert fields_of(made, HEADERS)[-1] == (b"x-count", b"3")


@pytest.mark.parametrize(
    ("setting", "host"),
    [("preserve", b"public.example"), ("upstream", b"10.0.0.1:9001"), ("fixed.example", b"fixed.example")],
)
def test_the_host_field(setting: str, host: bytes) -> None:
    assert fields_of(outbound(host_header=setting), HEADERS) == [(b"host", host), (b"x-a", b"1")]


def test_a_host_that_is_missing_is_added_in_front() -> None:
    assert fields_of(outbound(host_header="upstream"), [(b"x-a", b"1")])[0] == (b"host", b"10.0.0.1:9001")


@pytest.mark.parametrize(
    ("url", "rewrite", "target", "expected"),
    [
        ("http://a", {}, b"/x?y=%20", b"/x?y=%20"),
        ("http://a/base", {}, b"/x", b"/base/x"),
        ("http://a/base", {"strip_prefix": b"/s", "add_prefix": b"/v1"}, b"/s/x?q", b"/base/v1/x?q"),
    ],
)
def test_the_target(url: str, rewrite: dict[str, bytes], target: bytes, expected: bytes) -> None:
    made, to = outbound(rewrite=rewrite), endpoint(url)
    for _ in range(2):
        assert made.target_for(to, http_scope("GET", target), {}) == expected


@pytest.mark.parametrize(("seen", "expected"), [(b"/x?", b"/x?"), (b"/x", b"/x"), (b"http://h/x?", b"/x?")])
def test_an_empty_query_is_kept_where_the_server_tells_of_it(seen: bytes, expected: bytes) -> None:
    scope = http_scope("GET", b"/x", extensions={"gateway.target": seen})
    assert outbound().target_for(endpoint(), scope, {}) == expected


def test_target_and_fields_in_one() -> None:
    target, fields = outbound(host_header="upstream").request_for(http_scope("GET", b"/x"), endpoint())
    assert target == b"/x" and fields == [(b"host", b"10.0.0.1:9001")]
