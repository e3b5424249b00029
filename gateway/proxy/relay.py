"""The response head and body on their way to the client."""

from __future__ import annotations

from starlette.types import Message, Send

from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields
from gateway.upstream.messages import InboundResponse


def head_fields(response: InboundResponse, hidden: frozenset[bytes]) -> Fields:
    """The fields that the client sees of an upstream's answer."""
    fields = inbound_fields(response.raw_fields, drop=hidden)
    if response.status_code == 204:
        # RFC 9110 section 8.6
        fields = [field for field in fields if field[0] != b"content-length"]
    if not response.request_complete:
        # An early answer: the rest of the upload is not wanted, so the connection cannot be used again.
        fields.append((b"connection", b"close"))
    return fields


async def relay(response: InboundResponse, fields: Fields, send: Send) -> None:
    """Pass the answer on, piece by piece as it comes; raises ResponseBroken when the upstream breaks off."""
    start: Message = {"type": "http.response.start", "status": response.status_code, "headers": fields}
    whole = response.whole
    if whole is not None:
        start[WHOLE_FOLLOWS] = True
        await send(start)
        await send({"type": "http.response.body", "body": whole})
        return
    await send(start)
    async for piece in response.stream:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
