"""Which header fields cross the gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.hop_by_hop import (
    FORWARDING_FIELDS,
    HOP_BY_HOP,
    admitted_fields,
    inbound_fields,
    outbound_fields,
)

NONE: frozenset[bytes] = frozenset()
Field = tuple[bytes, bytes]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | {b"expect", b"proxy"}))
def test_fields_of_one_hop_stay_out_of_the_upstreams_request(name: bytes) -> None:
    assert outbound_fields([(b"a", b"1"), (name, b"x"), (b"b", b"2")], drop=NONE) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_fields_of_one_hop_stay_out_of_the_clients_response(name: bytes) -> None:
    spelled = name.title()
    assert inbound_fields([(b"A", b"1"), (spelled, b"x"), (b"B", b"2")], drop=NONE) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize(
    "name", [*sorted(FORWARDING_FIELDS), b"x-forwarded-for", b"x-forwarded-anything", b"x_user", b"content_length"]
)
def test_forged_request_fields_are_dropped(name: bytes) -> None:
    assert outbound_fields([(name, b"x")], drop=NONE) == []
    assert admitted_fields([(name, b"x")]) == []


def test_fields_of_those_names_pass_in_responses() -> None:
    fields = [(b"x_user", b"1"), (b"x-real-ip", b"2"), (b"expect", b"3")]
    assert inbound_fields(fields, drop=NONE) == fields


@pytest.mark.parametrize("option", [b"x-secret", b"X-Secret", b"close, x-secret", b"a,\tX-SECRET ,b", b",,x-secret"])
def test_what_connection_names_is_dropped_wherever_it_stands(option: bytes) -> None:
    fields = [(b"x-secret", b"1"), (b"connection", option), (b"x-secret", b"2"), (b"x-other", b"3")]
    assert outbound_fields(fields, drop=NONE) == [(b"x-other", b"3")]
    assert admitted_fields(fields) == [(b"x-other", b"3")]
    assert inbound_fields(fields, drop=NONE) == [(b"x-other", b"3")]


def test_every_connection_field_counts() -> None:
    fields = [(b"connection", b"x-a"), (b"x-a", b"1"), (b"x-b", b"2"), (b"connection", b"x-b")]
    assert outbound_fields(fields, drop=NONE) == []
    assert inbound_fields(fields, drop=NONE) == []


@pytest.mark.parametrize("name", [b"host", b"content-length", b"via", b"content-type"])
def test_connection_cannot_remove_what_the_gateway_needs_of_a_request(name: bytes) -> None:
    fields = [(b"connection", b"close, " + name), (name, b"1")]
    assert outbound_fields(fields, drop=NONE) == [(name, b"1")]
    assert admitted_fields(fields) == [(name, b"1")]


@pytest.mark.parametrize("name", [b"content-length", b"content-encoding", b"cache-control", b"vary", b"date"])
def test_connection_cannot_remove_what_the_gateway_needs_of_a_response(name: bytes) -> None:
    assert inbound_fields([(b"Connection", name), (name, b"1")], drop=NONE) == [(name, b"1")]


def test_protected_fields_pass_whatever_connection_and_their_name_say() -> None:
    protected = frozenset([b"x-forwarded-user", b"x-tenant"])
    fields = [(b"connection", b"x-tenant"), (b"x-tenant", b"1"), (b"x-forwarded-user", b"alice")]
    assert outbound_fields(fields, drop=NONE, protected=protected) == fields[1:]
    assert outbound_fields(fields, drop=frozenset([b"x-tenant"]), protected=protected) == fields[2:]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"trailers", True),
        (b" Trailers ", True),
        (b"gzip", False),
        (b"trailers, deflate;q=0.5", False),
        (b"", False),
    ],
)
def test_te_passes_only_as_trailers(value: bytes, kept: bool) -> None:
    fields = [(b"te", value), (b"connection", b"TE")]
    assert outbound_fields(fields, drop=NONE) == ([(b"te", b"trailers")] if kept else [])


def test_admission_keeps_what_is_still_to_be_judged() -> None:
    fields = [
        (b"expect", b"100-continue"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade, transfer-encoding, expect"),
        (b"te", b"trailers"),
    ]
    assert admitted_fields(fields) == [field for field in fields if field[0] != b"connection"]


def test_dropped_names_are_the_callers() -> None:
    drop = frozenset([b"server"])
    fields = [(b"Server", b"x"), (b"server", b"y"), (b"Date", b"z")]
    assert inbound_fields(fields, drop=drop) == [(b"date", b"z")]
    assert outbound_fields([(b"authorization", b"x")], drop=frozenset([b"authorization"])) == []
    assert admitted_fields([(b"cf-ip", b"x")], drop=frozenset([b"cf-ip"])) == []


def test_results_are_lists_of_their_own() -> None:
    fields = [(b"a", b"1")]
    for result in (outbound_fields(fields, drop=NONE), admitted_fields(fields), inbound_fields(fields, drop=NONE)):
        result.append((b"b", b"2"))
    assert fields == [(b"a", b"1")]
    assert outbound_fields(fields, drop=NONE) == fields


def test_more_names_than_are_remembered_are_still_judged() -> None:
    many = [(b"x-%d" % number, b"1") for number in range(2000)] + [(b"x_y", b"1")]
    assert outbound_fields(many, drop=NONE) == many[:-1]
    assert inbound_fields(many, drop=frozenset([b"x-7"])) == [field for field in many if field[0] != b"x-7"]


_TOKEN_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_names = st.one_of(
    st.sampled_from(sorted(HOP_BY_HOP | FORWARDING_FIELDS)),
    st.sampled_from([b"x-a", b"x-b", b"x-forwarded-for", b"host", b"set-cookie", b"proxy", b"x_a", b"expect"]),
    st.lists(st.sampled_from(_TOKEN_BYTES), min_size=1, max_size=12).map(bytes),
)
_values = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0"))
_connections = st.lists(_names, max_size=3).map(b", ".join)
_fields = st.lists(st.one_of(st.tuples(_names, _values), st.tuples(st.just(b"connection"), _connections)), max_size=12)


def _options(fields: list[Field]) -> set[bytes]:
    return {
        option.strip(b" \t").lower() for name, value in fields if name == b"connection" for option in value.split(b",")
    }


@given(_fields)
def test_no_hop_by_hop_field_survives_and_all_others_do_in_order(fields: list[Field]) -> None:
    result = outbound_fields(fields, drop=NONE)
    names = {name for name, _ in result}
    assert not names & (HOP_BY_HOP - {b"te"})
    assert not any(b"_" in name or name.startswith(b"x-forwarded-") for name in names)
    gone = HOP_BY_HOP | FORWARDING_FIELDS | {b"expect", b"proxy"} | (_options(fields) - {b"host", b"content-length"})
    expected = [
        field
        for field in fields
        if field[0] not in gone and b"_" not in field[0] and not field[0].startswith(b"x-forwarded-")
    ]
    needed = (b"te", b"via", b"content-type", b"content-encoding")
    assert [field for field in result if field[0] not in needed] == [
        field for field in expected if field[0] not in needed
    ]


@given(_fields)
def test_responses_lose_the_same_fields_and_no_others(fields: list[Field]) -> None:
    result = inbound_fields(fields, drop=NONE)
    needed = {b"cache-control", b"content-encoding", b"content-length", b"content-range", b"content-type", b"date"}
    gone = HOP_BY_HOP | (_options(fields) - needed - {b"vary"})
    assert result == [field for field in fields if field[0] not in gone]


@given(_fields)
def test_filtering_twice_changes_nothing(fields: list[Field]) -> None:
    once = outbound_fields(fields, drop=NONE)
    assert outbound_fields(once, drop=NONE) == once
    admitted = admitted_fields(fields)
    assert admitted_fields(admitted) == admitted
    assert outbound_fields(admitted, drop=NONE) == once
