"""One request on its way to the upstream, whose answer many clients may be waiting for.

The application below runs in a task of its own, so that neither a slow nor a leaving client decides what others get:

    decided    it is known how the answer can be used, at the latest with its head
      shared     it is being gathered; readers follow at their own pace, and the store gets it when it is complete
      confirmed  what is stored still holds, or another process has stored it meanwhile
      alone      only for the client that leads; it goes straight to that client
      failed     there is no answer, or an error for which something stale stands
    ended      nothing more will come
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from starlette.types import Message

from gateway.errors import ClientLeft, GatewayError, ResponseBroken
from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.cache_status import Forward
from gateway.http.caching import (
    HEURISTIC_STATUSES,
    STALE_IF_ERROR_STATUSES,
    Judgement,
    may_answer_error,
)
from gateway.http.fields import Fields, content_length, without
from gateway.http.vary import Selectors, selects
from gateway.middleware.cache_body import GrowingBody, Reader
from gateway.middleware.cache_plan import FlightPlan, Tower
from gateway.middleware.cache_request import CacheRequest
from gateway.middleware.cache_turn import FlightKey, Turn
from gateway.stores.base import Entry, Purge, key_url

Outcome = Literal["", "shared", "confirmed", "alone", "failed"]

ALONE_S = 30.0
"""How long a key whose answers cannot be shared is remembered as such."""

ALONE_AFTER_ERROR_S = 1.0

logger = logging.getLogger("gateway.cache")


def alone_s(status: int) -> float:
    """How long a key is remembered whose answer, with ``status``, may not be stored."""
    return ALONE_S if status < 500 else ALONE_AFTER_ERROR_S


class Flight:
    """Fetches one object for ``request``, which leads, and for whoever joins.

    ``stale`` is validated rather than fetched anew. ``selectors`` tell flights of variants apart. One that is ``solo``
    is for its leader only; one that is not ``led`` goes on behind an answer that was given already.
    """

    def __init__(
        self,
        tower: Tower,
        plan: FlightPlan,
        request: CacheRequest,
        stale: Entry | None,
        reason: Forward,
        *,
        selectors: Selectors = (),
        solo: bool = False,
        led: bool = True,
    ) -> None:
        self.plan = plan
        self.request = request
        self.stale = stale
        self.reason: Forward = reason
        self.key: FlightKey = (request.key, selectors)
        self.url = key_url(request.key)
        self.solo = solo
        self.led = led
        self.requested_at = tower.clock()
        self.decided = asyncio.Event()
        self.leader_may_go = asyncio.Event()
        """Set with ``decided``, or when the client that leads has left before that."""
        self.ended = asyncio.Event()
        self.outcome: Outcome = ""
        self.status: int | None = None
        """What the upstream answered."""
        self.entry: Entry | None = None
        """The answer, while it is shared without its body."""
        self.head: Fields = []
        """The fields of the answer as they came."""
        self.error: Exception | None = None
        self.judgement: Judgement | None = None
        self.leader_left = False
        self.body = GrowingBody()
        self.task: asyncio.Task[None] | None = None
        self._tower = tower
        self._gathering = False
        self._gathered_bytes = 0
        self._ignores_rest = False
        self._is_unrelated = False
        self._request_is_due = False
        self._alone_s = 0.0
        self._purges: list[Purge] = []
        self._kept: Entry | None = None

    # The side of the readers.

    def join(self) -> Reader:
        """Follow from the first byte."""
        reader = Reader()
        self.body.readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Stop following. The last to leave ends what nobody will use."""
        self.body.readers.discard(reader)
        self.body.wake()
        if self.body.readers or self.ended.is_set() or self.body.is_complete:
            return
        needed = self.outcome in ("confirmed", "failed") or (self._gathering and self._tower.may_detach())
        if not needed and self.task is not None:
            self._tower.land(self)
            self.task.cancel()

    def is_shareable(self) -> bool:
        """Whether the answer is one that a request of the same time may get as well.

        It has to be fresh as of when it was asked for: the time that the upstream took does not send everybody again.
        """
        if self.entry is None or (self.judgement is not None and not self.judgement.storable):
            return False
        return self.entry.freshness.fresh_until > self.requested_at

    def selects(self, request: CacheRequest) -> bool:
        """Whether the answer is the variant that ``request`` selects."""
        return self.entry is not None and selects(self.entry.selectors, request.headers)

    async def relay(self, reader: Reader, request: CacheRequest, fields: Fields) -> None:
        """Send the shared answer with ``fields``, piece by piece as it comes. Raises what broke it."""
        assert self.entry is not None
        leads = request is self.request
        self._raise_error(leads)
        start: Message = {"type": "http.response.start", "status": self.entry.status, "headers": fields}
        if self.body.is_complete:
            start[WHOLE_FOLLOWS] = True
        await request.send(start)
        while True:
            if leads and self.leader_left:
                raise ClientLeft("the client left while it was being answered")
            piece, more = self.body.read(reader)
            if piece or not more:
                await request.send({"type": "http.response.body", "body": piece, "more_body": more})
                if not more:
                    return
            else:
                self._raise_error(leads)
                await self.body.wait()

    def _raise_error(self, leads: bool) -> None:
        if self.error is not None:
            # One exception raised by many would gather the tracebacks of all.
            raise self.error if leads else ResponseBroken("the shared answer broke off")

    def purge(self, purge: Purge) -> None:
        """What is under way is older than ``purge``: if that means it, it is not stored."""
        self._purges.append(purge)
        self._tower.land(self)

    # The side of the upstream.

    async def run(self) -> None:
        """Fetch. However it ends, the readers are told; nothing but cancellation is raised."""
        turn = Turn(self._tower.store, self.key, self.plan.lock_timeout_s)
        try:
            if not self.solo and await turn.wait():
                self.entry = await turn.what_came(self.request, self.requested_at, self._tower.clock())
            if self.entry is not None:
                self._decide("confirmed")
            else:
                await self._fetch()
        except asyncio.CancelledError:
            self.give_up()
            raise
        except Exception as error:
            if not self.body.readers and not isinstance(error, GatewayError):
                logger.exception("fetching %s with no client waiting failed", self.url.decode("latin-1"))
            if self._kept is not None:
                # Some layers end an answer properly and raise what cut it short afterwards.
                await self._tower.store.drop(self.request.key, self._kept)
            self._fail(error)
        finally:
            self._tower.land(self)
            self._stop_gathering()
            self.ended.set()
            await turn.give_back(self._alone_s)

    def give_up(self) -> None:
        """Tell everybody that nothing more will come."""
        if not self.ended.is_set():
            self._fail(ResponseBroken("the fetch was stopped"))
            self.ended.set()

    async def _fetch(self) -> None:
        # Alone, the client's own conditions go to the upstream: nothing that comes back is for others.
        unchanged = self.solo and self.stale is None
        await self.plan.app(self.request.inner_scope(self.stale, unchanged=unchanged), self._receive, self._send)
        if self._is_unrelated:
            # The 304 was about something that is not here: the answer itself has to be fetched.
            self._is_unrelated = self._ignores_rest = False
            self.stale = None
            self._request_is_due = True
            await self.plan.app(self.request.inner_scope(None), self._receive, self._send)
        if not self.body.is_complete and not self._ignores_rest:
            raise ResponseBroken("the application ended without a complete answer")

    async def _receive(self) -> Message:
        if self._request_is_due:
            # The second time that the application is called: the first one has had the end of the request.
            self._request_is_due = False
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self.request.receive()
        if message["type"] == "http.disconnect":
            self.leader_left = True
            self.leader_may_go.set()
            self.body.wake()
            if self._goes_on_without_leader():
                await self.ended.wait()
            else:
                self._tower.land(self)
        return message

    def _goes_on_without_leader(self) -> bool:
        if self.outcome == "alone":
            return False
        return len(self.body.readers) > 1 or (self._gathering and self._tower.may_detach())

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._ignores_rest:
            return
        if kind == "http.response.start":
            await self._on_head(message)
        elif self.outcome == "alone":
            if kind == "http.response.body" and not message.get("more_body", False):
                self.body.finish()
            if self.led:
                await self.request.send(message)
        elif kind == "http.response.body":
            await self._on_body(message.get("body", b""), message.get("more_body", False))
        elif self.led and self.status is None and not self.leader_left:
            # An interim answer: for whoever asked.
            await self.request.send(message)

    async def _on_head(self, message: Message) -> None:
        self.status = status = message["status"]
        self.head = fields = [(name.lower(), value) for name, value in message.get("headers", ())]
        now, stale = self._tower.clock(), self.stale
        if stale is not None and status == 304:
            await self._on_confirmation(stale, fields, now)
            return
        if (
            stale is not None
            and status in STALE_IF_ERROR_STATUSES
            and may_answer_error(stale.freshness, self.request.directives, now)
        ):
            self._ignores_rest = True
            self._tower.land(self)
            self._decide("failed")
            return
        judgement = self.judgement = self.plan.judge(self.request, status, fields, self.requested_at, now)
        length = content_length(fields)
        if length is not None and length > self.plan.max_object_bytes:
            judgement = self.judgement = Judgement("too large", judgement.directives, judgement.freshness)
        if not judgement.storable or not self._tower.may_gather() or message.get("trailers"):
            await self._go_alone(message, judgement, stale)
            return
        self.entry = self.plan.entry(self.request, status, fields, judgement, self.requested_at, now)
        self._gathering = True
        self.outcome = "shared"
        if not self.is_shareable():
            self._remember_alone(ALONE_S)
        if not message.get(WHOLE_FOLLOWS):
            self._tell()

    async def _go_alone(self, message: Message, judgement: Judgement, stale: Entry | None) -> None:
        status = message["status"]
        if judgement.reason and status != 304 and not self.request.directives.no_store:
            self._remember_alone(alone_s(status))
        if stale is not None and status in HEURISTIC_STATUSES:
            # The resource has another state now, and not one to be kept: the old one is no use either.
            await self._tower.store.drop(self.request.key, stale)
        self._decide("alone")
        if self.leader_left:
            raise ClientLeft("the only client that the answer is for has left")
        if self.led:
            fields = [*self.head, *self.plan.status_fields(self)]
            await self.request.send({**message, "headers": fields})

    def _remember_alone(self, for_s: float) -> None:
        self._alone_s = for_s if for_s == ALONE_S else 0.0
        self._tower.remember_alone(self.request.key, for_s)
        self._tower.land(self)

    async def _on_confirmation(self, stale: Entry, update: Fields, now: float) -> None:
        """A 304: what is stored gets its fields and a new life, RFC 9111 section 4.3.4."""
        self._ignores_rest = True
        confirmed = self.plan.confirmed(self.request, stale, update, self.requested_at, now)
        if confirmed is None:
            self._is_unrelated = True
            return
        self.judgement, self.entry = judgement, entry = confirmed
        self.outcome = "confirmed"
        if judgement.storable:
            await self._keep(entry, now)
        else:
            self._tower.land(self)
            if judgement.directives.no_store or judgement.directives.private:
                await self._tower.store.drop(self.request.key, stale)
        self._tell()

    async def _on_body(self, piece: bytes, more: bool) -> None:
        body = self.body
        if self._gathering:
            if body.size + len(piece) > self.plan.max_object_bytes or not self._tower.may_gather():
                self._outgrow()
            else:
                self._gathered_bytes += len(piece)
                self._tower.gathered_bytes += len(piece)
        if more:
            body.append(piece)
            self._tell()
            if not self._gathering:
                await body.wait_for_readers()
                if not body.readers:
                    raise ClientLeft("nobody reads the answer any more")
            return
        announced = content_length(self.head)
        if announced is not None and announced != body.size + len(piece):
            raise ResponseBroken(f"{body.size + len(piece)} bytes came of a body of {announced}")
        body.finish(piece)
        if self._gathering:
            await self._store()
        self._tell()

    def _outgrow(self) -> None:
        """Too large to be kept: those who read it get the rest, at the pace of the slowest."""
        self._stop_gathering()
        self.body.stop_keeping()
        if self.body.size > self.plan.max_object_bytes // 2:
            self._remember_alone(ALONE_S)
        self._tower.land(self)

    def _stop_gathering(self) -> None:
        self._gathering = False
        self._tower.gathered_bytes -= self._gathered_bytes
        self._gathered_bytes = 0

    async def _store(self) -> None:
        entry = self.entry
        assert entry is not None
        entry.body, entry.size = self.body.whole, self.body.size
        if entry.status != 204:
            length = (b"content-length", b"%d" % entry.size)
            entry.fields = [*without(entry.fields, frozenset([b"content-length"])), length]
        await self._keep(entry, self._tower.clock())
        self._stop_gathering()

    async def _keep(self, entry: Entry, now: float) -> None:
        if any(purge.matches(entry.url, entry.tags, filtered=entry.filtered) for purge in self._purges):
            return
        kept = self._tower.store.put_now(self.request.key, entry, now)
        if kept is None:
            # Readers have all they need: the store may take its time.
            self._tell()
            kept = await self._tower.store.put(self.request.key, entry, now)
        self._kept = entry if kept else None
        if kept and self.is_shareable():
            self._tower.forget_alone(self.request.key)

    def _decide(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._tell()
        self.body.wake()

    def _tell(self) -> None:
        if not self.decided.is_set():
            self.decided.set()
            self.leader_may_go.set()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.body.fail(error)
        if not self.decided.is_set():
            self._decide("failed")
