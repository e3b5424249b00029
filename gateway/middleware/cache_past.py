"""Requests that go past the store, and what their answers mean for what is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import SCOPE_KEY
from gateway.http.cache_key import public_url, same_origin_url
from gateway.http.cache_status import Forward
from gateway.http.caching import SAFE_METHODS, StoragePolicy, judge
from gateway.http.fields import Fields, get_all, get_first
from gateway.http.stored_fields import date_of, dated, head_confirms, storable_fields, updated_fields
from gateway.http.vary import selectors_of
from gateway.middleware.cache_handle import Cache
from gateway.middleware.cache_report import Report, note
from gateway.middleware.cache_request import CacheRequest
from gateway.stores.base import Entry

PublicParts = tuple[str, bytes, bytes]
"""Public scheme, Host, and target as the client sent it."""


class PastStore:
    """Hands requests of one route to the application below, without storing what comes back."""

    __slots__ = ("_app", "_cache", "_policy", "_report", "_url_parts")

    def __init__(
        self,
        app: ASGIApp,
        cache: Cache,
        policy: StoragePolicy,
        report: Report,
        url_parts: Callable[[Scope], PublicParts],
    ) -> None:
        self._app = app
        self._cache = cache
        self._policy = policy
        self._report = report
        self._url_parts = url_parts

    async def send(self, scope: Scope, receive: Receive, send: Send, reason: Forward, detail: str = "") -> None:
        """Pass a request on as it is."""
        note(scope.get(SCOPE_KEY), "bypass", detail)
        if not self._report.enabled:
            await self._app(scope, receive, send)
            return

        def send_stamped(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                own = self.fields(reason, message["status"], detail)
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            return send(message)

        await self._app(scope, receive, send_stamped)

    def fields(self, reason: Forward, status: int, detail: str) -> Fields:
        """What an answer with ``status`` gets to say that the cache had no part in it."""
        report = self._report
        return [(b"cache-status", report.passed(reason, status, detail))] if report.enabled else []

    async def send_other_method(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Anything but GET and HEAD; after an unsafe one that succeeds, what it may have changed is dropped."""
        if scope["method"] in SAFE_METHODS:
            await self.send(scope, receive, send, "method")
            return

        await self.send(scope, receive, invalidating(self._cache, self._url_parts(scope), send), "method")

    async def send_head(self, request: CacheRequest, entry: Entry | None, reason: Forward) -> None:
        """A HEAD that the store cannot answer; its answer refreshes a stored GET, RFC 9111 section 4.3.5."""
        requested_at = self._cache.clock()

        async def send_refreshing(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200 and entry is not None:
                await self._refresh(request, entry, message, requested_at)
            await request.send(message)

        await self.send(request.scope, request.receive, send_refreshing, reason)
        note(request.exchange, "miss")

    async def _refresh(self, request: CacheRequest, entry: Entry, message: Message, requested_at: float) -> None:
        store, now = self._cache.store, self._cache.clock()
        if not await self._is_still_stored(request, entry, now):
            return
        head = [(name.lower(), value) for name, value in message.get("headers", ()) if name.lower() != b"cache-status"]
        if not head_confirms(entry.fields, head):
            await store.put(request.key, entry.with_head(entry.fields, entry.freshness.outdated(now)), now)
            return
        if get_first(head, b"set-cookie") is not None and not self._policy.store_set_cookie:
            return
        merged = updated_fields(entry.fields, dated(head, date_of(head, now), now))
        judgement = judge(
            entry.status,
            [*merged, *(field for field in head if field[0] == b"age")],
            requested_at=requested_at,
            received_at=now,
            authorized=request.authorized,
            no_store=request.directives.no_store,
            policy=self._policy,
        )
        if judgement.storable:
            kept = entry.with_head(storable_fields(merged, judgement.directives, now), judgement.freshness)
            kept.selectors = selectors_of(judgement.vary, request.headers, merged)
            await store.put(request.key, kept, now)
        elif not request.directives.no_store:
            await store.put(request.key, entry.with_head(entry.fields, entry.freshness.outdated(now)), now)

    async def _is_still_stored(self, request: CacheRequest, entry: Entry, now: float) -> bool:
        """Whether nothing has purged or replaced ``entry`` while the upstream was asked."""
        entries = await self._cache.store.get(request.key, now)
        return any(
            (found.selectors, found.received_at, found.body_id) == (entry.selectors, entry.received_at, entry.body_id)
            for found in entries
        )


def invalidating(cache: Cache, parts: PublicParts, send: Send) -> Send:
    """Where the answer to an unsafe request goes: if it succeeded, what it may have changed is dropped first."""

    async def send_invalidating(message: Message) -> None:
        if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
            # Before the answer, so that whoever has it reads what was written.
            await _invalidate(cache, public_url(*parts), message.get("headers", ()))
        await send(message)

    return send_invalidating


async def _invalidate(cache: Cache, target: bytes, answer: Sequence[tuple[bytes, bytes]]) -> None:
    """RFC 9111 section 4.4."""
    urls = {target}
    fields = [(name.lower(), value) for name, value in answer]
    for reference in get_all(fields, b"location") + get_all(fields, b"content-location"):
        url = same_origin_url(target, reference)
        if url is not None:
            urls.add(url)
    for url in urls:
        await cache.invalidate(url)
