from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.websocket_frames import FrameFlow, unmasked

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x01\x80\xff\x10"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = False, wide: bool = False) -> bytes:
    """A frame; ``wide`` writes its length in more bytes than it takes."""
    first, mask = (0x80 if fin else 0) | opcode, 0x80 if masked else 0
    length = len(payload)
    if length < 126 and not wide:
        head = bytes([first, mask | length])
    elif length < 65536 and not wide:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    return head + (MASK + unmasked(payload, MASK) if masked else payload)


def close_frame(code: int | None, reason: bytes = b"", *, masked: bool = False) -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, masked=masked)


def flow_of(*, masked: bool = False, max_message_bytes: int = 1_000_000) -> FrameFlow:
    return FrameFlow(masked=masked, max_message_bytes=max_message_bytes)


payloads = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([0, 1, 124, 125, 126, 127, 65535, 65536]).map(lambda size: b"y" * size),
)
fragments = st.lists(payloads, min_size=1, max_size=4)
controls = st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=2)
messages = st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), fragments, controls, st.booleans()), max_size=6)


def in_frames(talk: list[tuple[int, list[bytes], list[tuple[int, bytes]], bool]], masked: bool) -> list[bytes]:
    """The frames of messages, control frames between their fragments."""
    frames = []
    for opcode, pieces, control, wide in talk:
        for number, piece in enumerate(pieces):
            fin = number == len(pieces) - 1
            frames.append(frame(CONT if number else opcode, piece, fin=fin, masked=masked, wide=wide))
            frames += [frame(*one, masked=masked) for one in control]
    return frames


@given(messages, st.lists(st.integers(0, 200_000), max_size=12), st.booleans(), st.booleans())
def test_bytes_pass_unchanged_however_they_are_cut(
    talk: list[tuple[int, list[bytes], list[tuple[int, bytes]], bool]], cuts: list[int], masked: bool, closes: bool
) -> None:
    frames = in_frames(talk, masked)
    body = b"".join(frames)
    end = close_frame(1000, b"bye", masked=masked) if closes else b""
    raw = body + end + (b"what follows" if closes else b"")
    boundaries = {0}
    for one in frames:
        boundaries.add(max(boundaries) + len(one))
    flow, passed = flow_of(masked=masked), b""
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {len(raw)})
    for start, stop in zip([0, *ends], ends, strict=False):
        passed += flow.feed(raw[start:stop])
        assert (flow.owed == 0) is (len(passed) in boundaries)
        assert flow.ended is (closes and stop >= len(body) + len(end))
    assert passed == body and flow.violation is None
    assert flow.close == ((1000, "bye") if closes else None) and flow.close_frame == end
    assert flow.messages == len(talk)
    assert flow.payload_bytes == sum(len(piece) for _, pieces, _, _ in talk for piece in pieces)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_no_bytes_make_it_fail_and_cuts_make_no_difference(raw: bytes, cuts: list[int], masked: bool) -> None:
    whole, passed = flow_of(masked=masked, max_message_bytes=200), b""
    expected = whole.feed(raw)
    flow = flow_of(masked=masked, max_message_bytes=200)
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {len(raw)})
    for start, stop in zip([0, *ends], ends, strict=False):
        passed += flow.feed(raw[start:stop])
    assert (passed, flow.owed, flow.close, flow.violation) == (expected, whole.owed, whole.close, whole.violation)
    assert (flow.messages, flow.payload_bytes) == (whole.messages, whole.payload_bytes)
    assert raw.startswith(passed)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [0, 125, 126, 1000, 65536])
def test_a_message_counts_when_it_is_complete_its_bytes_when_they_come(length: int, masked: bool) -> None:
    flow = flow_of(masked=masked)
    raw = frame(BINARY, b"x" * length, masked=masked)
    assert flow.feed(raw[:-1] if length else raw)
    if length:
        assert (flow.messages, flow.payload_bytes, flow.owed) == (0, length - 1, 1)
        assert flow.feed(raw[-1:]) == raw[-1:]
    assert (flow.messages, flow.payload_bytes, flow.owed) == (1, length, 0)


