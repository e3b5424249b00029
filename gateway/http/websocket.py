"""WebSockets as far as bytes and numbers go, RFC 6455: the opening handshake and the codes of the closing one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

from gateway.errors import BadRequest, UpgradeRequired
from gateway.http.fields import Fields, get_all
from gateway.http.hop_by_hop import HOP_BY_HOP

Field = tuple[bytes, bytes]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# What belongs to one hop of a handshake or to the framing of a body, which a handshake has not: never passed on.
_HOP_FIELDS = HOP_BY_HOP | {
    b"content-length",
    b"expect",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
}

# Registered codes that may stand in a close frame, RFC 6455 section 7.4.1 and the IANA registry.
_REGISTERED_CODES = frozenset([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014])

NO_STATUS = 1005
ABNORMAL = 1006

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011

_MAX_REASON_BYTES = 123
_KEY_BYTES = 16


class HandshakeError(ValueError):
    """A server's answer that no client may take for an accepted handshake, RFC 6455 section 4.1."""


class WebSocketClosed(Exception):
    """The other end of a WebSocket closed it, or is gone.

    ``code`` is None when its close frame had none. ``vanished``: the connection ended without a close frame, or was
    failed by this end; ``code`` is then what a third party is to be told.
    """

    def __init__(self, code: int | None, reason: str = "", *, vanished: bool = False) -> None:
        super().__init__(f"closed with code {code} {reason!r}")
        self.code = code
        self.reason = reason
        self.vanished = vanished


def make_key(random_bytes: bytes) -> bytes:
    """The Sec-WebSocket-Key of 16 random bytes."""
    return base64.b64encode(random_bytes)


def accept_value(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers ``key``, RFC 6455 section 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_opening(fields: Fields) -> None:
    """Check the fields of a client's handshake, RFC 6455 sections 4.2.1 and 4.4; names are in lower case.

    Raises UpgradeRequired for another version, BadRequest for whatever else makes it none.
    """
    versions = get_all(fields, b"sec-websocket-version")
    if versions and versions != [b"13"]:
        known: Fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
        raise UpgradeRequired("a version of WebSocket other than 13", headers=known)
    if not versions:
        raise BadRequest("a WebSocket handshake without Sec-WebSocket-Version")
    keys = get_all(fields, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadRequest("a WebSocket handshake whose Sec-WebSocket-Key is not 16 bytes in base64")


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except ValueError:
        return False


def end_to_end(fields: Iterable[Field]) -> Fields:
    """The fields of either side's handshake that concern the other end: without those of this hop."""
    fields = list(fields)
    dropped = _HOP_FIELDS.union(_members(fields, b"connection")) - {b"host"}
    return [field for field in fields if field[0].lower() not in dropped]


def handshake_fields(fields: Iterable[Field], key: bytes, subprotocols: Sequence[str]) -> Fields:
    """The fields of a client's handshake: those of ``fields`` that concern the server, and the handshake's own."""
    handshake = [
        *end_to_end(fields),
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", key),
    ]
    if subprotocols:
        handshake.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1")))
    return handshake


def check_handshake(fields: Iterable[Field], key: bytes, offered: Sequence[str]) -> str | None:
    """The subprotocol that a 101 chose from ``offered``, which had no extensions.

    Raises HandshakeError where RFC 6455 section 4.1 makes the client fail the connection.
    """
    fields = [(name.lower(), value) for name, value in fields]
    if _members(fields, b"upgrade") != [b"websocket"]:
        raise HandshakeError("the answer does not upgrade to websocket")
    if b"upgrade" not in _members(fields, b"connection"):
        raise HandshakeError("the answer has no Connection: Upgrade")
    if [value.strip() for value in get_all(fields, b"sec-websocket-accept")] != [accept_value(key)]:
        raise HandshakeError("Sec-WebSocket-Accept does not answer the key")
    if any(value.strip() for value in get_all(fields, b"sec-websocket-extensions")):
        raise HandshakeError("the answer has extensions that were not offered")
    chosen = [value.strip().decode("latin-1") for value in get_all(fields, b"sec-websocket-protocol")]
    if not chosen:
        return None
    if len(chosen) > 1 or chosen[0] not in offered:
        raise HandshakeError("the answer has a subprotocol that was not offered")
    return chosen[0]


def is_sendable(code: int) -> bool:
    """Whether ``code`` may stand in a close frame, RFC 6455 section 7.4."""
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def relayed_close(code: int | None, reason: str | None) -> tuple[int | None, str]:
    """Code and reason to tell one side when the other closed with these; no code means a close frame without one.

    An end that is gone was never going to come back: 1001. Other codes that nobody may send become 1000.
    """
    if code is None or code == NO_STATUS:
        return None, ""
    if code == ABNORMAL:
        return GOING_AWAY, ""
    if not is_sendable(code):
        return NORMAL_CLOSURE, ""
    return code, shortened(reason or "")


def shortened(reason: str) -> str:
    """``reason`` cut to what fits a close frame, RFC 6455 section 5.5, between characters."""
    encoded = reason.encode("utf-8", "replace")
    return encoded[:_MAX_REASON_BYTES].decode("utf-8", "ignore")


def _members(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The members of a list field in lower case."""
    members = [member.strip().lower() for value in get_all(fields, name) for member in value.split(b",")]
    return [member for member in members if member]
