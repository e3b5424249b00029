"""A shared HTTP cache in front of an application: RFC 9111, RFC 5861, RFC 9211, RFC 9213.

app.add_middleware(CacheMiddleware, ttl_s=60)

    cache          the middleware: what can be answered from the store
    cache_request  what has to be known about a request
    cache_answer   answers made from what is stored
    cache_fetch    answers that have to come from the upstream: leading and joining
    cache_flight   one request to the upstream, shared
    cache_plan     what a flight needs of its route and of the cache
    cache_turn     who of several processes fetches
    cache_body     a body that is still coming, read by many
    cache_past     requests that go past the store; invalidation, which cache_invalidation gives to other routes
    cache_report   Cache-Status and the log
    cache_handle   Cache: the store, what is under way, purging
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ClientLeft, GatewayError
from gateway.exchange import SCOPE_KEY, WHOLE_FOLLOWS, Admitted, Exchange
from gateway.http.cache_control import request_directives
from gateway.http.cache_key import CacheKey, KeyPolicy, QuerySetting, forwarded_parts
from gateway.http.cache_status import Forward
from gateway.http.caching import StoragePolicy, judge, may_serve_fetch, reuse
from gateway.http.fields import Fields, content_length, get_joined
from gateway.http.location import mount_prefix
from gateway.http.vary import Selectors, selectors_of, selects
from gateway.middleware.cache_answer import holds_already, send_entry, send_head_only
from gateway.middleware.cache_fetch import Fetcher
from gateway.middleware.cache_flight import ALONE_S, alone_s
from gateway.middleware.cache_handle import Cache
from gateway.middleware.cache_past import PastStore, PublicParts
from gateway.middleware.cache_plan import FlightPlan
from gateway.middleware.cache_report import Report, note
from gateway.middleware.cache_request import (
    CONDITIONS,
    DECIDING_FIELDS,
    NO_CONDITIONS,
    CacheRequest,
    Conditions,
    bypass_of,
    conditions_of,
    deciding_fields,
)
from gateway.stores.base import CacheStore, Entry

__all__ = ["Cache", "CacheMiddleware"]


def _is_identified(scope: Scope) -> bool:
    exchange: Exchange | None = scope.get(SCOPE_KEY)
    if exchange is not None and exchange.user:
        return True
    # Whoever showed a certificate may have been told by it to the application.
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return bool(tls.get("client_cert_name"))


class CacheMiddleware:
    """Answers GET and HEAD from what earlier GETs brought.

    ``cache`` is shared by middlewares that are purged together; or ``store`` alone; by default a memory store of its
    own. ``namespace`` keeps apart what different routes answer under one URL. ``ttl_s`` is the freshness of answers
    that state none, with ``override`` of all. ``vary``, ``query`` and ``cookies`` choose what enters the key.
    ``request_cookie="ignore"`` lets requests with other cookies use the store too; ``set_cookie="store"`` keeps answers
    that set cookies. ``per_client_fields`` are request fields that the application gets with a value made for each
    client: what depends on one is not stored. ``tags_header`` names the field of answers that lists tags to purge by.
    ``lock_timeout_s`` is the longest wait for another request that fetches the same. ``status_key`` adds the key to
    Cache-Status. ``identified`` says whether somebody knows who sent a request: it then counts as one with
    Authorization.
    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cache: Cache | None = None,
        store: CacheStore | None = None,
        namespace: str = "",
        ttl_s: float = 0.0,
        override: bool = False,
        stale_while_revalidate_s: float = 0.0,
        stale_if_error_s: float = 0.0,
        vary: Sequence[str] = (),
        query: QuerySetting = "all",
        cookies: Sequence[str] = (),
        request_cookie: Literal["pass", "ignore"] = "pass",
        set_cookie: Literal["pass", "store"] = "pass",
        per_client_fields: Sequence[str] = (),
        tags_header: str = "Surrogate-Key",
        lock_timeout_s: float = 5.0,
        status_header: bool = True,
        status_key: bool = False,
        max_object_bytes: int = 8 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        identified: Callable[[Scope], bool] = _is_identified,
        cache_name: str = "gateway",
    ) -> None:
        if cache is not None and store is not None:
            raise ValueError("either cache or store, not both")
        self.app = app
        self.cache = Cache(store, clock=clock) if cache is None else cache
        self.clock = clock
        self.keys = KeyPolicy(namespace, query=query, cookies=cookies, vary=vary)
        self.identified = identified
        self._policy = policy = StoragePolicy(
            ttl_s=ttl_s,
            override=override,
            stale_while_revalidate_s=stale_while_revalidate_s,
            stale_if_error_s=stale_if_error_s,
            store_set_cookie=set_cookie == "store",
            per_client_fields=frozenset(name.lower().encode("latin-1") for name in per_client_fields),
        )
        self._report = report = Report(cache_name, enabled=status_header, with_key=status_key)
        limit = self.cache.store.max_object_bytes
        self._max_object_bytes = max_object_bytes if limit is None else min(max_object_bytes, limit)
        plan = FlightPlan(
            app=app,
            policy=policy,
            max_object_bytes=self._max_object_bytes,
            lock_timeout_s=lock_timeout_s,
            tags_header=tags_header.lower().encode("latin-1"),
            filtered=self.keys.filter_query is not None,
            status_fields=lambda flight: report.flight_fields(flight, flight.request, flight.reason, clock()),
        )
        self._fetcher = Fetcher(self.cache, plan, report)
        self._past = PastStore(app, self.cache, policy, report, public_parts)
        self._ignores_cookies = request_cookie == "ignore"
        self._deciding = DECIDING_FIELDS - {b"cookie"} if self._ignores_cookies else DECIDING_FIELDS
        self._keys_as_sent = self.keys.filter_query is None and not self.keys.cookies and not self.keys.vary

    async def aclose(self) -> None:
        """End what is under way and close the store, where the cache is this middleware's own."""
        await self.cache.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        if method != "GET" and method != "HEAD":
            try:
                await self._past.send_other_method(scope, receive, send)
            except GatewayError:
                self._report.note_failure(scope.get(SCOPE_KEY))
                raise
            return
        key, now = self._key(scope), self.clock()
        entries = self.cache.store.get_now(key, now)
        headers = scope["headers"]
        # The short way, for most requests to a warm cache: nothing is asked of the cache, and the answer is fresh.
        if entries and method == "GET" and self.asks_nothing(headers):
            entry = _fresh_of(entries, headers, now)
            if entry is not None and (entry.freshness.for_authorized or not self.identified(scope)):
                exchange = scope.get(SCOPE_KEY)
                if exchange is not None:
                    exchange.cache = "hit"
                fields = [*entry.fields, *self.hit_fields(key, entry, now)]
                start = {"type": "http.response.start", "status": entry.status, "headers": fields, WHOLE_FOLLOWS: True}
                await send(start)
                await send({"type": "http.response.body", "body": entry.body})
                return
        request = CacheRequest(
            scope,
            receive,
            send,
            key,
            identified=self.identified(scope),
            ignore_cookies=self._ignores_cookies,
            key_cookies=self.keys.cookies,
        )
        try:
            await self._answer(request, entries, now)
        except ClientLeft:
            # Without the gateway around it, nobody wants to hear of it.
            if request.exchange is not None:
                raise
        except GatewayError:
            self._report.note_failure(request.exchange)
            raise

    def _key(self, scope: Scope) -> CacheKey:
        scheme, host, target = public_parts(scope)
        if SCOPE_KEY not in scope:
            # Nobody has looked at them: whatever the application makes of them, it makes for those who say the same.
            namespace, _, _, target, extras = self.keys.key(scheme, host, target, scope["headers"])
            return (namespace, scheme, host, target, extras + forwarded_parts(scope["headers"]))
        return self.key(scheme, host, target, scope["headers"])

    def key(self, scheme: str, host: bytes, target: bytes, headers: Fields) -> CacheKey:
        """The key of a GET with the fields ``headers``; scheme, host and target as the client has them."""
        if self._keys_as_sent:
            return (self.keys.namespace, scheme, host, target, ())
        return self.keys.key(scheme, host, target, headers)

    def asks_nothing(self, headers: Fields) -> bool:
        """Whether no field decides how the store may be used."""
        return self._deciding.isdisjoint([field[0] for field in headers])

    def conditions_of(self, headers: Fields) -> Conditions | None:
        """What a GET asks of the answer that its client has; None where other fields decide how the store is used."""
        present = self._deciding.intersection([field[0] for field in headers])
        if not present:
            return NO_CONDITIONS
        return conditions_of(headers) if present <= CONDITIONS else None

    def bypass_of(self, headers: Fields) -> str:
        """Why a GET with these fields goes past the store; empty for one that does not, or wants nothing else."""
        present = deciding_fields(headers)
        if request_directives(get_joined(headers, b"cache-control")).only_if_cached:
            return ""
        return bypass_of(headers, present, ignore_cookies=self._ignores_cookies, key_cookies=self.keys.cookies)

    def bypass_fields(self, status: int, detail: str) -> Fields:
        """Cache-Status of the answer to a request that went past the store because of ``detail``."""
        return self._past.fields("bypass", status, detail)

    def is_for_each_alone(self, key: CacheKey, now: float) -> bool:
        """Whether nothing is stored under ``key``, and it is known that nobody can wait for another's answer."""
        # Others may get answers of their own all the time, such as those who say who they are.
        if not self.cache.is_alone(key) or self.cache.has_missed(key, now):
            return False
        entries = self.cache.store.get_now(key, now)
        return entries is not None and not entries

    def alone_fields(
        self, key: CacheKey, status: int, fields: Fields, *, size: int, authorized: bool, requested_at: float
    ) -> tuple[str, Fields]:
        """Why an answer with a body of ``size`` bytes ``is_for_each_alone``, and its Cache-Status.

        One that could be shared or kept after all is not stored, but the next one will be.
        """
        received_at = self.clock()
        judgement = judge(
            status,
            fields,
            requested_at=requested_at,
            received_at=received_at,
            authorized=authorized,
            policy=self._policy,
        )
        reason, freshness = judgement.reason, judgement.freshness
        # What was announced as too large is refused as that whatever else may be said about it.
        if (size if judgement.storable else content_length(fields) or 0) > self._max_object_bytes:
            reason = "too large"
        if not reason and (freshness.fresh_until > requested_at or freshness.keep_until > received_at):
            self.cache.forget_alone(key)
            self.cache.remember_missed(key, received_at + ALONE_S)
        else:
            self.cache.remember_alone(key, alone_s(status))
        return reason, self._report.alone_fields(key, status, reason)

    def fresh_now(self, key: CacheKey, admitted: Admitted, now: float) -> Entry | None:
        """The answer for a GET that asks nothing, from a client whom nobody has identified; None to have it called."""
        for entry in self.cache.store.get_now(key, now) or ():
            selectors = entry.selectors
            if selectors:
                # Most answers that vary do so by Accept-Encoding alone, and a client sends the same one every time.
                is_selected = admitted.notes.get(selectors)
                if is_selected is None:
                    is_selected = selects(selectors, admitted.fields)
                    admitted.note(selectors, is_selected)
                if not is_selected:
                    continue
            return entry if now < entry.freshness.fresh_until and entry.body is not None else None
        return None

    def hit_fields(self, key: CacheKey, entry: Entry, now: float) -> Fields:
        """Age and Cache-Status of an answer from the store."""
        return self._report.stored_fields(key, entry, now)

    async def _answer(self, request: CacheRequest, entries: Sequence[Entry] | None, now: float) -> None:
        """From the store if that is allowed, else from the upstream."""
        if request.bypass:
            if request.directives.only_if_cached:
                await self._send_nothing_stored(request)
            else:
                await self._past.send(request.scope, request.receive, request.send, "bypass", request.bypass)
            return
        if entries is None:
            entries = await self.cache.store.get(request.key, now)
        entry = next((entry for entry in entries if selects(entry.selectors, request.headers)), None)
        reason: Forward = "uri-miss"
        selectors: Selectors = ()
        if entry is not None and not request.may_use(entry):
            entry, reason = None, "request"
        elif entry is not None:
            use = reuse(entry.freshness, request.directives, now)
            if use in ("fresh", "stale", "behind") and await self._send_stored(request, entry, use, now):
                return
            reason, selectors = "request" if use == "request" else "stale", entry.selectors
        elif entries:
            reason = "vary-miss"
            names = [selector.name for selector in entries[0].selectors]
            selectors = selectors_of(names, request.headers, entries[0].fields)
        if request.directives.only_if_cached:
            await self._send_nothing_stored(request)
        elif request.method == "HEAD":
            await self._past.send_head(request, entry, reason)
        else:
            if entry is not None and not may_serve_fetch(entry.fields, entry.freshness, request.directives, now):
                entry = None
            elif entry is not None and not await self._load(entry):
                entry, reason = None, "miss"
            if entry is None and request.range is not None:
                # A part is not stored, and the whole may be much more than anybody wants.
                await self._past.send(request.scope, request.receive, request.send, reason, "range")
            else:
                await self._fetcher.fetch(request, entry, reason, selectors)

    async def _send_stored(self, request: CacheRequest, entry: Entry, use: str, now: float) -> bool:
        """Answer from ``entry``; false when its body turns out to be gone."""
        needs_body = use == "behind" or (request.method == "GET" and not holds_already(request.conditions, entry, now))
        if needs_body and not await self._load(entry):
            return False
        if use == "behind":
            await self._fetcher.validate_behind(request, entry)
        note(request.exchange, "hit" if use == "fresh" else "stale")
        await send_entry(request, entry, self._report.stored_fields(request.key, entry, now), now)
        return True

    async def _send_nothing_stored(self, request: CacheRequest) -> None:
        """To a client that wants no answer but a stored one, RFC 9111 section 5.2.1.7."""
        note(request.exchange, "miss", "only-if-cached")
        own = self._report.own_fields("only-if-cached")
        await send_head_only(request.send, 504, [(b"content-length", b"0"), *own])

    async def _load(self, entry: Entry) -> bool:
        if entry.body is None:
            entry.body = await self.cache.store.read(entry)
        return entry.body is not None


def _fresh_of(entries: Sequence[Entry], headers: Fields, now: float) -> Entry | None:
    """The entry that a request with ``headers`` selects, if it is fresh and its body at hand."""
    for entry in entries:
        if not entry.selectors or selects(entry.selectors, headers):
            return entry if now < entry.freshness.fresh_until and entry.body is not None else None
    return None


def public_parts(scope: Scope) -> PublicParts:
    """The public URL of a request."""
    exchange: Exchange | None = scope.get(SCOPE_KEY)
    if exchange is not None:
        root = scope.get("root_path")
        if not root:
            return exchange.scheme, exchange.public_host, exchange.target
        # Mounted, the public URL has the prefix, and so have the references in what is stored.
        return exchange.scheme, exchange.public_host, mount_prefix(root) + exchange.target
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    query: bytes = scope["query_string"]
    target = b"%b?%b" % (path, query) if query else path
    # Several Host fields are no host that is known: joined, they are nobody else's key.
    return scope["scheme"], get_joined(scope["headers"], b"host") or b"", target
