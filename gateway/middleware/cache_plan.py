"""What a flight needs of its route and of the cache that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp

from gateway.http.cache_key import CacheKey
from gateway.http.caching import Judgement, StoragePolicy, judge
from gateway.http.conditional import is_about
from gateway.http.fields import Fields, get_all
from gateway.http.stored_fields import date_of, dated, storable_fields, updated_fields
from gateway.http.vary import selectors_of
from gateway.middleware.cache_request import CacheRequest
from gateway.stores.base import CacheStore, Entry, key_url

if TYPE_CHECKING:
    from gateway.middleware.cache_flight import Flight


class Tower(Protocol):
    """What flights need of the cache that they belong to."""

    store: CacheStore
    gathered_bytes: int

    def clock(self) -> float:
        """Seconds since the epoch."""
        ...

    def may_gather(self) -> bool:
        """Whether there is room for more bodies under way."""
        ...

    def may_detach(self) -> bool:
        """Whether one more may go on without any client."""
        ...

    def remember_alone(self, key: CacheKey, for_s: float) -> None:
        """Answers under ``key`` cannot be shared."""
        ...

    def forget_alone(self, key: CacheKey) -> None:
        """They can."""
        ...

    def land(self, flight: Flight) -> None:
        """Nobody else may join."""
        ...


@dataclass(frozen=True, slots=True)
class FlightPlan:
    """What is the same for all flights of one route."""

    app: ASGIApp
    policy: StoragePolicy
    max_object_bytes: int
    lock_timeout_s: float
    tags_header: bytes
    filtered: bool
    """Whether keys have only a part of the query."""
    status_fields: Callable[[Flight], Fields]
    """What tells the client that leads how its request was handled."""

    def judge(
        self, request: CacheRequest, status: int, fields: Fields, requested_at: float, received_at: float
    ) -> Judgement:
        """Whether the answer to ``request`` may be stored."""
        return judge(
            status,
            fields,
            requested_at=requested_at,
            received_at=received_at,
            authorized=request.authorized,
            no_store=request.directives.no_store,
            policy=self.policy,
        )

    def entry(
        self,
        request: CacheRequest,
        status: int,
        fields: Fields,
        judgement: Judgement,
        requested_at: float,
        received_at: float,
    ) -> Entry:
        """What is to be stored of an answer, but for its body."""
        tags: list[bytes] = []
        if self.tags_header:
            for value in get_all(fields, self.tags_header):
                tags.extend(value.replace(b",", b" ").split())
        return Entry(
            status=status,
            fields=storable_fields(fields, judgement.directives, received_at),
            freshness=judgement.freshness,
            body=None,
            size=0,
            url=key_url(request.key),
            selectors=selectors_of(judgement.vary, request.headers, fields),
            tags=frozenset(tags),
            filtered=self.filtered,
            requested_at=requested_at,
            received_at=received_at,
        )

    def confirmed(
        self, request: CacheRequest, stale: Entry, update: Fields, requested_at: float, received_at: float
    ) -> tuple[Judgement, Entry] | None:
        """What is stored with the fields of a 304, RFC 9111 section 4.3.4; None when that is about something else.

        Where the result is not to be stored, it has all the fields: they are for the client that leads.
        """
        if not is_about(update, stale.fields):
            return None
        # Without a Date it was made when it came: under the old one, what it says would be stale at once.
        merged = updated_fields(stale.fields, dated(update, date_of(update, received_at), received_at))
        age = [field for field in update if field[0] == b"age"]
        judgement = self.judge(request, stale.status, [*merged, *age], requested_at, received_at)
        entry = self.entry(request, stale.status, merged, judgement, requested_at, received_at)
        if not judgement.storable:
            entry.fields = merged
        entry.body, entry.size, entry.body_id = stale.body, stale.size, stale.body_id
        entry.tags = entry.tags or stale.tags
        return judgement, entry
