"""Answers on their way to the client, message by message."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message

from gateway.errors import ResponseBroken
from gateway.http.fields import Fields
from gateway.proxy.relay import interim_relay, relay
from tests.support.messages import Sent, http_scope

pytestmark = pytest.mark.anyio

START: Message = {"type": "http.response.start", "status": 206, "headers": [(b"x-a", b"1")]}


class Pieces(httpx.AsyncByteStream):
    """A body that may break off."""

    def __init__(self, *pieces: bytes, broken: bool = False) -> None:
        self._pieces = list(pieces)
        self._broken = broken

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._broken:
            raise ResponseBroken("it broke off")
        raise StopAsyncIteration

    def close(self) -> None:
        self._pieces.clear()

    async def aclose(self) -> None:
        self.close()


async def test_a_streamed_answer_goes_piece_by_piece() -> None:
    sent = Sent()
    await relay(START, Pieces(b"a", b"b"), sent)
    assert sent.messages[0] is START
    assert sent.pieces == [b"a", b"b", b""] and sent.complete


async def test_an_answer_that_breaks_off_is_never_completed() -> None:
    sent = Sent()
    with pytest.raises(ResponseBroken):
        await relay(START, Pieces(b"a", broken=True), sent)
    assert sent.pieces == [b"a"] and not sent.complete


async def test_an_interim_answer_is_cleaned_as_a_final_one_is() -> None:
    told: list[tuple[int, Fields]] = []
    scope = http_scope(extensions={"gateway.informational": lambda status, fields: told.append((status, fields))})
    pass_on = interim_relay(scope, frozenset([b"server"]))
    assert pass_on is not None
    pass_on(103, [(b"link", b"</a>"), (b"server", b"x"), (b"connection", b"x-hop"), (b"x-hop", b"1")])
    assert told == [(103, [(b"link", b"</a>")])]


async def test_a_server_that_cannot_send_interim_answers_is_not_asked_to() -> None:
    assert interim_relay(http_scope(), frozenset()) is None
