"""A response on its way to the client."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Message, Scope, Send

from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields
from gateway.upstream.messages import InboundResponse


def interim_relay(scope: Scope, hidden: frozenset[bytes]) -> Callable[[int, Fields], None] | None:
    """What passes informational answers on to the client; None where the server cannot send them."""
    send = (scope.get("extensions") or {}).get("gateway.informational")
    if send is None:
        return None

    def pass_on(status: int, fields: Fields) -> None:
        send(status, inbound_fields(fields, drop=hidden))

    return pass_on


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
