"""What a shared cache may store and reuse: RFC 9111 and RFC 5861 as functions of values; every time is an argument."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.http.cache_control import MAX_SECONDS, RequestDirectives, ResponseDirectives, effective_directives
from gateway.http.dates import parse_http_date
from gateway.http.fields import Fields, get_all, get_first
from gateway.http.stored_fields import date_of
from gateway.http.vary import vary_names

HEURISTIC_STATUSES = frozenset([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
"""May be stored without a word about freshness, RFC 9110 section 15.1; 206 is left out: parts are not stored."""

_UNDERSTOOD_STATUSES = (
    HEURISTIC_STATUSES
    | frozenset(
        (
            201,
            202,
            205,
            302,
            303,
            307,
            400,
            401,
            402,
            403,
            406,
            408,
            409,
            411,
            412,
            413,
            415,
            416,
            417,
            421,
            422,
            426,
            428,
        )
    )
    | frozenset((429, 431, 451, 500, 502, 503, 504, 505))
)
HEURISTIC_SHARE = 0.1
HEURISTIC_LIMIT_S = 86400.0
KEEP_FOR_VALIDATION_S = 3600.0
"""How long an answer that can be validated is kept past its last use without validation."""

KEEP_FOR_CLIENTS_S = 3600.0
"""How long at most one that cannot be is kept stale, but no longer than it was fresh, for clients that take it so."""

STALE_IF_ERROR_STATUSES = frozenset([500, 502, 503, 504])
_VALIDATORS = frozenset([b"etag", b"last-modified"])
SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"])

Reuse = Literal["fresh", "stale", "behind", "validate", "request"]
"""How a stored answer may be used: fresh; stale because the client takes it so; stale while it is validated behind the
answer; only after validation, because it is stale or must always be validated, or because the request asks for it."""


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """What the operator adds to what upstreams say; times in seconds.

    ``ttl_s`` is the freshness of answers that state none; with ``override`` it replaces what they state, except for
    statuses that are not stored by themselves. The stale times apply where the answer has no such directive; beside
    s-maxage too, which forbids stale use only as long as whoever runs the upstream does not allow it.
    """

    ttl_s: float = 0.0
    override: bool = False
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    store_set_cookie: bool = False
    per_client_fields: frozenset[bytes] = frozenset()
    """Request fields that the upstream gets with a value made for each client: no later request shows whether it
    would select an answer that depends on one."""


DEFAULT_POLICY = StoragePolicy()


@dataclass(frozen=True, slots=True)
class Freshness:
    """Until when and how a stored answer may be used. Times are seconds since the epoch."""

    birth: float
    """When its age was zero."""
    fresh_until: float
    """Minus infinity for one that is never used without validation."""
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    may_be_stale: bool = True
    """False: no-cache, must-revalidate or proxy-revalidate forbid every stale use."""
    clients_may_take_stale: bool = True
    """False also for s-maxage: what the client asks for stale then counts for nothing (RFC 9111 section 5.2.2.10)."""
    for_authorized: bool = False
    """Whether requests with Authorization may share it, RFC 9111 section 3.5."""
    immutable: bool = False
    keep_until: float = math.inf
    """Past all use."""

    def age_s(self, now: float) -> float:
        """RFC 9111 section 4.2.3."""
        return min(max(0.0, now - self.birth), MAX_SECONDS)

    def ttl_s(self, now: float) -> float:
        """What is left of its freshness; negative when it is stale, zero when it has none at any time."""
        left = self.fresh_until - now
        return min(max(left, -MAX_SECONDS), MAX_SECONDS) if left > -math.inf else 0.0

    def outdated(self, now: float) -> Freshness:
        """The same, stale from ``now`` on."""
        return self if self.fresh_until <= now else replace(self, fresh_until=now)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an answer may be stored: not, for ``reason``, or with ``freshness``."""

    reason: str
    directives: ResponseDirectives
    freshness: Freshness
    vary: tuple[bytes, ...] = ()
    """The request fields that select it."""

    @property
    def storable(self) -> bool:
        return not self.reason


