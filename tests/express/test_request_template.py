"""Heads that are written once for all values: the same as those that the long way writes for each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.exchange import Admitted, Exchange
from gateway.express.request_template import RequestTemplate, make_template
from gateway.http.fields import Fields
from gateway.http.forwarded import Identity
from gateway.http.header_rules import HeaderRules
from gateway.http.target import TargetRewrite
from gateway.middleware.headers import make_request_rule
from gateway.proxy.outbound import Outbound
from gateway.upstream.http1_request import request_head
from gateway.wiring.rules import added_fields

_NAMES = st.sampled_from([b"accept", b"cookie", b"referer", b"x-%", b"x-a", b"x_user", b"x-forwarded-for"])
_VALUES = st.sampled_from([b"", b"a", b"%b", b"%s %d", b"100%", b"<0>", b"; , :", b"\xe4"])
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)
_IDENTITIES = st.sampled_from(
    [
        Identity(client="192.0.2.1", scheme="http", chain=(), peer="192.0.2.1", trusted=False),
        Identity(client="2001:db8::1", scheme="https", chain=("2001:db8::1",), peer="10.0.0.1", trusted=True),
        Identity(client="unix", scheme="http", chain=(), peer="unix", trusted=False),
    ]
)
_HOSTS = st.sampled_from([b"a", b"a:8080", b"[::1]:80"])
_RULES: list[dict[str, Any]] = [
    {},
    {"set": {"X-A": "100%", "X-Route": "{route}"}},
    {"add": {"X-A": "{request_id}", "X-Id": "<{request_id}>"}, "remove": ["Cookie"]},
    {"set": {"Host": "other"}},
    {"set": {"X-Id": "{request_id}<0>"}, "add": {"X-Other": "{request_id}<99>"}},
]


def outbound(rules: dict[str, Any], host_header: str = "preserve") -> Outbound:
    compiled = HeaderRules(**rules)
    return Outbound(
        make_rewrite=lambda base: TargetRewrite(base_path=base),
        add=(added_fields(pseudonym="gw", request_id_header="X-Request-ID"),),
        rule=make_request_rule(compiled) if compiled else None,
        host_header=host_header,
        drop=frozenset([b"referer"]),
    )


def admitted(fields: Fields, identity: Identity, host: bytes) -> Admitted:
    fields = [(b"host", host), *fields]
    return Admitted(identity, "a", host, "", fields, names=tuple(name for name, _ in fields))


def ordinary(one: Admitted, made: Outbound, request_id: str) -> bytes:
    exchange = Exchange("GET", b"/")
    one.describe(exchange, request_id)
    exchange.route = "r"
    fields = made.fields({"headers": one.fields, "http_version": "1.1"}, exchange)
    return request_head(b"GET", b"/", fields, None).removeprefix(b"GET /")


def template_for(one: Admitted, made: Outbound) -> RequestTemplate | None:
    def fields(client: Fields, exchange: Exchange) -> Fields:
        exchange.route = "r"
        return made.fields({"headers": client, "http_version": "1.1"}, exchange)

    return make_template(one, fields)


@pytest.mark.parametrize("host_header", ["preserve", "literal.example"])
@pytest.mark.parametrize("rules", _RULES)
@given(
    first=_FIELDS,
    values=st.lists(_VALUES, min_size=6, max_size=6),
    identities=st.tuples(_IDENTITIES, _IDENTITIES),
    hosts=st.tuples(_HOSTS, _HOSTS),
)
def test_a_template_writes_what_the_long_way_writes_for_other_values_of_somebody_else(
    rules: dict[str, Any],
    host_header: str,
    first: Fields,
    values: list[bytes],
    identities: tuple[Identity, Identity],
    hosts: tuple[bytes, bytes],
) -> None:
    made = outbound(rules, host_header)
    template = template_for(admitted(first, identities[0], hosts[0]), made)
    assert template is not None
    second = [(name, value) for (name, _), value in zip(first, values, strict=False)]
    for fields in (first, second):
        other = admitted(fields, identities[1], hosts[1])
        assert b"some-id".join(template.fill(other)) == ordinary(other, made, "some-id")


@pytest.mark.parametrize("control", [b"\r", b"\n", b"\x00", b"\x7f", b"\r\nX-Smuggled: 1"])
def test_a_value_that_would_be_more_than_one_is_refused(control: bytes) -> None:
    identity = Identity(client="192.0.2.1", scheme="http", chain=(), peer="192.0.2.1", trusted=False)
    template = template_for(admitted([(b"x-a", b"1")], identity, b"a"), outbound({}))
    assert template is not None
    with pytest.raises(BadRequest):
        template.fill(admitted([(b"x-a", b"a%bb" % control)], identity, b"a"))


@pytest.mark.parametrize("name", [b"te", b"content-length", b"transfer-encoding", b"connection"])
def test_fields_that_are_judged_by_their_value_have_no_template(name: bytes) -> None:
    identity = Identity(client="192.0.2.1", scheme="http", chain=(), peer="192.0.2.1", trusted=False)
    assert template_for(admitted([(name, b"0")], identity, b"a"), outbound({})) is None


@pytest.mark.parametrize("peer", ["192.0.2.1", "unix"])
@pytest.mark.parametrize(
    "rules",
    [
        {"remove": ["Forwarded"]},
        {"remove": ["X-Real-IP"]},
        {"set": {"X-Forwarded-For": "192.0.2.9"}},
        {"set": {"X-Forwarded-Proto": "https"}},
    ],
)
def test_rules_that_change_what_is_said_about_anybody_have_no_template(rules: dict[str, Any], peer: str) -> None:
    # Of a peer on a UNIX socket less is said than of the next one.
    identity = Identity(client=peer, scheme="http", chain=(), peer=peer, trusted=False)
    assert template_for(admitted([], identity, b"a"), outbound(rules)) is None
