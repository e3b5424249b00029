"""Response heads as bytes: one status line, every field on a line of its own, framing decided in one place."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CONTROL_BYTES = bytes(code for code in range(32) if code not in (0x09, 0x0A, 0x0D)) + b"\x7f"
_MAX_KNOWN_NAMES = 4096

BODILESS, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)

PLAIN, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE = range(5)
_KINDS = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
}


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        # Unknown ones are passed on; the phrase may be empty, the space before it not (RFC 9112 section 4).
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}

# Names are checked once for each spelling: a dict lookup costs 0.03 us, a check of the bytes 0.3.
_known_names: dict[bytes, tuple[bytes, int]] = {}


class InvalidHead(RuntimeError):
    """The application gave a status or a field that cannot be sent."""


def response_head(
    status: int,
    fields: Iterable[tuple[bytes, bytes]],
    is_head: bool,
    is_http_11: bool,
    keep_alive: bool,
    date_line: bytes,
) -> tuple[bytes, int, int, bool]:
    """The serialised head, the framing of the body, its length in bytes, and whether the connection stays open.

    Framing is ``BODILESS``, ``LENGTH``, ``CHUNKED`` or ``UNTIL_CLOSE``. Raises InvalidHead for a status outside 200 to
    599, and for fields that would break the framing.
    """
    if not 200 <= status <= 599:
        raise InvalidHead(f"a response cannot have status {status}")
    length = -1
    has_date = False
    lines = 1
    parts = [STATUS_LINES[status]]
    for name, value in fields:
        prefix, kind = _known_names.get(name) or _learn(name)
        if kind:
            if kind == CONTENT_LENGTH:
                if length >= 0 or not value.isdigit():
                    raise InvalidHead("Content-Length is repeated or not a number")
                length = int(value)
                if status == 204:
                    continue
            elif kind == TRANSFER_ENCODING:
                # Framing is decided below.
                continue
            elif kind == CONNECTION:
                options = [option.strip() for option in value.lower().split(b",")]
                if b"close" in options:
                    keep_alive = False
                if b"upgrade" not in options:
                    continue
                # 426 names the protocol to upgrade to, and this option beside it.
                value = b"upgrade"
            else:
                has_date = True
        parts += (prefix, value, b"\r\n")
        lines += 1
    if not has_date:
        parts.append(date_line)
        lines += 1
    framing = LENGTH
    if is_head or status == 304 or status == 204:
        framing = BODILESS
    elif length < 0:
        if is_http_11:
            framing = CHUNKED
            parts.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        else:
            framing = UNTIL_CLOSE
            keep_alive = False
    if not keep_alive:
        parts.append(b"connection: close\r\n\r\n")
        lines += 2
    elif is_http_11:
        parts.append(b"\r\n")
        lines += 1
    else:
        parts.append(b"connection: keep-alive\r\n\r\n")
        lines += 2
    return _checked(b"".join(parts), lines), framing, length, keep_alive


def informational_head(status: int, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An interim answer, RFC 9110 section 15.2; it has no framing fields. Raises InvalidHead."""
    parts = [STATUS_LINES[status]]
    lines = 2
    for name, value in fields:
        prefix, kind = _known_names.get(name) or _learn(name)
        if kind in (PLAIN, DATE):
            parts += (prefix, value, b"\r\n")
            lines += 1
    parts.append(b"\r\n")
    return _checked(b"".join(parts), lines)


def _checked(head: bytes, lines: int) -> bytes:
    """``head``, unless a value holds a control byte: one look at the whole costs a tenth of one at each field."""
    if (
        head.count(b"\n") != lines
        or head.count(b"\r") != lines
        or len(head.translate(None, _CONTROL_BYTES)) != len(head)
    ):
        raise InvalidHead("a field value holds a control byte")
    return head


def _learn(name: bytes) -> tuple[bytes, int]:
    if not name or name.translate(None, _TOKEN_BYTES):
        raise InvalidHead("a field name is not a token")
    lower = name.lower()
    known = lower + b": ", _KINDS.get(lower, PLAIN)
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names[name] = known
    return known