def judge(
    status: int,
    fields: Fields,
    *,
    requested_at: float,
    received_at: float,
    authorized: bool = False,
    no_store: bool = False,
    policy: StoragePolicy = DEFAULT_POLICY,
) -> Judgement:
    """Whether the answer to a GET may be stored in a shared cache, and its freshness, RFC 9111 sections 3 and 4.2.

    ``authorized``: the request had Authorization, or somebody identified its sender. ``no_store``: its directive.
    """
    directives = effective_directives(fields)
    freshness = _freshness(status, fields, directives, requested_at, received_at, policy)
    names = vary_names(fields)
    reason = _refusal(status, fields, directives, authorized=authorized, no_store=no_store, policy=policy)
    if not reason and names is None:
        reason = "vary *"
    if not reason and names and not policy.per_client_fields.isdisjoint(names):
        reason = "vary " + min(policy.per_client_fields.intersection(names)).decode("ascii")
    # As of when it was asked for: those who asked meanwhile may share it, even if it arrives too late to be stored.
    if not reason and freshness.keep_until <= requested_at:
        reason = "no freshness and no validator"
    if names is not None and b"accept-encoding" not in names and get_first(fields, b"content-encoding") is not None:
        # Many upstreams code bodies without saying that this depends on the request.
        names = tuple(sorted((*names, b"accept-encoding")))
    return Judgement(reason, directives, freshness, names or ())


def _refusal(
    status: int,
    fields: Fields,
    directives: ResponseDirectives,
    *,
    authorized: bool,
    no_store: bool,
    policy: StoragePolicy,
) -> str:
    """Why an answer must not be stored, RFC 9111 section 3; empty when it may be."""
    if no_store:
        return "the request says no-store"
    if status < 200 or status in (206, 304):
        return f"status {status}"
    if directives.must_understand:
        if status not in _UNDERSTOOD_STATUSES:
            return "must-understand"
    elif directives.no_store:
        return "no-store"
    if directives.private:
        return "private"
    if authorized and not _allows_authorized(directives):
        return "authorization"
    if not policy.store_set_cookie and get_first(fields, b"set-cookie") is not None:
        return "set-cookie"
    if status not in HEURISTIC_STATUSES and not _is_explicit(fields, directives):
        return f"status {status} without freshness"
    return ""


def _allows_authorized(directives: ResponseDirectives) -> bool:
    return directives.public or directives.must_revalidate or directives.s_maxage_s is not None


def _is_explicit(fields: Fields, directives: ResponseDirectives) -> bool:
    if directives.public or directives.max_age_s is not None or directives.s_maxage_s is not None:
        return True
    return not directives.targeted and get_first(fields, b"expires") is not None


def _freshness(
    status: int,
    fields: Fields,
    directives: ResponseDirectives,
    requested_at: float,
    received_at: float,
    policy: StoragePolicy,
) -> Freshness:
    date = date_of(fields, received_at)
    birth = received_at - initial_age_s(fields, date, requested_at, received_at)
    lifetime_s = freshness_lifetime_s(status, fields, directives, date, received_at, policy)
    may_be_stale = not (directives.no_cache or directives.must_revalidate or directives.proxy_revalidate)
    behind_s = _window_s(directives.stale_while_revalidate_s, policy.stale_while_revalidate_s, policy)
    error_s = _window_s(directives.stale_if_error_s, policy.stale_if_error_s, policy)
    if not may_be_stale:
        behind_s = error_s = 0.0
    clients_may_take_stale = may_be_stale and directives.s_maxage_s is None
    keep_until = birth + lifetime_s + max(behind_s, error_s)
    if has_validator(fields):
        keep_until = max(keep_until, received_at) + KEEP_FOR_VALIDATION_S
    elif directives.no_cache:
        keep_until = received_at
    elif clients_may_take_stale and keep_until > received_at:
        keep_until = max(keep_until, birth + lifetime_s + min(lifetime_s, KEEP_FOR_CLIENTS_S))
    return Freshness(
        birth=birth,
        fresh_until=-math.inf if directives.no_cache else birth + lifetime_s,
        stale_while_revalidate_s=behind_s,
        stale_if_error_s=error_s,
        may_be_stale=may_be_stale,
        clients_may_take_stale=clients_may_take_stale,
        for_authorized=_allows_authorized(directives),
        immutable=directives.immutable,
        keep_until=keep_until,
    )


def _window_s(stated: int | None, own: float, policy: StoragePolicy) -> float:
    return own if stated is None or (policy.override and own) else float(stated)


