"""The short way under any ASGI server: in the task that the server makes for the request, past every layer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Generator

from starlette.types import Receive, Scope, Send

from gateway.exchange import BEGUN_KEY, WHOLE_FOLLOWS, Admitted, Exchange
from gateway.express.exchange import ExpressExchange
from gateway.express.fields import lines_of
from gateway.express.proxied import ProxiedLane, framed
from gateway.express.stored import StoredHead
from gateway.express.table import Express
from gateway.express.uvicorn_cycle import UvicornCycles
from gateway.http.fields import Fields, may_be_secret
from gateway.recent import Recent
from gateway.ticker import Ticker
from gateway.upstream.messages import InboundResponse

logger = logging.getLogger("gateway")

# What no parser reads in two ways.
_PLAIN_TARGET = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1023}")
# A request with one of them has a body, or something to negotiate.
_NOT_PLAIN = frozenset([b"content-length", b"expect", b"transfer-encoding", b"upgrade"])
_MAX_REMEMBERED = 256
_MAX_REMEMBERED_BYTES = 4 * 1024


class MountedExpress:
    """Serves plain requests of servers that are not the gateway's own."""

    def __init__(self, ticker: Ticker) -> None:
        self._admitted: dict[object, Admitted] = {}
        self._admitted_briefly: dict[object, Admitted] = {}
        self._admitted_by: Express | None = None
        self._recent = Recent()
        self._waiting: set[_Waiting] = set()
        self._waiting_long: set[_Waiting] = set()
        """Those that waited at the last tick already."""
        self._uvicorn = UvicornCycles()
        ticker.add(self._sweep)

    def serve(self, express: Express, scope: Scope, receive: Receive, send: Send) -> Awaitable[None] | None:
        """Begin to serve a request, or answer it; what is left has to be awaited at once.

        None, and nothing has happened, when it has to go the long way.

        Each coroutine around another one costs at every step of the task; there is one here where something is awaited.
        """
        if scope["type"] != "http" or scope["method"] != "GET" or scope["http_version"] != "1.1":
            return None
        target: bytes = scope.get("raw_path") or b""
        if scope["query_string"]:
            target = b"%b?%b" % (target, scope["query_string"])
        if len(target) > express.max_target_bytes or _PLAIN_TARGET.fullmatch(target) is None:
            return None
        extensions = scope.get("extensions")
        if extensions and extensions.get("tls"):
            # Who the client is stands in its certificate, and what is remembered here goes by fields alone.
            return None
        admitted = self._admit(express, scope)
        if admitted is None:
            return None
        client = _Client(self._uvicorn, send)
        if not express.begin(admitted, target, client):
            return None
        if client.waiting is None:
            return client.rest
        return self._finish(express, client.waiting, scope, receive, send)

    async def _finish(self, express: Express, waiting: _Waiting, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the response, and answer."""
        self._waiting.add(waiting)
        try:
            await waiting.future
        except BaseException:
            # Cancelled by the server.
            waiting.abandon()
            waiting.exchange.outcome = "aborted"
            express.end(waiting)
            raise
        finally:
            self._waiting.discard(waiting)
            self._waiting_long.discard(waiting)
        try:
            is_answered = self._write(express, waiting, send) or await _send(express, waiting, send)
        except Exception:
            if waiting.is_settled:
                raise
            logger.exception("request %s on route %r failed", waiting.exchange.request_id, waiting.lane.name)
            is_answered = False
        if not is_answered:
            await express.app({**scope, BEGUN_KEY: waiting}, receive, send)

    def _write(self, express: Express, waiting: _Waiting, send: Send) -> bool:
        """Answer past the server's messages; False, and nothing has happened, where that cannot be."""
        response, exchange = waiting.response, waiting.exchange
        cycle = self._uvicorn.find(send)
        if cycle is None or response is None or response.whole is None:
            return False
        head = waiting.lane.public_head(waiting, response)
        if head is None:
            return False
        size = len(head[2])
        lines, body = framed(*head)
        try:
            waiting.settle(response, size)
            self._uvicorn.write(cycle, response.status_code, lines, body)
        except BaseException:
            exchange.outcome = "aborted"
            raise
        finally:
            express.end(waiting)
        return True

    def _admit(self, express: Express, scope: Scope) -> Admitted | None:
        client = scope.get("client")
        # Who has no address is on a UNIX socket, or nobody: the server's own address tells which.
        peer = client[0] if client and client[0] else scope.get("server")
        key = (peer, scope.get("scheme"), scope.get("root_path"), tuple(scope["headers"]))
        if self._admitted_by is not express:
            self._admitted_by = express
            self._admitted.clear()
            self._admitted_briefly.clear()
        try:
            admitted = self._admitted.get(key) or self._admitted_briefly.get(key)
        except TypeError:
            # ASGI lets a field be a list as well, which nobody can look up.
            return None
        if admitted is None:
            names = {name for name, _ in scope["headers"]}
            admitted = express.admit(scope) if _NOT_PLAIN.isdisjoint(names) else None
            size = sum([len(name) + len(value) for name, value in scope["headers"]])
            if admitted is not None and size <= _MAX_REMEMBERED_BYTES and self._recent.has_met(key):
                # Whoever reads this process's memory shall not find secrets long after the request; but a page asks for
                # many things at once.
                known = self._admitted_briefly if any(map(may_be_secret, names)) else self._admitted
                if len(known) >= _MAX_REMEMBERED:
                    known.clear()
                known[key] = admitted
        return admitted

    def _sweep(self, now: float) -> None:
        # Only the long way notices clients that leave: it has whatever takes longer than a moment. To have it all that
        # is under way at a tick would be some percent of the traffic.
        for waiting in self._waiting_long:
            waiting.wake()
        self._waiting_long, self._waiting = self._waiting, set()
        self._admitted_briefly.clear()


class _Nothing:
    """What is to be awaited when all is done."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_NOTHING = _Nothing()


class _Client:
    """The client of one request, as a lane sees it."""

    __slots__ = ("_send", "_uvicorn", "rest", "waiting")

    def __init__(self, uvicorn: UvicornCycles, send: Send) -> None:
        self._uvicorn = uvicorn
        self._send = send
        self.waiting: _Waiting | None = None
        self.rest: Awaitable[None] = _NOTHING
        """What is left to do after an answer."""

    def begin_express(self, express: Express, lane: ProxiedLane, exchange: Exchange) -> _Waiting:
        self.waiting = _Waiting(lane, exchange)
        return self.waiting

    @property
    def may_answer_at_once(self) -> bool:
        return True

    def answer_at_once(self, status: int, head: StoredHead, id_name: bytes, exchange: Exchange, body: bytes) -> bool:
        own, request_id = exchange.response_fields, exchange.request_id.encode("ascii")
        cycle = self._uvicorn.find(self._send)
        if cycle is None:
            fields = [*head.fields, *own]
            if id_name:
                fields.append((id_name, request_id))
            self.rest = _send_both(self._send, status, fields, body)
            return True
        lines = head.lines
        if own:
            lines += lines_of(own)
        if id_name:
            lines = b"%b%b: %b\r\n" % (lines, id_name, request_id)
        self._uvicorn.write(cycle, status, lines, body)
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


async def _send(express: Express, waiting: _Waiting, send: Send) -> bool:
    """Answer in messages; False, and nothing has happened, if it takes more work."""
    response, exchange = waiting.response, waiting.exchange
    if response is None or response.whole is None:
        return False
    answer = waiting.lane.public_answer(waiting, response)
    if answer is None:
        return False
    fields, body = answer
    try:
        waiting.settle(response, len(body))
        await _send_both(send, response.status_code, fields, body)
    except BaseException:
        exchange.outcome = "aborted"
        raise
    finally:
        express.end(waiting)
    return True


async def _send_both(send: Send, status: int, fields: Fields, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": fields, WHOLE_FOLLOWS: True})
    await send({"type": "http.response.body", "body": body})
