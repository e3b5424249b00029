"""What the cache says about each request: Cache-Status, Age, and the exchange's record."""

from __future__ import annotations

from gateway.exchange import Exchange
from gateway.http.cache_key import CacheKey
from gateway.http.cache_status import Forward, forward_status, hit_status, item, item_string, own_status
from gateway.http.fields import Fields
from gateway.middleware.cache_flight import Flight
from gateway.middleware.cache_request import CacheRequest
from gateway.stores.base import Entry, key_url


def note(exchange: Exchange | None, result: str, detail: str = "") -> None:
    """Put the result where the log reads it."""
    if exchange is not None:
        exchange.cache = result
        exchange.cache_detail = detail


class Report:
    """The fields that tell clients how a cache called ``name`` handled their requests, RFC 9211.

    ``enabled``: whether Cache-Status is sent at all; ``with_key``: whether it names the key.
    """

    __slots__ = ("enabled", "name", "with_key")

    def __init__(self, name: str, *, enabled: bool, with_key: bool) -> None:
        self.name = item(name)
        self.enabled = enabled
        self.with_key = with_key

    def hit(self, key: CacheKey, ttl_s: float) -> bytes:
        """Cache-Status of an answer from the store."""
        status = hit_status(self.name, ttl_s)
        return status + b"; key=" + item_string(self._text(key)) if self.with_key else status

    def stored_fields(self, key: CacheKey, entry: Entry, now: float) -> Fields:
        """The fields of an answer from the store."""
        fields = [age_field(entry, now)]
        if self.enabled:
            fields.append((b"cache-status", self.hit(key, entry.freshness.ttl_s(now))))
        return fields

    def stale_fields(self, key: CacheKey, entry: Entry, now: float, status: int | None) -> Fields:
        """Those of a stale one that stands for an upstream which failed, with ``status`` or without an answer."""
        fields = [age_field(entry, now)]
        if self.enabled:
            value = forward_status(
                self.name,
                "stale",
                status=status,
                ttl_s=entry.freshness.ttl_s(now),
                key=self._text(key) if self.with_key else None,
                detail="stale-if-error",
            )
            fields.append((b"cache-status", value))
        return fields

    def flight_fields(self, flight: Flight, request: CacheRequest, reason: Forward, now: float) -> Fields:
        """Those of an answer that a flight brought to ``request``."""
        entry, judgement = flight.entry, flight.judgement
        fields = [] if entry is None else [age_field(entry, now)]
        if not self.enabled:
            return fields
        leads = request is flight.request
        kept = judgement is not None and judgement.storable and judgement.freshness.keep_until > now
        value = forward_status(
            self.name,
            reason,
            status=flight.status,
            stored=kept and leads,
            # Without a status of its own, the flight took what another process had fetched.
            collapsed=not leads or flight.status is None,
            ttl_s=entry.freshness.ttl_s(now) if kept and entry is not None else None,
            key=self._text(request.key) if self.with_key else None,
            detail=judgement.reason if judgement is not None and leads else "",
        )
        fields.append((b"cache-status", value))
        return fields

    def alone_fields(self, key: CacheKey, status: int, detail: str) -> Fields:
        """Those of an answer for its client alone, under whose key nothing is stored."""
        if not self.enabled:
            return []
        text = self._text(key) if self.with_key else None
        return [(b"cache-status", forward_status(self.name, "uri-miss", status=status, key=text, detail=detail))]

    def passed(self, reason: Forward, status: int, detail: str) -> bytes:
        """Cache-Status of an answer that the cache had no part in."""
        return forward_status(self.name, reason, status=status, detail=detail)

    def note_failure(self, exchange: Exchange | None) -> None:
        """Let the answer that the gateway makes of an error say that the cache had none."""
        if exchange is None or not self.enabled:
            return
        reason: Forward = "bypass" if exchange.cache == "bypass" else "miss"
        if exchange.method not in ("GET", "HEAD"):
            reason = "method"
        exchange.response_fields.append((b"cache-status", forward_status(self.name, reason)))

    def own_fields(self, detail: str) -> Fields:
        """The fields of an answer that the cache makes up."""
        return [(b"cache-status", own_status(self.name, detail))] if self.enabled else []

    def _text(self, key: CacheKey) -> str:
        return key_url(key).decode("latin-1")


def age_field(entry: Entry, now: float) -> tuple[bytes, bytes]:
    """Age of a stored answer, RFC 9111 section 5.1."""
    return b"age", b"%d" % entry.freshness.age_s(now)
