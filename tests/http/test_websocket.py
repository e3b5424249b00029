from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError
from gateway.http.fields import Fields
from gateway.http.websocket import (
    HandshakeError,
    accept_value,
    check_handshake,
    check_opening,
    end_to_end,
    handshake_fields,
    is_sendable,
    make_key,
    relayed_close,
    shortened,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD: Fields = [
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
]


def test_the_accept_value_is_that_of_rfc6455_section_1_3() -> None:
    assert accept_value(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert make_key(b"the sample nonce") == KEY


def test_a_handshake_has_its_own_fields_and_what_concerns_the_server() -> None:
    client = [
        (b"host", b"example.com"),
        (b"connection", b"keep-alive, Upgrade, x-hop, host"),
        (b"upgrade", b"websocket"),
        (b"x-hop", b"1"),
        (b"cookie", b"a=b"),
        (b"sec-websocket-key", b"the client's"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"sec-websocket-protocol", b"old"),
        (b"content-length", b"0"),
    ]
    assert handshake_fields(client, KEY, ["chat", "v2.chat"]) == [
        (b"host", b"example.com"),
        (b"cookie", b"a=b"),
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-protocol", b"chat, v2.chat"),
    ]
    assert not any(name == b"sec-websocket-protocol" for name, _ in handshake_fields([], KEY, []))


def test_repeated_fields_of_an_answer_stay() -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert end_to_end([*GOOD, *cookies]) == cookies


def test_a_good_handshake_gives_its_subprotocol() -> None:
    assert check_handshake(GOOD, KEY, ["chat"]) is None
    assert check_handshake([*GOOD, (b"Sec-WebSocket-Protocol", b"chat")], KEY, ["v2", "chat"]) == "chat"
    many = [(b"Upgrade", b"WebSocket"), (b"Connection", b"keep-alive, upgrade"), GOOD[2]]
    assert check_handshake(many, KEY, []) is None


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(GOOD[1:], id="no upgrade"),
        pytest.param([(b"upgrade", b"h2c"), *GOOD[1:]], id="another upgrade"),
        pytest.param([(b"upgrade", b"websocket, h2c"), *GOOD[1:]], id="two upgrades"),
        pytest.param([GOOD[0], GOOD[2]], id="no connection"),
        pytest.param(GOOD[:2], id="no accept"),
        pytest.param([*GOOD[:2], (b"sec-websocket-accept", b"AAAA")], id="wrong accept"),
        pytest.param([*GOOD, GOOD[2]], id="two accepts"),
        pytest.param([*GOOD, (b"sec-websocket-extensions", b"permessage-deflate")], id="extension"),
        pytest.param([*GOOD, (b"sec-websocket-protocol", b"other")], id="subprotocol not offered"),
        pytest.param([*GOOD, (b"sec-websocket-protocol", b"chat, v2")], id="two subprotocols"),
    ],
)
def test_a_bad_handshake_is_none(fields: Fields) -> None:
    with pytest.raises(HandshakeError):
        check_handshake(fields, KEY, ["chat", "v2"])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (1000, 1000),
        (1001, 1001),
        (1002, 1002),
        (1003, 1003),
        (1004, 1000),
        (1005, None),
        (1006, 1001),
        (1007, 1007),
        (1008, 1008),
        (1009, 1009),
        (1010, 1010),
        (1011, 1011),
        (1012, 1012),
        (1013, 1013),
        (1014, 1014),
        (1015, 1000),
        (0, 1000),
        (999, 1000),
        (2999, 1000),
        (3000, 3000),
        (4999, 4999),
        (5000, 1000),
        (None, None),
    ],
)
def test_close_codes(code: int | None, told: int | None) -> None:
    assert relayed_close(code, "why")[0] == told


@given(st.one_of(st.none(), st.integers(0, 70000)), st.one_of(st.none(), st.text()))
def test_what_is_told_fits_a_close_frame(code: int | None, reason: str | None) -> None:
    told, text = relayed_close(code, reason)
    assert told is None or is_sendable(told)
    assert told is not None or not text
    assert len(text.encode()) <= 123


def test_a_reason_is_cut_between_characters() -> None:
    assert shortened("é" * 100) == "é" * 61
    assert shortened("a" * 123) == "a" * 123


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)], None),
        ([(b"sec-websocket-version", b"8"), (b"sec-websocket-key", KEY)], 426),
        ([(b"sec-websocket-version", b"13, 8"), (b"sec-websocket-key", KEY)], 426),
        ([(b"sec-websocket-key", KEY)], 400),
        ([(b"sec-websocket-version", b"13")], 400),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY), (b"sec-websocket-key", KEY)], 400),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"c2hvcnQ=")], 400),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"\xff" * 24)], 400),
    ],
)
def test_a_clients_handshake_is_checked_before_anybody_hears_of_it(fields: Fields, status: int | None) -> None:
    if status is None:
        check_opening(fields)
        return
    with pytest.raises(ClientError) as raised:
        check_opening(fields)
    assert raised.value.status == status
