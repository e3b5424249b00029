"""Conversations with a cache at message level: what is asked, what the upstream would say, and who has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import Receive, Scope, Send

from gateway.middleware.cache import CacheMiddleware
from tests.middleware.cache_origin import HOST, Clock
from tests.support.messages import Fields, Sent, call, http_scope

Source = Literal["upstream", "store", "validated", "asked", "either"]
"""``validated``: the upstream was asked whether what is stored still holds, and said so; ``asked``: about anything."""


@dataclass
class Turn:
    """One request, and what the upstream answers should it be asked.

    ``fields`` and ``status`` are the upstream's; a request with a condition that fits gets 304 with ``update`` or
    ``fields``. ``comes`` says where the answer has to come from; ``gives``, ``has`` and ``lacks`` what the client gets.
    """

    fields: Fields = ()
    status: int = 200
    body: bytes | None = None
    ask: Fields = ()
    method: str = "GET"
    target: bytes = b"/"
    wait_s: float = 0.0
    takes_s: float = 0.0
    update: Fields | None = None
    pieces: Sequence[bytes] | None = None
    breaks: bool = False
    comes: Source = "either"
    gives: int | None = None
    has: Fields = ()
    lacks: Sequence[bytes] = ()
    asked_with: Fields = ()
    asked_without: Sequence[bytes] = ()
    text: bytes | None = None


@dataclass
class Conversation:
    """An upstream that answers turn by turn, behind a cache whose clock stands still."""

    settings: dict[str, Any] = field(default_factory=dict)
    dated: bool = True

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.cache = CacheMiddleware(self._upstream, clock=self.clock, **self.settings)
        self.seen: list[dict[bytes, bytes]] = []
        self.validated = False
        self._turn = Turn()
        self._number = 0

    async def run(self, *turns: Turn) -> list[Sent]:
        """Take the turns and check each; the answers."""
        answers = [await self.take(turn) for turn in turns]
        await self.cache.aclose()
        return answers

    async def take(self, turn: Turn) -> Sent:
        self._turn, self._number = turn, self._number + 1
        self.clock.now += turn.wait_s
        self.seen, self.validated = [], False
        sent = await call(self.cache, http_scope(turn.method, turn.target, [HOST, *turn.ask]))
        if turn.comes != "either":
            source = ("validated" if self.validated else "upstream") if self.seen else "store"
            wanted = ("upstream", "validated") if turn.comes == "asked" else (turn.comes,)
            assert source in wanted, (self._number, source, sent.headers)
        if turn.gives is not None:
            assert sent.status == turn.gives
        for name, value in turn.has:
            assert value in sent.values(name), (name, sent.headers)
        for name in turn.lacks:
            assert not sent.values(name), (name, sent.headers)
        for name, value in turn.asked_with:
            assert self.seen[-1].get(name) == value, self.seen[-1]
        for name in turn.asked_without:
            assert name not in self.seen[-1], self.seen[-1]
        if turn.text is not None:
            assert sent.body == turn.text
        return sent

    async def _upstream(self, scope: Scope, receive: Receive, send: Send) -> None:
        turn = self._turn
        asked = dict(scope["headers"])
        self.seen.append(asked)
        self.clock.now += turn.takes_s
        status, fields = turn.status, [(name.lower(), value) for name, value in turn.fields]
        validators = dict(fields)
        fits = asked.get(b"if-none-match", b"-") == validators.get(b"etag") or (
            b"if-none-match" not in asked and asked.get(b"if-modified-since", b"-") == validators.get(b"last-modified")
        )
        if status == 200 and fits:
            self.validated = True
            status = 304
            fields = list(turn.update) if turn.update is not None else fields
        if self.dated and not any(name == b"date" for name, _ in fields):
            fields.append((b"date", self.clock.date()))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        pieces = list(turn.pieces or ())
        if not pieces:
            body = turn.body if turn.body is not None else b"answer %d" % self._number
            pieces = [b"" if status in (204, 304) or turn.method == "HEAD" else body]
        for index, piece in enumerate(pieces):
            more = turn.breaks or index < len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if turn.breaks:
            raise ConnectionResetError("the upstream went away")


async def converse(*turns: Turn, dated: bool = True, **settings: Any) -> list[Sent]:
    """Take the turns with a new cache."""
    return await Conversation(settings, dated).run(*turns)


def cc(value: bytes) -> tuple[bytes, bytes]:
    """A Cache-Control field."""
    return b"cache-control", value


def at(offset_s: float) -> bytes:
    """An HTTP date so far from the time at which every conversation begins."""
    return Clock().date(offset_s)
