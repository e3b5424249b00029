"""A response on its way to the client."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Message, Scope, Send

from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields
from gateway.upstream.messages import ResponseBody


def interim_relay(scope: Scope, hidden: frozenset[bytes]) -> Callable[[int, Fields], None] | None:
    """What passes informational answers on to the client; None where the server cannot send them."""
    send = (scope.get("extensions") or {}).get("gateway.informational")
    if send is None:
        return None

    def pass_on(status: int, fields: Fields) -> None:
        send(status, inbound_fields(fields, drop=hidden))

    return pass_on


async def relay(start: Message, body: ResponseBody, send: Send) -> None:
    """Pass the answer on, piece by piece as it comes; raises ResponseBroken when the upstream breaks off."""
    await send(start)
    async for piece in body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
