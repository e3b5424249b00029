"""Which of the endpoints that can take a request gets it."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable
from heapq import heapify, heapreplace
from itertools import accumulate
from typing import Protocol
from urllib.parse import unquote_to_bytes

from gateway.exchange import Scope, exchange_of
from gateway.http.cookies import cookie_value
from gateway.http.fields import get_first
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.settings import Balance

Endpoints = tuple[Endpoint, ...]
Key = Callable[[Scope], bytes | None]
"""What of a request is hashed; None: the request has nothing of the kind."""

_MASK = 2**64 - 1
_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_KEY = 128


class Balancer(Protocol):
    """A policy. The same tuple means the same endpoints with the same shares: what is made of it may be kept."""

    on_release: Callable[[Endpoint], None] | None = None
    """Is to hear of every request that has ended, where a policy keeps account of them."""

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        """One of ``endpoints``, which are never none and can all take the request."""


class _Lots:
    """Draws from a tuple of endpoints by their shares."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._seen: Endpoints = ()
        self._bounds: list[float] | None = None
        """Running sum of the shares; None when they are all equal."""

    def _prepare(self, endpoints: Endpoints) -> None:
        shares = [endpoint.share for endpoint in endpoints]
        self._bounds = None if min(shares) == max(shares) else list(accumulate(shares))
        self._seen = endpoints

    def draw(self, endpoints: Endpoints) -> int:
        """The index of an endpoint, each as likely as its share says."""
        if endpoints is not self._seen:
            self._prepare(endpoints)
        bounds = self._bounds
        if bounds is None:
            return int(self._random() * len(endpoints))
        return min(bisect(bounds, self._random() * bounds[-1]), len(endpoints) - 1)

    def draw_other(self, endpoints: Endpoints, first: int) -> int:
        """The index of another endpoint than ``first``, which ``draw`` has just given for the same tuple."""
        count = len(endpoints)
        if count == 2:
            return 1 - first
        bounds = self._bounds
        if bounds is None:
            other = int(self._random() * (count - 1))
            return other + 1 if other >= first else other
        share = endpoints[first].share
        point = self._random() * (bounds[-1] - share)
        if point >= bounds[first] - share:
            point += share
        other = min(bisect(bounds, point), count - 1)
        # A rounding error at a bound may name the first again.
        return other if other != first else (first + 1) % count


class RoundRobin(Balancer):
    """In turn; with weights smoothly, so that the heavy ones do not come in bursts.

    With every choice each endpoint gains its share, and the one that is highest pays the sum of all shares. Those of
    one share gain alike and keep their order, so that of each share only the first is looked at.
    """

    def __init__(self) -> None:
        self._seen: Endpoints = ()
        self._ranks: list[_Rank] = []
        self._total = 0.0

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        if endpoints is not self._seen:
            self._prepare(endpoints)
        highest, first = -math.inf, 0
        for rank in self._ranks:
            gained = rank.gained = rank.gained + rank.share
            paid, index, _ = rank.line[0]
            turn = gained - paid
            if turn > highest or (turn == highest and index < first):
                highest, first, chosen = turn, index, rank
        paid, first, endpoint = chosen.line[0]
        heapreplace(chosen.line, (paid + self._total, first, endpoint))
        return endpoint

    def _prepare(self, endpoints: Endpoints) -> None:
        for rank in self._ranks:
            for paid, _, endpoint in rank.line:
                endpoint.turn = rank.gained - paid
        ranks: dict[float, _Rank] = {}
        for index, endpoint in enumerate(endpoints):
            share = endpoint.share
            rank = ranks.get(share) or ranks.setdefault(share, _Rank(share))
            rank.line.append((-endpoint.turn, index, endpoint))
        self._ranks = list(ranks.values())
        for rank in self._ranks:
            heapify(rank.line)
        self._total = sum(rank.share * len(rank.line) for rank in self._ranks)
        self._seen = endpoints


