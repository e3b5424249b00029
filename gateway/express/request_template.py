"""Heads of requests to an upstream, written once for all header sections with the same names.

Cookies, traces and referrers are new in every request, but which fields there are hardly ever is. What the long way
makes of the fields is asked once, with marks in the place of the values; from then on the values go where the marks
have come out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from operator import itemgetter

from gateway.errors import BadRequest
from gateway.exchange import Admitted, Exchange
from gateway.http.fields import Fields
from gateway.http.forwarded import forwarding_fields, forwarding_lines
from gateway.upstream.http1_request import request_head

MARK = secrets.token_hex(16)
"""Stands for the request id; nobody outside can know it."""

_MARK = MARK.encode("ascii")
# Of its own: a rule may put anything behind the request id.
_SLOT_MARK = secrets.token_hex(16).encode("ascii")
_SLOT = re.compile(_SLOT_MARK + rb"<([0-9]+)>")
_SOMEBODY = "192.0.2.1"
_value = itemgetter(1)
# What none of the values may hold, or they would be more than one.
_CONTROLS = bytes(byte for byte in (*range(32), 127) if byte != 0x09)
# It depends on their values what becomes of them, or of the head.
_JUDGED_BY_VALUE = frozenset([b"connection", b"content-length", b"te", b"transfer-encoding"])

OutboundFields = Callable[[Fields, Exchange], Fields]
"""The fields of a request on its way out, made from those of the client and from what the exchange says."""


class RequestTemplate:
    """What follows the target in the heads of all requests with fields of the same names, whoever sends them."""

    __slots__ = ("_choose", "_text")

    def __init__(self, text: bytes, slots: tuple[int, ...]) -> None:
        self._text = text
        self._choose = itemgetter(*slots)

    def fill(self, admitted: Admitted) -> list[bytes]:
        """The head for these fields, cut where the request id stands. Raises BadRequest as ``request_head`` does."""
        values = list(map(_value, admitted.fields))
        joined = b"".join(values)
        if len(joined.translate(None, _CONTROLS)) != len(joined):
            raise BadRequest("control bytes in a field")
        identity = admitted.identity
        values.append(forwarding_lines(identity.chain, identity.peer, admitted.public_host, identity.scheme))
        head: bytes = self._text % self._choose(values)
        return head.split(_MARK)


def make_template(admitted: Admitted, make_fields: OutboundFields) -> RequestTemplate | None:
    """The template for fields with these names; None where the head depends on more than that.

    ``make_fields`` may look at names, not at values; of the exchange at the route and the request id alone. What it
    says of the client stands in the forwarding fields, which are those of a client made up here: they are put in anew.
    """
    names = [name for name, _ in admitted.fields]
    if not _JUDGED_BY_VALUE.isdisjoint(names):
        return None
    exchange = Exchange("GET", b"/")
    exchange.request_id = MARK
    exchange.public_host = admitted.public_host
    # Somebody of whom everything is said that can be said of anybody: rules must show what they make of all of it.
    exchange.peer = exchange.client = _SOMEBODY
    fields = make_fields([(name, _slot(index)) for index, name in enumerate(names)], exchange)
    own = list(forwarding_fields(exchange.chain, exchange.peer, exchange.public_host, exchange.scheme))
    starts = [start for start in range(len(fields)) if fields[start : start + len(own)] == own]
    if len(starts) != 1:
        # Rules of the route have changed them.
        return None
    (start,) = starts
    fields[start : start + len(own)] = [(_SLOT_MARK, b"")]
    head = request_head(b"GET", b"/", fields, None).removeprefix(b"GET /")
    # They come as lines of their own.
    head = head.replace(_SLOT_MARK + b": \r\n", _slot(len(names)))
    return RequestTemplate(
        _SLOT.sub(b"%b", head.replace(b"%", b"%%")), tuple([int(number) for number in _SLOT.findall(head)])
    )


def _slot(number: int) -> bytes:
    return b"%b<%d>" % (_SLOT_MARK, number)
