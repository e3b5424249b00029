"""Who the client is, and how the next hop is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.forwarded import (
    FORWARDED,
    client_identity,
    forwarding_fields,
    has_via,
    is_request_id,
    public_scheme,
    request_id_of,
    via_value,
)
from gateway.http.networks import Networks

PROXIES = Networks(["10.0.0.0/8", "unix"])
PEER = "10.0.0.1"
Field = tuple[bytes, bytes]


def xff(*values: bytes) -> list[Field]:
    return [(b"x-forwarded-for", value) for value in values]


def forwarded(*values: bytes) -> list[Field]:
    return [(b"forwarded", value) for value in values]


@pytest.mark.parametrize(
    ("values", "client", "chain"),
    [
        ([b"192.0.2.1"], "192.0.2.1", ("192.0.2.1",)),
        ([b"198.51.100.9, 192.0.2.1"], "192.0.2.1", ("192.0.2.1",)),
        ([b"192.0.2.1, 10.0.0.2"], "192.0.2.1", ("192.0.2.1", "10.0.0.2")),
        ([b"198.51.100.9", b"192.0.2.1", b"10.0.0.2"], "192.0.2.1", ("192.0.2.1", "10.0.0.2")),
        ([b"10.0.0.3,10.0.0.2"], "10.0.0.3", ("10.0.0.3", "10.0.0.2")),
        ([b"192.0.2.1, garbage, 10.0.0.2"], "10.0.0.2", ("10.0.0.2",)),
        ([b"192.0.2.1, unix, 10.0.0.2"], "10.0.0.2", ("10.0.0.2",)),
        ([b"garbage"], PEER, ()),
        ([b"unknown"], PEER, ()),
        ([b"192.0.2.1, ,"], "192.0.2.1", ("192.0.2.1",)),
        ([b""], PEER, ()),
        ([b"192.0.2.1:4711"], "192.0.2.1", ("192.0.2.1",)),
        ([b"[2001:db8::1]:4711"], "2001:db8::1", ("2001:db8::1",)),
        ([b"[2001:DB8::1]"], "2001:db8::1", ("2001:db8::1",)),
        ([b"2001:db8::1"], "2001:db8::1", ("2001:db8::1",)),
        ([b"192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1", ("192.0.2.1", "10.0.0.2")),
        ([b'"192.0.2.1"'], PEER, ()),
        ([b"\xff\xfe"], PEER, ()),
        ([], PEER, ()),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right(values: list[bytes], client: str, chain: tuple[str, ...]) -> None:
    identity = client_identity(PEER, xff(*values), trusted=PROXIES)
    assert (identity.client, identity.chain, identity.peer, identity.trusted) == (client, chain, PEER, True)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"for=192.0.2.1"], "192.0.2.1"),
        ([b"For=192.0.2.1;Proto=https;By=10.0.0.1"], "192.0.2.1"),
        ([b'for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        ([b'for="192.0.2.1:_port"'], "192.0.2.1"),
        ([b"for=192.0.2.1:80"], "192.0.2.1"),
        ([b"for=198.51.100.9, for=192.0.2.1"], "192.0.2.1"),
        ([b"for=198.51.100.9, for=192.0.2.1", b"for=10.0.0.2"], "192.0.2.1"),
        ([b"for=192.0.2.1, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        ([b"for=192.0.2.1, for=unknown"], PEER),
        ([b"for=192.0.2.1, proto=https"], PEER),
        ([b"for=192.0.2.1;for=192.0.2.2"], PEER),
        ([b'for="1\\92.0.2.1"'], "192.0.2.1"),
        ([b'for=x;note="a, b;c=d", for=192.0.2.1'], "192.0.2.1"),
        ([b'for=192.0.2.1;note="a, b; for=198.51.100.9"'], "192.0.2.1"),
        ([b'for=192.0.2.1;note="a\\", for=198.51.100.9"'], "192.0.2.1"),
        ([b"for=192.0.2.1;"], "192.0.2.1"),
        ([b"for=192.0.2.1 , ,"], "192.0.2.1"),
        ([b"for=2001:db8::1"], PEER),
        ([b"192.0.2.1"], PEER),
        ([b"for = 192.0.2.1"], PEER),
        ([b""], PEER),
    ],
)
def test_forwarded_is_understood_rfc7239_4(values: list[bytes], client: str) -> None:
    assert client_identity(PEER, forwarded(*values), trusted=PROXIES, source=FORWARDED).client == client


@pytest.mark.parametrize("claim", [b'for="', b'for=x;a="', b'for=x;a="\\', b'"', b'a="b" "', b"for=10.0.0.9;x=\\"])
@pytest.mark.parametrize("added", [b"for=192.0.2.1", b'for="192.0.2.1:80";proto=https', b'for="[2001:db8::1]"'])
def test_an_open_quote_of_the_clients_does_not_swallow_what_the_proxy_adds(claim: bytes, added: bytes) -> None:
    identity = client_identity(PEER, forwarded(claim + b", " + added), trusted=PROXIES, source=FORWARDED)
    assert identity.client in ("192.0.2.1", "2001:db8::1")


def test_only_the_named_field_is_believed() -> None:
    fields = [*xff(b"192.0.2.1"), *forwarded(b"for=192.0.2.2"), (b"x-real-ip", b"192.0.2.3")]
    assert client_identity(PEER, fields, trusted=PROXIES).client == "192.0.2.1"
    assert client_identity(PEER, fields, trusted=PROXIES, source="forwarded").client == "192.0.2.2"
    assert client_identity(PEER, fields, trusted=PROXIES, source="header:X-Real-IP").client == "192.0.2.3"
    assert client_identity(PEER, fields, trusted=PROXIES, source="header:CF-Connecting-IP").client == PEER


def test_an_untrusted_peer_is_the_client_whatever_it_claims() -> None:
    fields = [*xff(b"192.0.2.1"), *forwarded(b"for=192.0.2.2;proto=https"), (b"x-forwarded-proto", b"https")]
    for source in ("x-forwarded-for", "forwarded", "header:X-Real-IP"):
        identity = client_identity("203.0.113.7", fields, trusted=PROXIES, source=source)
        assert (identity.client, identity.scheme, identity.chain, identity.trusted) == (
            "203.0.113.7",
            "http",
            (),
            False,
        )


def test_a_peer_in_ipv6_notation_is_the_same_proxy() -> None:
    identity = client_identity("::ffff:10.0.0.1", xff(b"192.0.2.1"), trusted=PROXIES)
    assert (identity.client, identity.peer) == ("192.0.2.1", "10.0.0.1")


def test_a_unix_socket_can_be_trusted() -> None:
    assert client_identity("unix", xff(b"192.0.2.1"), trusted=PROXIES).client == "192.0.2.1"
    assert client_identity("unix", xff(b"192.0.2.1"), trusted=Networks([])).client == "unix"


@pytest.mark.parametrize(
    ("protos", "for_", "scheme"),
    [
        ([b"https"], b"192.0.2.1", "https"),
        ([b"HTTPS"], b"192.0.2.1", "https"),
        ([b"wss"], b"192.0.2.1", "https"),
        ([b"https, http"], b"192.0.2.1, 10.0.0.2", "https"),
        ([b"https", b"http"], b"192.0.2.1, 10.0.0.2", "https"),
        # What stands further left was there before the first trusted proxy.
        ([b"https, http"], b"192.0.2.1", "http"),
        ([b"https"], b"192.0.2.1, 10.0.0.2", "https"),
        ([b"gopher"], b"192.0.2.1", "http"),
        ([b""], b"192.0.2.1", "http"),
        ([], b"192.0.2.1", "http"),
    ],
)
def test_a_trusted_proto_decides_the_scheme(protos: list[bytes], for_: bytes, scheme: str) -> None:
    fields = [*xff(for_), *((b"x-forwarded-proto", proto) for proto in protos)]
    assert client_identity(PEER, fields, trusted=PROXIES).scheme == scheme


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        (b"for=192.0.2.1;proto=https", "https"),
        (b"for=192.0.2.1;proto=https, for=10.0.0.2;proto=http", "https"),
        (b"for=192.0.2.1, for=10.0.0.2;proto=https", "https"),
        (b"for=198.51.100.9;proto=https, for=192.0.2.1;proto=http", "http"),
        (b"for=_hidden;proto=https", "https"),
        (b"for=_hidden;proto=https, for=10.0.0.2", "http"),
        (b"for=192.0.2.1", "http"),
    ],
)
def test_proto_of_forwarded_decides_the_scheme(value: bytes, scheme: str) -> None:
    fields = [*forwarded(value), (b"x-forwarded-proto", b"gopher")]
    assert client_identity(PEER, fields, trusted=PROXIES, source=FORWARDED).scheme == scheme


def test_the_connections_scheme_is_the_public_one_without_a_proxy() -> None:
    assert client_identity("192.0.2.1", [], trusted=PROXIES, scheme="wss").scheme == "https"
    assert [public_scheme(name) for name in ("http", "https", "ws", "wss", "x")] == [
        *("http", "https", "http", "https", "http")
    ]


def test_forwarding_fields_all_say_the_same() -> None:
    assert forwarding_fields(("192.0.2.1", "10.0.0.2"), "10.0.0.1", b"shop.example:8443", "https") == (
        (b"x-forwarded-for", b"192.0.2.1, 10.0.0.2, 10.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"shop.example:8443"),
        (b"x-forwarded-port", b"8443"),
        (b"x-real-ip", b"192.0.2.1"),
        (b"forwarded", b'for=192.0.2.1;host="shop.example:8443";proto=https, for=10.0.0.2, for=10.0.0.1'),
    )


@pytest.mark.parametrize(
    ("host", "scheme", "port"),
    [(b"a", "http", b"80"), (b"a", "https", b"443"), (b"[::1]", "http", b"80"), (b"[::1]:81", "http", b"81")],
)
def test_the_port_is_that_of_the_public_url(host: bytes, scheme: str, port: bytes) -> None:
    assert dict(forwarding_fields((), "192.0.2.1", host, scheme))[b"x-forwarded-port"] == port


def test_ipv6_is_quoted_and_bracketed_rfc7239_6() -> None:
    fields = dict(forwarding_fields((), "2001:db8::1", b"a", "http"))
    assert fields[b"forwarded"] == b'for="[2001:db8::1]";host=a;proto=http'
    assert fields[b"x-forwarded-for"] == b"2001:db8::1"


def test_a_peer_without_an_address_is_unknown() -> None:
    assert forwarding_fields((), "unix", b"", "http") == (
        (b"x-forwarded-proto", b"http"),
        (b"forwarded", b"for=unknown;proto=http"),
    )
    fields = dict(forwarding_fields(("192.0.2.1",), "unix", b"a", "http"))
    assert fields[b"x-forwarded-for"] == b"192.0.2.1"
    assert fields[b"forwarded"] == b"for=192.0.2.1;host=a;proto=http, for=unknown"


def test_a_host_cannot_leave_its_quotes() -> None:
    fields = dict(forwarding_fields((), "192.0.2.1", b'a";for="10.0.0.9', "http"))
    assert fields[b"forwarded"] == b'for=192.0.2.1;host="a\\";for=\\"10.0.0.9";proto=http'


def test_a_host_too_long_to_remember_is_still_forwarded() -> None:
    host = b"a" * 5000
    assert dict(forwarding_fields((), "192.0.2.1", host, "http"))[b"x-forwarded-host"] == host


@pytest.mark.parametrize("source", ["x-forwarded-for", "forwarded"])
@pytest.mark.parametrize("chain", [(), ("192.0.2.1",), ("2001:db8::1", "10.0.0.5")])
def test_a_second_gateway_sees_the_same_client(source: str, chain: tuple[str, ...]) -> None:
    peer = "10.0.0.7" if chain else "192.0.2.9"
    made = forwarding_fields(chain, peer, b"a:1", "https")
    identity = client_identity(PEER, made, trusted=PROXIES, source=source)
    assert identity.client == (chain[0] if chain else peer)
    assert identity.scheme == "https"
    assert identity.chain == (*chain, peer)


def test_via_names_version_and_pseudonym() -> None:
    assert via_value("1.1", "gw-1") == b"1.1 gw-1"
    assert has_via([(b"via", via_value("1.1", "gw-1"))], "gw-1")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([b"1.1 gw-1"], True),
        ([b"HTTP/1.1 GW-1"], True),
        ([b"1.0 fred, 1.1 gw-1 (comment)"], True),
        ([b"1.0 fred", b"1.1 gw-1"], True),
        ([b"1.1 gw-2"], False),
        ([b"1.1 gw-11"], False),
        ([b"1.1 x (1.1 gw-1)"], False),
        ([b"1.1 x (a, 1.1 gw-1, b)"], False),
        ([b"1.1 x (a (b), 1.1 gw-1, c)"], False),
        ([b"1.1 x (a \\), 1.1 gw-1, b)"], False),
        ([b"1.1 x (left open, 1.1 gw-1"], True),
        ([b"1.1 x (left open", b"1.1 gw-1"], True),
        ([b"gw-1"], False),
        ([b"", b","], False),
        ([], False),
    ],
)
def test_a_loop_is_found_in_via_rfc9110_7_6_3(values: list[bytes], found: bool) -> None:
    assert has_via([(b"via", value) for value in values], "gw-1") is found


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (b"a", True),
        (b"AZaz09._~+/=-", True),
        (b"x" * 128, True),
        (b"x" * 129, False),
        (b"", False),
        (b"a b", False),
        (b"a\n", False),
        (b'a"b', False),
        (b"\xe4", False),
    ],
)
def test_request_ids_from_outside_are_plain(value: bytes, valid: bool) -> None:
    assert is_request_id(value) is valid
    assert request_id_of([(b"x-request-id", value)], b"x-request-id") == (value.decode() if valid else "")


def test_comments_nested_deeper_than_anybody_writes_end_the_search_quickly() -> None:
    value = b"1.1 x " + b"(" * 16_000 + b"gw-1" + b")" * 16_000
    assert not has_via([(b"via", value)], "gw-1")
    assert has_via([(b"via", value + b", 1.1 gw-1")], "gw-1")


def test_two_request_ids_are_none() -> None:
    assert request_id_of([(b"x-request-id", b"a"), (b"x-request-id", b"b")], b"x-request-id") == ""
    assert request_id_of([], b"x-request-id") == ""


_addresses = st.one_of(
    st.ip_addresses().map(str), st.sampled_from(["10.0.0.2", "10.9.9.9", "unix", "unknown", "_x", "", "a b"])
)
_soup = st.text(alphabet='for=proto;:,"\\[]_ 10.29a:\t()', max_size=60).map(str.encode)
_claims = st.lists(
    st.one_of(
        st.tuples(st.just(b"x-forwarded-for"), st.lists(_addresses, max_size=4).map(", ".join).map(str.encode)),
        st.tuples(
            st.just(b"forwarded"),
            st.lists(_addresses.map(lambda text: f'for="{text}";proto=https'), max_size=4)
            .map(", ".join)
            .map(str.encode),
        ),
        st.tuples(
            st.sampled_from([b"x-forwarded-for", b"forwarded", b"x-forwarded-proto"]),
            st.one_of(_soup, st.binary(max_size=40)),
        ),
    ),
    max_size=5,
)
_sources = st.sampled_from(["x-forwarded-for", "forwarded", "header:X-Real-IP"])


@given(_claims, _sources)
def test_an_untrusted_peer_never_gets_another_address(claims: list[Field], source: str) -> None:
    identity = client_identity("203.0.113.7", claims, trusted=PROXIES, source=source)
    assert (identity.client, identity.chain, identity.scheme) == ("203.0.113.7", (), "http")


@given(_claims, st.ip_addresses().map(str))
def test_behind_a_trusted_proxy_the_claims_left_of_what_it_added_count_for_nothing(
    claims: list[Field], real: str
) -> None:
    expected = client_identity(real, [], trusted=Networks([])).client
    if PROXIES.contains(real):
        return
    quoted = f'"[{real}]"' if ":" in real else real
    for source, name, added in (
        ("x-forwarded-for", b"x-forwarded-for", real.encode()),
        ("forwarded", b"forwarded", f"for={quoted}".encode()),
    ):
        appended = client_identity(PEER, [*claims, (name, added)], trusted=PROXIES, source=source)
        assert appended.client == expected
        own = [value for key, value in claims if key == name]
        joined = b", ".join([*own, added])
        rest = [field for field in claims if field[0] != name]
        assert client_identity(PEER, [*rest, (name, joined)], trusted=PROXIES, source=source).client == expected


@given(_claims, _sources)
def test_the_believed_chain_consists_of_trusted_proxies_behind_the_client(claims: list[Field], source: str) -> None:
    identity = client_identity(PEER, claims, trusted=PROXIES, source=source)
    assert all(PROXIES.contains(address) for address in identity.chain[1:])
    assert identity.client == (identity.chain[0] if identity.chain else PEER)
    assert identity.scheme in ("http", "https")


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_looking_for_a_loop_never_fails(values: list[bytes]) -> None:
    has_via([(b"via", value) for value in values], "gw-1")
    assert has_via([*((b"via", value) for value in values), (b"via", b"1.1 gw-1")], "gw-1")
