"""What the Autobahn test suite asks of a server, asked of a strict server through the gateway.

The numbers are those of its cases. Whatever breaks RFC 6455 closes the connection with the code for it, whoever
notices: the gateway's server, the gateway, or the server behind.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.streams.support import (
    BINARY,
    CLOSE,
    CONT,
    OWN,
    PING,
    PONG,
    SANSIO,
    TEXT,
    WSPROTO,
    close,
    frame,
    raw_client,
    running,
    websocket_origin,
)
from tests.support.gateway import proxying

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
DONE = close(1000)
NORMAL = [("close", 1000)]
STAR = "*"

servers = pytest.mark.parametrize("server", [OWN, SANSIO])


async def talk(server: str, data: bytes, piece: int = 0, until: Any = None) -> list[tuple[str, Any]]:
    """Send bytes to an echo through the gateway; what comes until the end. Closes when ``until`` has come."""
    async with (
        websocket_origin() as (url, _),
        running(proxying(url), server) as (_, port, _),
        raw_client(port) as client,
    ):
        await client.send(data, piece)
        return await client.answers(until)


@servers
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 70_000])
@pytest.mark.parametrize("kind", [TEXT, BINARY], ids=["text", "binary"])
async def test_1_messages_of_any_size(server: str, kind: int, size: int) -> None:
    payload = (STAR * size).encode()
    expected = ("text", STAR * size) if kind == TEXT else ("binary", payload)
    assert await talk(server, frame(kind, payload), until=expected) == [expected, *NORMAL]


@servers
@pytest.mark.parametrize("kind", [TEXT, BINARY], ids=["text", "binary"])
async def test_1_a_message_in_chops_of_997_bytes(server: str, kind: int) -> None:
    payload = (STAR * 65536).encode()
    expected = ("text", STAR * 65536) if kind == TEXT else ("binary", payload)
    assert await talk(server, frame(kind, payload), 997, expected) == [expected, *NORMAL]


@servers
@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize("payload", [b"", b"Hello", bytes(range(0, 250, 2)), b"\xfe" * 125])
async def test_2_a_ping_is_answered(server: str, payload: bytes, piece: int) -> None:
    pong = ("pong", payload)
    assert await talk(server, frame(PING, payload), piece, pong) == [pong, *NORMAL]


@servers
async def test_2_unasked_pongs_are_no_matter_and_many_pings_are_answered_in_order(server: str) -> None:
    pings = [b"payload-%d" % number for number in range(10)]
    data = frame(PONG, b"unasked") + b"".join(frame(PING, payload) for payload in pings)
    answers = await talk(server, data, until=("pong", pings[-1]))
    pongs = [payload for kind, payload in answers if kind == "pong"]
    # Of several pings that wait, the latest is enough, RFC 6455 section 5.5.3.
    assert pongs == sorted(pongs, key=pings.index) and pongs[-1] == pings[-1]
    assert [answer for answer in answers if answer[0] != "pong"] == NORMAL


@servers
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(frame(PING, b"x" * 126), id="2.5 ping of 126 bytes"),
        *(pytest.param(frame(TEXT, b"x", rsv=rsv), id=f"3 rsv {rsv}") for rsv in range(1, 8)),
        *(pytest.param(frame(opcode, b"x"), id=f"4 opcode {opcode}") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        pytest.param(frame(PING, b"x", fin=False) + frame(CONT, b"y"), id="5.1 fragmented ping"),
        pytest.param(frame(PONG, b"x", fin=False) + frame(CONT, b"y"), id="5.2 fragmented pong"),
        pytest.param(frame(CONT, b"x"), id="5.9 nothing to continue"),
        pytest.param(frame(CONT, b"x", fin=False) + frame(TEXT, b"y"), id="5.12 nothing to continue, unfinished"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), id="5.18 a new message inside another"),
        pytest.param(frame(CLOSE, b"x"), id="7.3.2 close of one byte"),
        pytest.param(frame(CLOSE, b"\x03\xe8" + b"x" * 124), id="7.3.6 close of 126 bytes"),
        *(pytest.param(close(code), id=f"7.9 code {code}") for code in (0, 999, 1004, 1005, 1006, 1015, 5000, 65535)),
        pytest.param(b"\x81\x02hi", id="a frame without a mask"),
    ],
)
async def test_what_breaks_the_protocol_is_1002(server: str, broken: bytes) -> None:
    answers = await talk(server, frame(TEXT, b"before") + broken)
    assert answers in ([("text", "before"), ("close", 1002)], [("close", 1002)])


@servers
@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            frame(TEXT, b"frag1", fin=False) + frame(CONT, b"frag2"), [("text", "frag1frag2")], id="5.3 two fragments"
        ),
        pytest.param(
            frame(TEXT, b"frag1", fin=False) + frame(PING, b"ping") + frame(CONT, b"frag2"),
            [("pong", b"ping"), ("text", "frag1frag2")],
            id="5.6 a ping between fragments",
        ),
        pytest.param(
            frame(BINARY, b"", fin=False)
            + frame(CONT, b"", fin=False)
            + frame(CONT, b"middle", fin=False)
            + frame(CONT),
            [("binary", b"middle")],
            id="6.1 empty fragments",
        ),
        pytest.param(
            frame(TEXT, b"1", fin=False)
            + frame(CONT, b"2", fin=False)
            + frame(PING, b"a")
            + frame(CONT, b"3", fin=False)
            + frame(PING, b"b")
            + frame(CONT, b"4"),
            [("pong", b"a"), ("pong", b"b"), ("text", "1234")],
            id="5.19 pings between many fragments",
        ),
    ],
)
async def test_5_fragments_are_one_message(server: str, data: bytes, expected: list[Any], piece: int) -> None:
    answers = await talk(server, data, piece, expected[-1])
    # Pings and messages are answered by different parties: their order among each other is free.
    assert [a for a in answers if a[0] != "pong"] == [*(e for e in expected if e[0] != "pong"), *NORMAL]
    pongs = [e for e in expected if e[0] == "pong"]
    assert [a for a in answers if a[0] == "pong"] in (pongs, pongs[-1:])


VALID = [
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\x00",
    "\x7f\x80",
    "\u07ff\u0800",
    "\ud7ff\ue000\ufffd\uffff",
    "\ufffe\ufeff",
    "\U00010000\U0010ffff",
]
INVALID = {
    "6.3 a surrogate inside text": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.4 above U+10FFFF": b"\xce\xba\xf4\x90\x80\x80edited",
    "6.6 cut short": b"\xce\xba\xe1\xbd",
    "6.12 a lone continuation byte": b"\x80",
    "6.13 fe": b"\xfe",
    "6.13 ff": b"\xff",
    "6.14 a lone first byte": b"\xe0 ",
    "6.18 overlong slash": b"\xc0\xaf",
    "6.18 overlong slash of four": b"\xf0\x80\x80\xaf",
    "6.19 highest overlong": b"\xc1\xbf",
    "6.20 overlong nul": b"\xc0\x80",
    "6.21 high surrogate": b"\xed\xa0\x80",
    "6.21 low surrogate": b"\xed\xbf\xbf",
    "6.22 five bytes": b"\xf8\x88\x80\x80\x80",
}


@servers
@pytest.mark.parametrize("text", VALID, ids=ascii)
async def test_6_text_at_the_boundaries_of_utf8(server: str, text: str) -> None:
    data = text.encode()
    bytewise = b"".join(frame(CONT if n else TEXT, data[n : n + 1], fin=n == len(data) - 1) for n in range(len(data)))
    assert await talk(server, frame(TEXT, data), until=("text", text)) == [("text", text), *NORMAL]
    assert await talk(server, bytewise, until=("text", text)) == [("text", text), *NORMAL]


@servers
@pytest.mark.parametrize("name", INVALID)
async def test_6_what_is_not_utf8_is_1007(server: str, name: str) -> None:
    data = INVALID[name]
    whole = await talk(server, frame(TEXT, data))
    assert whole == [("close", 1007)]
    bytewise = b"".join(frame(CONT if n else TEXT, data[n : n + 1], fin=n == len(data) - 1) for n in range(len(data)))
    assert await talk(server, bytewise) == [("close", 1007)]


@servers
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
async def test_7_codes_of_a_close_are_answered_in_kind(server: str, code: int) -> None:
    assert await talk(server, close(code, b"reason")) == [("close", code)]


@servers
@pytest.mark.parametrize("reason", [b"", b"x" * 123, "ß".encode() * 61], ids=len)
async def test_7_reasons_of_any_length(server: str, reason: bytes) -> None:
    assert await talk(server, close(1000, reason)) == NORMAL


@servers
async def test_7_a_close_without_a_code(server: str) -> None:
    assert (await talk(server, frame(CLOSE)))[-1] in (("close", None), ("close", 1000))


@servers
async def test_7_a_reason_that_is_not_utf8(server: str) -> None:
    assert (await talk(server, close(1000, b"\xce\xba\xe1\xbd")))[-1] in (("close", 1007), ("close", 1002))


@servers
@pytest.mark.parametrize("after", [frame(TEXT, b"after"), frame(PING, b"after"), DONE], ids=["text", "ping", "close"])
async def test_7_nothing_counts_after_a_close(server: str, after: bytes) -> None:
    assert await talk(server, DONE + after) == NORMAL


@servers
@pytest.mark.parametrize("fragment", [0, 64 * 1024, 1024 * 1024 - 1])
@pytest.mark.parametrize("kind", [TEXT, BINARY], ids=["text", "binary"])
async def test_9_a_message_of_4_mib(server: str, kind: int, fragment: int) -> None:
    payload = b"0123456789abcdef" * (4 * MIB // 16)
    size = fragment or len(payload)
    frames = b"".join(
        frame(CONT if at else kind, payload[at : at + size], fin=at + size >= len(payload))
        for at in range(0, len(payload), size)
    )
    expected = ("text", payload.decode()) if kind == TEXT else ("binary", payload)
    assert await talk(server, frames, until=expected) == [expected, *NORMAL]


@servers
async def test_9_a_thousand_small_messages_keep_their_order(server: str) -> None:
    texts = [f"message {number}" for number in range(1000)]
    data = b"".join(frame(TEXT, text.encode()) for text in texts)
    answers = await talk(server, data, until=("text", texts[-1]))
    assert answers == [*(("text", text) for text in texts), *NORMAL]


async def test_uvicorns_other_protocol_holds_the_rules_too() -> None:
    """It cuts who breaks them without saying why."""
    breaking = [frame(TEXT, b"x", rsv=4), frame(3, b"x"), frame(CONT, b"x"), close(999), frame(TEXT, b"\xed\xa0\x80")]
    texts = ["", "x" * 65536, *VALID]
    async with websocket_origin() as (url, _), running(proxying(url), WSPROTO) as (_, port, _):
        for text in texts:
            async with raw_client(port) as client:
                data = text.encode()
                await client.send(frame(TEXT, data[:3], fin=False) + frame(PING, b"ping") + frame(CONT, data[3:]))
                answers = await client.answers(("text", text))
                assert sorted(answers) == sorted([("pong", b"ping"), ("text", text), *NORMAL])
        for data in breaking:
            async with raw_client(port) as client:
                await client.send(data)
                assert [kind for kind, _ in await client.answers()] in ([], ["close"])
