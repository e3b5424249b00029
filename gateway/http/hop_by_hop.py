"""Which header fields cross the gateway, RFC 9110 section 7.6.1: those that concern the other end, and no forged ones.

One look at a dict decides about a field: verdicts are remembered by name, for the same few names come in every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from gateway.http.fields import Fields

FORWARDING_PREFIX = b"x-forwarded-"
FORWARDING_FIELDS = frozenset([b"forwarded", b"x-real-ip", b"true-client-ip", b"x-client-ip"])
"""With every field of ``FORWARDING_PREFIX``: what says who the client is. Whoever sends them, they are made anew."""

HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)

# The gateway answers an expectation itself; "Proxy" becomes HTTP_PROXY in a CGI environment (httpoxy).
_REQUEST_DROPPED = HOP_BY_HOP | {b"expect", b"proxy"}

# Whoever could have these removed by naming them in Connection would change what the gateway vouches for, or the
# framing. TE must be named there (RFC 9110 section 10.1.4) and is judged by its value.
_REQUEST_NEEDED = FORWARDING_FIELDS | {
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"expect",
    b"host",
    b"te",
    b"transfer-encoding",
    b"via",
}
# RFC 9110 section 7.6.1: what is meant for all recipients is never a connection option.
_RESPONSE_NEEDED = frozenset(
    [
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"vary",
    ]
)

# Values of Connection that name no field beyond those that are dropped anyway.
_PLAIN_CONNECTION = frozenset([b"keep-alive", b"close", b"Keep-Alive", b"Close", b"Upgrade", b"upgrade"])

_PASS, _DROP, _CONNECTION, _TE = range(4)
_MAX_REMEMBERED = 512
_NOTHING: frozenset[bytes] = frozenset()


class _RequestVerdicts(dict[bytes, int]):
    """What happens to a request field, by name; a name seen for the first time is judged and remembered."""

    def __init__(self, dropped: frozenset[bytes], protected: frozenset[bytes], special: dict[bytes, int]) -> None:
        super().__init__()
        self._dropped = dropped
        self._protected = protected
        self._special = special

    def __missing__(self, name: bytes) -> int:
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        verdict = self[name] = self._judge(name.lower())
        return verdict

    def _judge(self, name: bytes) -> int:
        if name in self._dropped:
            return self._special.get(name, _DROP)
        if name in self._protected:
            return _PASS
        # A WSGI server makes HTTP_X_USER of both X-User and X_User.
        forged = b"_" in name or name.startswith(FORWARDING_PREFIX) or name in FORWARDING_FIELDS
        return _DROP if forged else _PASS


class _ResponseNames(dict[bytes, bytes]):
    """The lower-case name of a response field; empty for those that are dropped."""

    def __init__(self, dropped: frozenset[bytes]) -> None:
        super().__init__()
        self._dropped = dropped

    def __missing__(self, name: bytes) -> bytes:
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        lower = name.lower()
        known = self[name] = b"" if lower in self._dropped and lower != b"connection" else lower
        return known


@lru_cache(maxsize=1024)
def _outbound_verdicts(drop: frozenset[bytes], protected: frozenset[bytes]) -> _RequestVerdicts:
    return _RequestVerdicts(_REQUEST_DROPPED | drop, protected, {b"connection": _CONNECTION, b"te": _TE})


@lru_cache(maxsize=1024)
def _admitted_verdicts(drop: frozenset[bytes]) -> _RequestVerdicts:
    dropped = drop | {b"connection", b"proxy", b"proxy-connection", b"keep-alive"}
    return _RequestVerdicts(dropped, _NOTHING, {b"connection": _CONNECTION})


@lru_cache(maxsize=1024)
def _inbound_names(drop: frozenset[bytes]) -> _ResponseNames:
    return _ResponseNames(HOP_BY_HOP | drop)


def outbound_fields(
    fields: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes], protected: frozenset[bytes] = _NOTHING
) -> Fields:
    """The fields of a client's request that go to the upstream, in order, in a new list. Names are in lower case.

    Gone are hop-by-hop fields, those that Connection names, ``drop``, ``Expect``, ``Proxy``, names with an underscore
    and all that says who the client is. ``TE`` passes when it is exactly ``trailers``; the hop's own Connection option
    for it is the transport's to add. ``protected`` are fields that the gateway has put there itself, such as those of
    its authentication: they pass whatever Connection or their name says.
    """
    verdicts = _outbound_verdicts(drop, protected)
    kept: Fields = []
    nominated: set[bytes] | None = None
    for field in fields:
        verdict = verdicts[field[0]]
        if not verdict:
            kept.append(field)
        elif verdict == _CONNECTION:
            if field[1] not in _PLAIN_CONNECTION:
                nominated = _nominated(nominated, field[1])
        elif verdict == _TE and field[1].strip(b" \t").lower() == b"trailers":
            kept.append((b"te", b"trailers"))
    if nominated is not None:
        nominated -= _REQUEST_NEEDED
        nominated -= protected
        kept = [field for field in kept if field[0] not in nominated]
    return kept


def admitted_fields(fields: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes] = _NOTHING) -> Fields:
    """The fields of a client's request that anything behind the door may read, in order, in a new list.

    Gone are Connection and what it names, ``Proxy``, names with an underscore, all that says who the client is, and
    ``drop``. With Connection gone, nothing that is added later can be removed by it. Framing and ``Expect`` stay: they
    are still to be judged.
    """
    verdicts = _admitted_verdicts(drop)
    kept: Fields = []
    nominated: set[bytes] | None = None
    for field in fields:
        verdict = verdicts[field[0]]
        if not verdict:
            kept.append(field)
        elif verdict == _CONNECTION and field[1] not in _PLAIN_CONNECTION:
            nominated = _nominated(nominated, field[1])
    if nominated is not None:
        # A handshake is still to be recognised by its Upgrade.
        nominated -= _REQUEST_NEEDED | {b"upgrade"}
        kept = [field for field in kept if field[0] not in nominated]
    return kept


def inbound_fields(fields: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes]) -> Fields:
    """The fields of an upstream's response that go to the client, in order, in a new list, names in lower case.

    Gone are hop-by-hop fields, those that Connection names, and ``drop``, which is in lower case.
    """
    names = _inbound_names(drop)
    kept: Fields = []
    nominated: set[bytes] | None = None
    for name, value in fields:
        lower = names[name]
        if lower == b"connection":
            if value not in _PLAIN_CONNECTION:
                nominated = _nominated(nominated, value)
        elif lower:
            kept.append((lower, value))
    if nominated is not None:
        nominated -= _RESPONSE_NEEDED
        kept = [field for field in kept if field[0] not in nominated]
    return kept


def is_plain_connection(value: bytes) -> bool:
    """Whether a value of Connection names no field beyond those that are dropped anyway."""
    return value in _PLAIN_CONNECTION


def _nominated(before: set[bytes] | None, connection: bytes) -> set[bytes]:
    """The options of Connection, in lower case, added to those of earlier ones."""
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    return options if before is None else before | options
