"""The lane to the cache's store: a fresh answer goes out as it was put together for the first that asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway.exchange import Admitted, ResponseRule
from gateway.express.fields import after_rules, lines_of
from gateway.express.unstored import Alone, Bypass
from gateway.http.cache_key import CacheKey
from gateway.http.conditional import not_modified_fields
from gateway.http.fields import Fields, content_length, get_first
from gateway.middleware.cache import CacheMiddleware
from gateway.middleware.cache_answer import holds_already
from gateway.middleware.cache_request import NO_CONDITIONS, Conditions
from gateway.stores.base import Entry

if TYPE_CHECKING:
    from gateway.express.proxied import ProxiedLane
    from gateway.express.table import Express, ExpressClient, Passing, Way

# Without a body.
_NOT_PLAIN_STATUSES = frozenset([204, 205, 304])


class StoredHead:
    """What of an answer's head is the same for everybody who gets it through ``lane``."""

    __slots__ = ("_fields", "_from", "_lines", "_until", "fields", "is_plain", "lane", "lines", "not_modified")

    def __init__(self, lane: StoredLane, fields: Fields, is_plain: bool) -> None:
        self.lane = lane
        self.is_plain = is_plain
        """Whether it is complete, and followed by a body of the length that it announces, or by none."""
        self.not_modified: StoredHead | None = None
        """That of the 304 for a client that has the answer, once somebody has asked."""
        self._fields = fields
        self._lines = lines_of(fields)
        self._from = self._until = 0.0
        self.fields = fields
        """With Age and Cache-Status as they are since ``at`` was asked last."""
        self.lines = b""
        """The same as lines of a head."""

    def at(self, now: float, cache: CacheMiddleware, key: CacheKey, entry: Entry) -> None:
        """Bring Age and Cache-Status up to date: both count seconds, and hot answers are asked for more often."""
        if self._from <= now < self._until:
            return
        freshness = entry.freshness
        own = cache.hit_fields(key, entry, now)
        self.fields = [*self._fields, *own]
        self.lines = self._lines + lines_of(own)
        self._from = now
        # When the age, or the time to live, is the next whole second.
        self._until = min(
            freshness.birth + math.floor(now - freshness.birth) + 1,
            freshness.fresh_until - math.ceil(freshness.fresh_until - now) + 1,
        )


class StoredLane:
    """A route with a cache in memory. ``name`` is the route's; ``response_rules`` are for every answer of it.

    ``past`` is the lane of requests that go past the store; None when they have none.
    """

    def __init__(
        self,
        name: str,
        cache: CacheMiddleware,
        *,
        response_rules: tuple[ResponseRule, ...],
        request_id_name: bytes,
        past: ProxiedLane | None,
    ) -> None:
        self.name = name
        self._cache = cache
        self._past = past
        self._response_rules = response_rules
        self._request_id_name = request_id_name

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Answer from the store, go past it, or on to the layer of the cache.

        False when there is nothing behind, and when the answer is not plain, has to wait or exceeds the rate limit.
        """
        cache = self._cache
        asked: tuple[Conditions | None, str] | None = admitted.notes.get(self)
        if asked is None:
            asked = cache.conditions_of(admitted.fields), cache.bypass_of(admitted.fields)
            admitted.note(self, asked)
        conditions, bypass = asked
        past = self._past
        if conditions is None:
            if past is not None and bypass:
                return past.begin(express, admitted, target, way, client, Bypass(cache, passing, bypass))
            return self._go_on(express, admitted, target, way, client, passing)
        scheme = admitted.identity.scheme
        now = cache.clock()
        key = cache.key(scheme, admitted.public_host, admitted.prefix + target, admitted.fields)
        entry = cache.fresh_now(key, admitted, now)
        is_identified = admitted.has_certificate or admitted.user != ""
        if entry is None:
            if past is not None and cache.is_for_each_alone(key, now):
                alone = Alone(cache, passing, key, is_identified=is_identified, requested_at=now)
                return past.begin(express, admitted, target, way, client, alone)
            return self._go_on(express, admitted, target, way, client, passing)
        if is_identified and not entry.freshness.for_authorized:
            return self._go_on(express, admitted, target, way, client, passing)
        head = entry.sent_as
        if not isinstance(head, StoredHead) or head.lane is not self:
            head = entry.sent_as = self._head(entry, scheme)
        status, body = entry.status, entry.body or b""
        if conditions is not NO_CONDITIONS and holds_already(conditions, entry, now):
            status, body = 304, b""
            if head.not_modified is None:
                head.not_modified = self._not_modified_head(entry, scheme)
            head = head.not_modified
        if not head.is_plain:
            return False
        head.at(now, cache, key, entry)
        exchange = express.exchange(admitted, target, way)
        if passing is not None and not (client.may_answer_at_once and passing.count(exchange)):
            return False
        if not client.answer_at_once(status, head, self._request_id_name, exchange, body):
            return False
        exchange.cache = "hit"
        exchange.status = status
        exchange.body_bytes_out = len(body)
        express.record(exchange)
        return True

    def _go_on(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None,
    ) -> bool:
        """Have the layers behind the guards answer: they wait for others who fetch the same, and store what comes."""
        past = self._past
        if past is None:
            return False
        exchange = express.exchange(admitted, target, way)
        if passing is not None and not passing.count(exchange):
            return False
        express.enter()
        begun = client.begin_express(express, past, exchange)
        if passing is not None:
            passing.hold(begun)
        begun.leave(admitted, way)
        return True

    def _head(self, entry: Entry, scheme: str) -> StoredHead:
        fields = self._with_rules(entry.fields, scheme)
        return StoredHead(
            self, fields, entry.status not in _NOT_PLAIN_STATUSES and _is_complete(fields, length=entry.size)
        )

    def _not_modified_head(self, entry: Entry, scheme: str) -> StoredHead:
        fields = self._with_rules(not_modified_fields(entry.fields), scheme)
        return StoredHead(self, fields, _is_complete(fields, length=None))

    def _with_rules(self, fields: Fields, scheme: str) -> Fields:
        fields = [field for field in fields if field[0] != self._request_id_name]
        return after_rules(self._response_rules, fields, scheme)


def _is_complete(fields: Fields, *, length: int | None) -> bool:
    """Whether nothing has to be added to a head, for a body of this length or for none."""
    return content_length(fields) == length and get_first(fields, b"date") is not None
