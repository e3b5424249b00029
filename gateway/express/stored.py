"""The lane to the cache's store: a fresh answer goes out as it was put together for the first that asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.exchange import Admitted, ResponseRule
from gateway.express.fields import after_rules, lines_of
from gateway.http.fields import content_length, get_first
from gateway.middleware.cache import CacheMiddleware
from gateway.stores.base import Entry

if TYPE_CHECKING:
    from gateway.express.table import Express, ExpressClient, Way

# Without a body.
_NOT_PLAIN_STATUSES = frozenset([204, 205, 304])


class StoredLane:
    """A route with a cache in memory. ``name`` is the route's; ``response_rules`` are for every answer of it."""

    def __init__(
        self,
        name: str,
        cache: CacheMiddleware,
        *,
        response_rules: tuple[ResponseRule, ...],
        request_id_name: bytes,
    ) -> None:
        self.name = name
        self._cache = cache
        self._response_rules = response_rules
        self._request_id_name = request_id_name
        self._id_line = request_id_name + b": "

    def begin(self, express: Express, admitted: Admitted, target: bytes, way: Way, client: ExpressClient) -> bool:
        """Answer from the store; False when it has nothing that is fresh, or the request asks for more than that."""
        cache = self._cache
        asks_nothing = admitted.notes.get(self)
        if asks_nothing is None:
            asks_nothing = admitted.notes[self] = cache.asks_nothing(admitted.fields)
        if not asks_nothing:
            return False
        scheme = admitted.identity.scheme
        now = cache.clock()
        key = cache.key(scheme, admitted.public_host, target, admitted.fields)
        entry = cache.fresh_now(key, admitted.fields, now)
        if entry is None:
            return False
        head = entry.sent_as
        if head is None or head[0] is not self:
            head = entry.sent_as = self, self._lines(entry, scheme)
        lines = head[1]
        if not lines:
            return False
        exchange = express.exchange(admitted, target, way)
        parts = [lines, cache.hit_lines(key, entry, now)]
        if self._request_id_name:
            parts += (self._id_line, exchange.request_id.encode("ascii"), b"\r\n")
        body = entry.body or b""
        if not client.answer_at_once(entry.status, b"".join(parts), body):
            return False
        express.enter()
        exchange.cache = "hit"
        exchange.status = entry.status
        exchange.body_bytes_out = len(body)
        express.end(exchange)
        return True

    def _lines(self, entry: Entry, scheme: str) -> bytes:
        """What of the head is the same for everybody; nothing when the answer is not plain."""
        fields = [field for field in entry.fields if field[0] != self._request_id_name]
        fields = after_rules(self._response_rules, fields, scheme)
        if (
            entry.status in _NOT_PLAIN_STATUSES
            or content_length(fields) != entry.size
            or get_first(fields, b"date") is None
        ):
            return b""
        return lines_of(fields)
