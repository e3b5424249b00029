"""The short way under any ASGI server: in the task that the server makes for the request, past every layer."""

from __future__ import annotations

import asyncio
import re

from starlette.types import Receive, Scope, Send

from gateway.exchange import BEGUN_KEY, WHOLE_FOLLOWS, Admitted, Exchange
from gateway.express.proxied import ExpressExchange, ProxiedLane
from gateway.express.stored import StoredHead
from gateway.express.table import Express
from gateway.http.fields import Fields, may_be_secret
from gateway.ticker import Ticker
from gateway.upstream.messages import InboundResponse

# What no parser reads in two ways.
_PLAIN_TARGET = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1023}")
# A request with one of them has a body, or something to negotiate.
_NOT_PLAIN = frozenset([b"content-length", b"expect", b"transfer-encoding", b"upgrade"])
_MAX_REMEMBERED = 256


class MountedExpress:
    """Serves plain requests of servers that are not the gateway's own."""

    def __init__(self, ticker: Ticker) -> None:
        self._admitted: dict[object, Admitted] = {}
        self._admitted_by: Express | None = None
        self._waiting: set[_Waiting] = set()
        ticker.add(self._sweep)

    async def serve(self, express: Express, scope: Scope, receive: Receive, send: Send) -> bool:
        """Serve a request, to its end; False, and nothing has happened, when it has to go the long way."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["http_version"] != "1.1":
            return False
        target: bytes = scope.get("raw_path") or b""
        if scope["query_string"]:
            target = b"%b?%b" % (target, scope["query_string"])
        if len(target) > express.max_target_bytes or _PLAIN_TARGET.fullmatch(target) is None:
            return False
        if (scope.get("extensions") or {}).get("tls"):
            # Who the client is stands in its certificate, and what is remembered here goes by fields alone.
            return False
        admitted = self._admit(express, scope)
        if admitted is None:
            return False
        client = _Client()
        if not express.begin(admitted, target, client):
            return False
        waiting = client.waiting
        if waiting is None:
            await send(client.start)
            await send({"type": "http.response.body", "body": client.body})
            return True
        self._waiting.add(waiting)
        exchange = waiting.exchange
        try:
            await waiting.future
        except BaseException:
            # Cancelled by the server.
            waiting.abandon()
            exchange.outcome = "aborted"
            express.end(waiting)
            raise
        finally:
            self._waiting.discard(waiting)
        response = waiting.response
        fields = None if response is None or response.whole is None else waiting.lane.public_fields(waiting, response)
        if response is None or fields is None:
            await express.app({**scope, BEGUN_KEY: waiting}, receive, send)
            return True
        waiting.settle(response)
        body = response.whole or b""
        exchange.body_bytes_out = len(body)
        try:
            await send(_start(response.status_code, fields))
            await send({"type": "http.response.body", "body": body})
        except BaseException:
            exchange.outcome = "aborted"
            raise
        finally:
            express.end(waiting)
        return True

    def _admit(self, express: Express, scope: Scope) -> Admitted | None:
        client = scope.get("client")
        key = (client and client[0], scope["scheme"], tuple(scope["headers"]))
        if self._admitted_by is not express or len(self._admitted) > _MAX_REMEMBERED:
            self._admitted_by = express
            self._admitted.clear()
        admitted = self._admitted.get(key)
        if admitted is None:
            names = {name for name, _ in scope["headers"]}
            admitted = express.admit(scope) if _NOT_PLAIN.isdisjoint(names) else None
            # Whoever reads this process's memory shall not find secrets long after the request.
            if admitted is not None and not any(map(may_be_secret, names)):
                self._admitted[key] = admitted
        return admitted

    def _sweep(self, now: float) -> None:
        """Only the long way notices clients that leave: it has whatever takes longer than a moment."""
        for waiting in self._waiting:
            waiting.wake()
        self._waiting.clear()


class _Client:
    """The client of one request, as a lane sees it."""

    __slots__ = ("body", "start", "waiting")

    def __init__(self) -> None:
        self.waiting: _Waiting | None = None
        self.start: dict[str, object] = {}
        self.body = b""

    def begin_express(self, express: Express, lane: ProxiedLane, exchange: Exchange) -> _Waiting:
        self.waiting = _Waiting(lane, exchange)
        return self.waiting

    @property
    def may_answer_at_once(self) -> bool:
        return True

    def answer_at_once(self, status: int, head: StoredHead, id_name: bytes, exchange: Exchange, body: bytes) -> bool:
        fields = [*head.fields, *exchange.response_fields]
        if id_name:
            fields.append((id_name, exchange.request_id.encode("ascii")))
        self.start = _start(status, fields)
        self.body = body
        return True


class _Waiting(ExpressExchange):
    """An exchange for which a task waits."""

    __slots__ = ("future",)

    def __init__(self, lane: ProxiedLane, exchange: Exchange) -> None:
        super().__init__(lane, exchange)
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when something has come, or has taken a moment too long."""

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def outcome(self) -> InboundResponse | None:
        if not self.is_over:
            self.future = asyncio.get_running_loop().create_future()
            try:
                await self.future
            except asyncio.CancelledError:
                self.cancel()
                raise
        return await super().outcome()

    def answer(self, response: InboundResponse, body: bytes) -> None:
        self.wake()

    def go_on(self) -> None:
        self.wake()

    def inform(self, status: int, fields: Fields) -> None:
        """Other servers have no way of passing interim responses on."""


def _start(status: int, fields: Fields) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": fields, WHOLE_FOLLOWS: True}