class _Rank:
    """The endpoints of one share, and what each of them has gained since they were last looked through."""

    __slots__ = ("gained", "line", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self.gained = 0.0
        self.line: list[tuple[float, int, Endpoint]] = []
        """A heap of what each has paid, its place in the configuration, and the endpoint."""


class LeastRequests(Balancer):
    """The one with the fewest requests in flight for its share; among equals by lot.

    The endpoints of one share stand in rows by their requests, so that of each share only the first row is looked at.
    A request that has begun is noticed when its endpoint is drawn, one that has ended must be told.
    """

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._seen: Endpoints = ()
        self._rows: list[_Rows] = []
        self._seats: dict[Endpoint, _Seat] = {}

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        if endpoints is not self._seen:
            self._prepare(endpoints)
        while True:
            rows = self._rows[0] if len(self._rows) == 1 else self._least()
            row = rows.by_requests[rows.first]
            seat = row[int(self._random() * len(row))]
            endpoint = seat.endpoint
            if endpoint.in_flight == rows.first:
                return endpoint
            rows.move(seat, endpoint.in_flight)

    def on_release(self, endpoint: Endpoint) -> None:
        seat = self._seats.get(endpoint)
        if seat is not None and endpoint.in_flight < seat.requests:
            seat.rows.move(seat, endpoint.in_flight)

    def _least(self) -> _Rows:
        """Where the least load is; among equals by lot, each as likely as the shares in its first row say."""
        least, shares = math.inf, 0.0
        for rows in self._rows:
            load = rows.load
            if load < least:
                chosen, least, shares = rows, load, rows.shares
            elif load == least:
                shares += rows.shares
                if self._random() * shares < rows.shares:
                    chosen = rows
        return chosen

    def _prepare(self, endpoints: Endpoints) -> None:
        by_share: dict[float, _Rows] = {}
        self._seats = {}
        for endpoint in endpoints:
            share = endpoint.share
            rows = by_share.get(share) or by_share.setdefault(share, _Rows(share))
            self._seats[endpoint] = rows.seat(endpoint)
        self._rows = list(by_share.values())
        for rows in self._rows:
            rows.look_from(min(rows.by_requests))
        self._seen = endpoints


class _Rows:
    """The endpoints of one share by the number of their requests."""

    __slots__ = ("by_requests", "first", "load", "share", "shares")

    def __init__(self, share: float) -> None:
        self.share = share
        self.by_requests: defaultdict[int, list[_Seat]] = defaultdict(list)
        self.first = 0
        """The lowest number with anybody in its row."""
        self.load = 0.0
        """Requests for the share in that row."""
        self.shares = 0.0
        """The shares in that row, all together."""

    def seat(self, endpoint: Endpoint) -> _Seat:
        """A seat for ``endpoint`` at the end of its row; ``look_from`` has to follow."""
        seat = _Seat(endpoint, self)
        self._put(seat, endpoint.in_flight)
        return seat

    def move(self, seat: _Seat, requests: int) -> None:
        """Let an endpoint that has another number of requests now change rows."""
        row = self.by_requests[seat.requests]
        last = row.pop()
        if last is not seat:
            row[seat.index] = last
            last.index = seat.index
        self._put(seat, requests)
        self.look_from(min(requests, self.first))

    def look_from(self, requests: int) -> None:
        """Find the first row; it is the one of ``requests`` or a later one."""
        while not self.by_requests[requests]:
            requests += 1
        self.first = requests
        self.load = requests / self.share
        self.shares = self.share * len(self.by_requests[requests])

    def _put(self, seat: _Seat, requests: int) -> None:
        row = self.by_requests[requests]
        seat.requests = requests
        seat.index = len(row)
        row.append(seat)


class _Seat:
    """Where an endpoint stands: with how many requests it was last seen, and its index in that row."""

    __slots__ = ("endpoint", "index", "requests", "rows")

    def __init__(self, endpoint: Endpoint, rows: _Rows) -> None:
        self.endpoint = endpoint
        self.rows = rows
        self.requests = 0
        self.index = 0


class PowerOfTwo(Balancer):
    """The less busy of two that are drawn by lot: nearly as even as the least busy of all, and no herd runs to it."""

    def __init__(self, rng: random.Random) -> None:
        self._lots = _Lots(rng)

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        lots = self._lots
        first = lots.draw(endpoints)
        if len(endpoints) == 1:
            return endpoints[0]
        one, other = endpoints[first], endpoints[lots.draw_other(endpoints, first)]
        if not one.in_flight:
            return one
        if other.in_flight * one.share < one.in_flight * other.share:
            return other
        return one


class Random(Balancer):
    """By lot."""

    def __init__(self, rng: random.Random) -> None:
        self._lots = _Lots(rng)

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        return endpoints[self._lots.draw(endpoints)]


class First(Balancer):
    """The first one in the order of the configuration."""

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        return endpoints[0]


class Rendezvous(Balancer):
    """The same endpoint for the same key; one that comes or goes moves only the keys of its own share.

    Every process that knows the same endpoints agrees. A request without the key goes by lot.
    """

    def __init__(self, key: Key, rng: random.Random) -> None:
        self._key = key
        self._lots = _Lots(rng)
        self._seen: Endpoints = ()
        self._chosen: dict[bytes, Endpoint] = {}
        """Choices among the endpoints seen last: to look one up costs 0.1 us, to make it 0.5 for each endpoint."""

    def pick(self, endpoints: Endpoints, scope: Scope) -> Endpoint:
        key = self._key(scope)
        if key is None:
            return endpoints[self._lots.draw(endpoints)]
        if len(key) > _MAX_REMEMBERED_KEY:
            # Clients choose keys: what is kept of them is bounded.
            return _highest(endpoints, key)
        if endpoints is not self._seen or len(self._chosen) >= _MAX_REMEMBERED:
            self._seen = endpoints
            self._chosen.clear()
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = _highest(endpoints, key)
        return chosen


def _highest(endpoints: Endpoints, key: bytes) -> Endpoint:
    """The endpoint with the highest score for ``key``."""
    hashed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    chosen = endpoints[0]
    highest = -1.0
    for endpoint in endpoints:
        # 52 bits make a number strictly between 0 and 1. With its logarithm the highest score belongs to each
        # endpoint as often as its share says.
        number = ((_mix(hashed ^ endpoint.hash_seed) >> 12) + 0.5) / 2**52
        score = endpoint.weight * endpoint.warmth / -math.log(number)
        if score > highest:
            highest = score
            chosen = endpoint
    return chosen


def _mix(value: int) -> int:
    """Every bit of 64 in, every bit out: the finaliser of splitmix64, 0.3 us where another hash would take 0.7."""
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def make_balancer(name: Balance, hash_on: str, rng: random.Random) -> Balancer:
    """The policy with a name of routes.toml."""
    return _BALANCERS[name](hash_on, rng)


_BALANCERS: dict[Balance, Callable[[str, random.Random], Balancer]] = {
    "round-robin": lambda hash_on, rng: RoundRobin(),
    "least-requests": lambda hash_on, rng: LeastRequests(rng),
    "p2c": lambda hash_on, rng: PowerOfTwo(rng),
    "random": lambda hash_on, rng: Random(rng),
    "hash": lambda hash_on, rng: Rendezvous(make_key(hash_on), rng),
    "first": lambda hash_on, rng: First(),
}


def make_key(hash_on: str) -> Key:
    """``client-ip``, ``path``, ``header:NAME``, ``cookie:NAME`` or ``query:NAME``. Raises ValueError."""
    kind, _, text = hash_on.partition(":")
    name = text.encode("utf-8")
    if hash_on == "client-ip":
        return _client_ip
    if hash_on == "path":
        return _path
    if kind == "header" and name:
        return lambda scope: get_first(scope["headers"], name.lower()) or None
    if kind == "cookie" and name:
        return lambda scope: cookie_value(scope["headers"], name) or None
    if kind == "query" and name:
        return lambda scope: _query_value(scope, name) or None
    raise ValueError(f"{hash_on!r} is nothing that can be hashed")


def _client_ip(scope: Scope) -> bytes | None:
    exchange = exchange_of(scope)
    if exchange is not None and exchange.client:
        return exchange.client.encode()
    client = scope.get("client")
    return client[0].encode() if client else None


def _path(scope: Scope) -> bytes | None:
    path: bytes | None = scope.get("raw_path")
    return path if path is not None else scope["path"].encode()


def _query_value(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a query key, as the client wrote it."""
    for pair in scope["query_string"].split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name or ((b"%" in key or b"+" in key) and unquote_to_bytes(key.replace(b"+", b" ")) == name):
            return bytes(value)
    return None