def test_a_control_frame_passes_when_it_is_complete() -> None:
    flow = flow_of()
    raw = frame(TEXT, b"a", fin=False) + frame(PING, b"ping")
    assert flow.feed(raw[:-1]) == frame(TEXT, b"a", fin=False)
    before = flow.progress
    assert flow.feed(raw[-1:]) == frame(PING, b"ping")
    assert flow.progress != before and (flow.messages, flow.payload_bytes, flow.owed) == (0, 1, 0)


RULES = [
    pytest.param(b"\xc1\x01x", 1002, id="5.2 reserved bit"),
    pytest.param(b"\x91\x01x", 1002, id="5.2 last reserved bit"),
    pytest.param(frame(3, b"x"), 1002, id="5.2 unknown data opcode"),
    pytest.param(frame(11, b"x"), 1002, id="5.2 unknown control opcode"),
    pytest.param(frame(CONT, b"x"), 1002, id="5.4 nothing to continue"),
    pytest.param(frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), 1002, id="5.4 interrupted"),
    pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y", fin=False), 1002, id="5.4 begun twice"),
    pytest.param(frame(PING, fin=False), 1002, id="5.5 fragmented ping"),
    pytest.param(frame(PING, b"x" * 126), 1002, id="5.5 long ping"),
    pytest.param(frame(TEXT, b"x", masked=True), 1002, id="5.1 masked"),
    pytest.param(frame(CLOSE, b"\x03"), 1002, id="5.5.1 half a code"),
    pytest.param(close_frame(1005), 1002, id="7.4.1 code 1005"),
    pytest.param(close_frame(1006), 1002, id="7.4.1 code 1006"),
    pytest.param(close_frame(1015), 1002, id="7.4.1 code 1015"),
    pytest.param(close_frame(999), 1002, id="7.4.2 code 999"),
    pytest.param(close_frame(1000, b"\xff"), 1007, id="5.5.1 reason not UTF-8"),
    pytest.param(frame(BINARY, b"x" * 101), 1009, id="too big"),
    pytest.param(b"\x82\x7f" + b"\xff" * 8, 1009, id="5.2 length beyond 63 bits"),
    pytest.param(frame(BINARY, b"x" * 60, fin=False) + frame(CONT, b"x" * 41), 1009, id="too big together"),
]


@pytest.mark.parametrize(("raw", "code"), RULES)
def test_what_breaks_the_rules_ends_it_and_does_not_pass(raw: bytes, code: int) -> None:
    flow = flow_of(max_message_bytes=100)
    good = frame(BINARY, b"x" * 100)
    passed = flow.feed(good + raw)
    assert flow.violation is not None and flow.violation[0] == code and flow.ended and flow.close is None
    assert passed.startswith(good) and not passed.endswith(raw) and flow.owed == 0
    assert flow.feed(good) == b"" and flow.messages == 1


def test_a_client_that_does_not_mask_breaks_the_rules() -> None:
    flow = flow_of(masked=True)
    assert flow.feed(frame(TEXT, b"x")) == b"" and flow.violation == (1002, "incorrect masking")


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126])
def test_the_limit_holds_at_the_byte(size: int) -> None:
    flow = flow_of(max_message_bytes=size)
    assert flow.feed(frame(TEXT, b"x" * size)) and flow.violation is None
    assert flow.feed(frame(TEXT, b"x" * (size + 1))) == b""
    assert flow.violation == (1009, "message too big")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("code", "reason"), [(None, ""), (1000, ""), (1001, "bye"), (3000, "\u00e9" * 61), (4999, "x" * 123)]
)
def test_a_close_frame_is_read_and_kept(code: int | None, reason: str, masked: bool) -> None:
    flow = flow_of(masked=masked)
    raw = close_frame(code, reason.encode(), masked=masked)
    assert flow.feed(raw) == b""
    assert (flow.close, flow.close_frame, flow.violation) == ((code, reason), raw, None)
