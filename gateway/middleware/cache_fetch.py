"""Answers that have to come from the upstream: one client leads, those who want the same join."""

from __future__ import annotations

import asyncio
import copy
import logging

from gateway.errors import CapacityError, ClientError, ClientLeft, GatewayError, InternalError, UpstreamError
from gateway.http.cache_status import Forward
from gateway.http.caching import may_answer_error
from gateway.http.fields import without
from gateway.http.vary import Selectors, selectors_of
from gateway.middleware.cache_answer import holds_already, send_entry
from gateway.middleware.cache_body import Reader
from gateway.middleware.cache_flight import Flight
from gateway.middleware.cache_handle import Cache
from gateway.middleware.cache_plan import FlightPlan
from gateway.middleware.cache_report import Report, note
from gateway.middleware.cache_request import CacheRequest
from gateway.stores.base import Entry

logger = logging.getLogger("gateway.cache")

_AGE = frozenset([b"age"])

# A failure or another variant sends a waiter around again; after so many rounds it goes by itself.
_ROUNDS = 3


class Fetcher:
    """Fetches for the requests of one route."""

    __slots__ = ("cache", "plan", "report")

    def __init__(self, cache: Cache, plan: FlightPlan, report: Report) -> None:
        self.cache = cache
        self.plan = plan
        self.report = report

    async def fetch(
        self, request: CacheRequest, stale: Entry | None, reason: Forward, selectors: Selectors = ()
    ) -> None:
        """Answer ``request`` with what the upstream says; ``stale``, whose body is here, is validated.

        ``selectors`` are what is known of the variant that it wants. Raises what the application below raises.
        """
        if request.directives.no_store or self.cache.is_alone(request.key):
            await self._lead(request, stale, reason, selectors, solo=True)
            return
        for _ in range(_ROUNDS):
            flight = self.cache.flights.get((request.key, selectors))
            if flight is None:
                await self._lead(request, stale, reason, selectors)
                return
            reader = flight.join()
            try:
                if not await self._is_decided(flight) or flight.outcome == "alone":
                    break
                entry = flight.entry
                if flight.outcome == "failed" or entry is None:
                    if await self._share_failure(request, stale, flight):
                        return
                elif not flight.selects(request):
                    names = [selector.name for selector in entry.selectors]
                    selectors, reason = selectors_of(names, request.headers, entry.fields), "vary-miss"
                elif not flight.is_shareable() or not request.may_use(entry):
                    break
                else:
                    await self._send(request, flight, entry, reason, reader)
                    return
            finally:
                flight.leave(reader)
        await self._lead(request, stale, reason, selectors, solo=True)

    async def validate_behind(self, request: CacheRequest, stale: Entry) -> None:
        """Validate an answer that was given although it is stale, unless that is going on already."""
        if (request.key, stale.selectors) in self.cache.flights or not self.cache.may_start_behind():
            return
        twin = request.without_client()
        self.cache.start(Flight(self.cache, self.plan, twin, stale, "stale", selectors=stale.selectors, led=False))

    async def _is_decided(self, flight: Flight) -> bool:
        """Wait for it, at most for the lock timeout."""
        try:
            async with asyncio.timeout(self.plan.lock_timeout_s):
                await flight.decided.wait()
        except TimeoutError:
            return False
        return True

    async def _lead(
        self, request: CacheRequest, stale: Entry | None, reason: Forward, selectors: Selectors, *, solo: bool = False
    ) -> None:
        flight = Flight(self.cache, self.plan, request, stale, reason, selectors=selectors, solo=solo)
        note(request.exchange, "miss")
        reader = flight.join()
        self.cache.start(flight)
        try:
            await flight.leader_may_go.wait()
            if not flight.decided.is_set():
                raise ClientLeft("the client left before there was an answer")
            if flight.outcome == "alone":
                note(request.exchange, "miss", flight.judgement.reason if flight.judgement is not None else "")
                await flight.ended.wait()
                if flight.error is not None:
                    raise flight.error
            elif flight.outcome == "failed" or flight.entry is None:
                await self._lead_failed(request, stale, flight)
            else:
                await self._send(request, flight, flight.entry, reason, reader)
        finally:
            flight.leave(reader)

    async def _lead_failed(self, request: CacheRequest, stale: Entry | None, flight: Flight) -> None:
        error = flight.error
        may_stand_in = stale is not None and not isinstance(error, ClientError)
        if stale is not None and may_stand_in and await self._send_stale(request, stale, flight):
            if error is not None and not isinstance(error, GatewayError):
                logger.error("a stale answer stands for an application that failed", exc_info=error)
            return
        raise InternalError("the fetch ended without an answer") if error is None else error

    async def _share_failure(self, request: CacheRequest, stale: Entry | None, flight: Flight) -> bool:
        """Take another request's failure as one's own; false when it says nothing about this request."""
        error = flight.error
        if error is not None and not isinstance(error, UpstreamError | CapacityError):
            return False
        if stale is not None and await self._send_stale(request, stale, flight):
            return True
        if error is None:
            return False
        # One exception raised by many would gather the tracebacks of all.
        raise copy.copy(error)

    async def _send_stale(self, request: CacheRequest, stale: Entry, flight: Flight) -> bool:
        """Let a stale answer stand for an upstream that fails, where that is allowed, RFC 5861 section 4."""
        now = self.cache.clock()
        if not may_answer_error(stale.freshness, request.directives, now):
            return False
        note(request.exchange, "stale", "stale-if-error")
        await send_entry(request, stale, self.report.stale_fields(request.key, stale, now, flight.status), now)
        return True

    async def _send(self, request: CacheRequest, flight: Flight, entry: Entry, reason: Forward, reader: Reader) -> None:
        """Answer with what a flight brought; ``request`` leads it or has joined."""
        now = self.cache.clock()
        leads = request is flight.request
        fields = self.report.flight_fields(flight, request, reason, now)
        if not leads or flight.status is None:
            note(request.exchange, "collapsed")
        elif flight.outcome == "confirmed":
            note(request.exchange, "revalidated")
        if flight.outcome == "confirmed" or holds_already(request.conditions, entry, now):
            await send_entry(request, entry, fields, now)
            return
        # Whoever leads gets the answer as it came, with what is not stored of it.
        own = without(flight.head if leads else entry.fields, _AGE)
        await flight.relay(reader, request, [*own, *fields])
