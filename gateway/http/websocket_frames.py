"""Frames of a WebSocket that pass by, RFC 6455 section 5: where they begin and end, whatever is in them."""

from __future__ import annotations

from functools import lru_cache

from gateway.http.websocket import INVALID_DATA, TOO_BIG, is_sendable

PROTOCOL_ERROR = 1002

_CONT, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FIN = 0x80
_RESERVED = 0x70
_MASK = 0x80
_IS_CONTROL = 0x08
_MAX_CONTROL_BYTES = 125

# By the first byte of a frame, then by the second: the length of the whole frame; 0 where it takes a closer look.
Steps = tuple[tuple[int, ...], ...]

_NO_STEP = (0,) * 256
_NO_STEPS: Steps = (_NO_STEP,) * 256


class FrameFlow:
    """Follows the frames of one direction, and ends it at a close frame or where a frame breaks the rules.

    ``feed`` gives back what may be passed on: every byte as it came, except that a frame's head and a control frame
    wait until they are complete. What was given back ends between two frames unless ``owed`` is set. ``masked``:
    the frames come from a client. Neither extensions nor the UTF-8 of texts are known here.
    """

    __slots__ = (
        "_controls",
        "_held",
        "_masked",
        "_max_message_bytes",
        "_messages",
        "_overhead",
        "_partial_bytes",
        "_payload_bytes",
        "_steps",
        "_whole_steps",
        "close",
        "close_frame",
        "ended",
        "owed",
        "violation",
    )

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self.owed = 0
        """Bytes that are still to come of the frame under way."""
        self.ended = False
        self.close: tuple[int | None, str] | None = None
        """Code and reason of the close frame that was the end; no code: it had none."""
        self.close_frame = b""
        """That frame as it came; ``feed`` does not give it back."""
        self.violation: tuple[int, str] | None = None
        """Close code and reason for whom broke the rules."""
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._overhead = 6 if masked else 2
        self._steps = self._whole_steps = _steps(masked, min(max_message_bytes, 125))
        self._held = b""
        """The beginning of a head or of a control frame."""
        self._partial_bytes: int | None = None
        """Length of the fragments so far while a message is under way."""
        self._messages = 0
        self._payload_bytes = 0
        self._controls = 0

    @property
    def messages(self) -> int:
        """Messages that have passed completely."""
        return self._messages - (self.owed > 0 and self._partial_bytes is None)

    @property
    def payload_bytes(self) -> int:
        """Bytes of messages that have passed, without heads and masks."""
        return self._payload_bytes - self.owed

    @property
    def progress(self) -> int:
        """A number that changes with whatever comes, control frames included."""
        return self.payload_bytes + self._messages + self._controls

    def feed(self, data: bytes) -> bytes:
        """Take bytes and give back those that may be passed on; nothing after the end."""
        if self._held:
            data = self._held + data
            self._held = b""
        position = start = self.owed
        size = len(data)
        if position >= size:
            self.owed = position - size
            return data
        # Most messages are one short frame: 0.1 us for each here, five times as much below.
        steps, last, count = self._steps, size - 1, 0
        while position < last:
            step = steps[data[position]][data[position + 1]]
            if not step:
                break
            position += step
            count += 1
        self._messages += count
        self._payload_bytes += position - start - count * self._overhead
        if position < size:
            return self._look_closer(data, position)
        self.owed = position - size
        return data

    def _look_closer(self, data: bytes, position: int) -> bytes:
        """Go on at the head of a frame, whatever it is."""
        self.owed = 0
        size = len(data)
        while position < size and not self.ended:
            head = _read_head(data, position)
            if head is None:
                break
            first, masked, start, length = head
            if masked is not self._masked:
                self._fail(PROTOCOL_ERROR, "incorrect masking")
            elif first & _RESERVED:
                self._fail(PROTOCOL_ERROR, "reserved bits must be 0")
            elif first & _IS_CONTROL:
                if not self._take_control(first, data, start, length):
                    break
                if self.close is not None:
                    self.close_frame = data[position : start + length]
                    return data[:position]
            elif not self._take_data(first, length):
                break
            if self.violation is not None:
                break
            position = start + length
        if position >= size:
            self.owed = position - size
            return data
        if not self.ended:
            self._held = data[position:]
        return data[:position]

    def _take_control(self, first: int, data: bytes, start: int, length: int) -> bool:
        """Count or refuse a control frame, RFC 6455 section 5.5; false while it is incomplete."""
        opcode = first & 0x0F
        if opcode > _PONG or not first & _FIN or length > _MAX_CONTROL_BYTES:
            self._fail(PROTOCOL_ERROR, "invalid control frame")
        elif start + length > len(data):
            return False
        elif opcode == _CLOSE:
            payload = data[start : start + length]
            if self._masked:
                payload = unmasked(payload, data[start - 4 : start])
            self._take_close(payload)
        else:
            self._controls += 1
        return True

    def _take_close(self, payload: bytes) -> None:
        """Read a close frame, RFC 6455 section 7.4."""
        code = int.from_bytes(payload[:2], "big") if payload else None
        if len(payload) == 1 or (code is not None and not is_sendable(code)):
            self._fail(PROTOCOL_ERROR, "invalid close frame")
            return
        try:
            reason = payload[2:].decode("utf-8")
        except UnicodeDecodeError:
            self._fail(INVALID_DATA, "not UTF-8")
            return
        self.close = (code, reason)
        self._end()

    def _take_data(self, first: int, length: int) -> bool:
        """Count a frame of a message, or refuse it, RFC 6455 section 5.4."""
        opcode, partial_bytes = first & 0x0F, self._partial_bytes
        if opcode > _BINARY or (opcode == _CONT) is (partial_bytes is None):
            return self._fail(PROTOCOL_ERROR, "unexpected opcode")
        so_far = (partial_bytes or 0) + length
        if so_far > self._max_message_bytes:
            return self._fail(TOO_BIG, "message too big")
        self._payload_bytes += length
        if first & _FIN:
            self._messages += 1
            self._partial_bytes = None
            self._steps = self._whole_steps
        else:
            self._partial_bytes = so_far
            self._steps = _NO_STEPS
        return True

    def _fail(self, code: int, reason: str) -> bool:
        self.violation = (code, reason)
        self._end()
        return False

    def _end(self) -> None:
        self.ended = True
        self._steps = _NO_STEPS


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """A short ``payload`` without its mask, or with it, RFC 6455 section 5.3."""
    return bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))


def _read_head(data: bytes, position: int) -> tuple[int, bool, int, int] | None:
    """First byte, whether there is a mask, where the payload begins and its length; None while it is incomplete."""
    size = len(data)
    if size - position < 2:
        return None
    second = data[position + 1]
    start, length = position + 2, second & 0x7F
    if length > 125:
        end = start + (2 if length == 126 else 8)
        if size < end:
            return None
        start, length = end, int.from_bytes(data[start:end], "big")
    is_masked = second & _MASK != 0
    if is_masked:
        start += 4
    return None if size < start else (data[position], is_masked, start, length)


@lru_cache(maxsize=64)
def _steps(masked: bool, max_length: int) -> Steps:
    """Steps over whole messages in one frame of up to ``max_length`` bytes."""
    overhead, mask = (6, _MASK) if masked else (2, 0)
    row = list(_NO_STEP)
    for length in range(max_length + 1):
        row[mask | length] = overhead + length
    whole = tuple(row)
    return tuple(whole if first in (_FIN | _TEXT, _FIN | _BINARY) else _NO_STEP for first in range(256))