def initial_age_s(fields: Sequence[tuple[bytes, bytes]], date: float, requested_at: float, received_at: float) -> float:
    """The age at arrival, from Age and Date and the time the request took, RFC 9111 section 4.2.3."""
    apparent_age_s = max(0.0, received_at - date)
    delay_s = max(0.0, received_at - requested_at)
    # Date has whole seconds: within the second in which it was made an answer is not old.
    if apparent_age_s < 1.0:
        apparent_age_s = 0.0
    return max(apparent_age_s, (age_value_s(fields) or 0) + delay_s)


def age_value_s(fields: Sequence[tuple[bytes, bytes]]) -> int | None:
    """The upstream's Age: its first member where it has several, None where it is no number (RFC 9111 section 5.1)."""
    value = get_first(fields, b"age")
    if value is None:
        return None
    first = value.split(b",", 1)[0].strip(b" \t")
    if not first.isdigit():
        return None
    return MAX_SECONDS if len(first.lstrip(b"0")) > 10 else min(int(first), MAX_SECONDS)


def freshness_lifetime_s(
    status: int,
    fields: Fields,
    directives: ResponseDirectives,
    date: float,
    now: float,
    policy: StoragePolicy = DEFAULT_POLICY,
) -> float:
    """How long an answer stays fresh from its birth on, RFC 9111 sections 4.2.1 and 4.2.2."""
    # An error or a redirect that asks for a short life, or for none, does not get the long one of the pages.
    if policy.override and status in HEURISTIC_STATUSES:
        return policy.ttl_s
    if directives.s_maxage_s is not None:
        return float(directives.s_maxage_s)
    if directives.max_age_s is not None:
        return float(directives.max_age_s)
    expires = [] if directives.targeted else get_all(fields, b"expires")
    if expires:
        end = parse_http_date(expires[0], now) if len(set(expires)) == 1 else None
        return 0.0 if end is None else max(0.0, end - date)
    if status not in HEURISTIC_STATUSES and not directives.public:
        return 0.0
    if policy.ttl_s:
        return policy.ttl_s
    modified_value = get_first(fields, b"last-modified")
    modified = parse_http_date(modified_value, now) if modified_value is not None else None
    if modified is None:
        return 0.0
    return min(max(0.0, (date - modified) * HEURISTIC_SHARE), HEURISTIC_LIMIT_S)


def has_validator(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the upstream can be asked if the answer still holds."""
    return not _VALIDATORS.isdisjoint([name for name, _ in fields])


def reuse(freshness: Freshness, asked: RequestDirectives, now: float) -> Reuse:
    """How a stored answer may be used for a request, RFC 9111 sections 4.2.4 and 5.2.1, RFC 5861 section 3."""
    if asked.no_cache:
        return "request"
    fresh = now < freshness.fresh_until
    # Reloading pages is no reason to ask again for what never changes while it is fresh, RFC 8246 section 2.
    if asked.max_age_s is not None and freshness.age_s(now) > asked.max_age_s and not (fresh and freshness.immutable):
        return "request"
    if asked.min_fresh_s is not None and freshness.fresh_until - now < asked.min_fresh_s:
        return "request" if fresh else "validate"
    if fresh:
        return "fresh"
    staleness_s = now - freshness.fresh_until
    if asked.max_stale_s is not None and freshness.clients_may_take_stale and staleness_s <= asked.max_stale_s:
        return "stale"
    if freshness.may_be_stale and staleness_s < freshness.stale_while_revalidate_s:
        return "behind"
    return "validate"


def may_serve_fetch(fields: Fields, freshness: Freshness, asked: RequestDirectives, now: float) -> bool:
    """Whether fetching can make use of a stored answer: to ask if it still holds, or in place of an error."""
    return has_validator(fields) or may_answer_error(freshness, asked, now)


def may_answer_error(freshness: Freshness, asked: RequestDirectives, now: float) -> bool:
    """Whether a stored answer may stand for an upstream that fails, RFC 5861 section 4."""
    asked_s = asked.stale_if_error_s if freshness.clients_may_take_stale else None
    window_s = max(freshness.stale_if_error_s, asked_s or 0)
    return freshness.may_be_stale and window_s > 0 and now - freshness.fresh_until <= window_s
