"""A shared cache as RFC 9111 describes it, as plainly as possible: every answer ever stored is looked at each time.

It does not say what a cache does but what it may do: where the RFC leaves a choice, each choice is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal

Headers = Mapping[str, str]

HEURISTICALLY_CACHEABLE = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}
SERVER_ERRORS = {500, 502, 503, 504}


@dataclass(frozen=True)
class Allowed:
    """One thing that a cache may do: answer from ``stored``, or ask the upstream with these conditions."""

    action: Literal["answer", "ask", "refuse"]
    stored: Stored | None = None


@dataclass(eq=False)
class Stored:
    """An answer, the request that it was for, and when the two passed."""

    request: dict[str, str]
    status: int
    headers: dict[str, str]
    body: bytes
    request_time: float
    response_time: float
    certain: bool = True
    """False: the cache may have thrown it away."""


def directives(headers: Headers) -> dict[str, str]:
    found = {}
    for part in headers.get("cache-control", "").split(","):
        name, _, argument = part.strip().partition("=")
        if name:
            found[name] = argument
    return found


def http_time(headers: Headers, name: str) -> float | None:
    return parsedate_to_datetime(headers[name]).timestamp() if name in headers else None


def date_value(stored: Stored) -> float:
    # Section 5.6.7 of RFC 9110: without Date, the time of arrival.
    date = http_time(stored.headers, "date")
    return stored.response_time if date is None else date


def current_age(stored: Stored, now: float) -> float:
    """Section 4.2.3, line by line."""
    apparent_age = max(0.0, stored.response_time - date_value(stored))
    response_delay = stored.response_time - stored.request_time
    corrected_age_value = int(stored.headers.get("age", "0")) + response_delay
    corrected_initial_age = max(apparent_age, corrected_age_value)
    resident_time = now - stored.response_time
    return corrected_initial_age + resident_time


def freshness_lifetime(stored: Stored) -> tuple[float, bool]:
    """Section 4.2.1; and whether that was guessed, so that a cache may also think otherwise."""
    said = directives(stored.headers)
    if "s-maxage" in said:
        return float(said["s-maxage"]), False
    if "max-age" in said:
        return float(said["max-age"]), False
    expires = http_time(stored.headers, "expires")
    if expires is not None:
        # One in the past says "expired", however long ago: staleness is counted from then on.
        return max(0.0, expires - date_value(stored)), False
    modified = http_time(stored.headers, "last-modified")
    if modified is not None and (stored.status in HEURISTICALLY_CACHEABLE or "public" in said):
        return max(0.0, (date_value(stored) - modified) * 0.1), True
    return 0.0, False


def may_store(method: str, request: Headers, status: int, headers: Headers) -> bool:
    """Section 3, and what this cache forbids itself beyond it: Set-Cookie, and methods other than GET."""
    said, asked = directives(headers), directives(request)
    if method != "GET" or "set-cookie" in headers or "*" in vary(headers):
        return False
    if "no-store" in asked or "no-store" in said or "private" in said or status in (206, 304):
        return False
    if "authorization" in request and not said.keys() & {"public", "must-revalidate", "s-maxage"}:
        return False
    explicit = bool(said.keys() & {"public", "max-age", "s-maxage"}) or "expires" in headers
    return explicit or status in HEURISTICALLY_CACHEABLE


def vary(headers: Headers) -> set[str]:
    return {name.strip().lower() for name in headers.get("vary", "").split(",") if name.strip()}


def matches(stored: Stored, request: Headers) -> bool:
    """Section 4.1."""
    return all(stored.request.get(name) == request.get(name) for name in vary(stored.headers))


def validators(stored: Stored) -> dict[str, str]:
    """Section 4.3.1: the conditions of a request that validates."""
    pairs = (("if-none-match", "etag"), ("if-modified-since", "last-modified"))
    return {condition: stored.headers[name] for condition, name in pairs if name in stored.headers}


@dataclass
class Reference:
    """What is stored for one target."""

    answers: list[Stored] = field(default_factory=list)

    def allowed(self, request: Headers, now: float) -> list[Allowed]:
        """What a cache may do with a GET or HEAD."""
        suitable = [stored for stored in self.answers if matches(stored, request) and self._is_for(stored, request)]
        certain = [stored for stored in suitable if stored.certain]
        # The most recent one has to be used (section 4); of those that may be gone, any may be.
        candidates: list[Stored | None] = [*certain[-1:]] if certain else [*suitable, None]
        found = [action for stored in candidates for action in self._with(stored, request, now)]
        if "only-if-cached" in directives(request):
            found = [action if action.action == "answer" else Allowed("refuse") for action in found]
        return found

    def _is_for(self, stored: Stored, request: Headers) -> bool:
        # Stricter than section 3.5: what must not be stored for the authorized is not given to them either.
        shared = directives(stored.headers).keys() & {"public", "must-revalidate", "s-maxage"}
        return "authorization" not in request or bool(shared)

    def _with(self, stored: Stored | None, request: Headers, now: float) -> list[Allowed]:
        if stored is None:
            return [Allowed("ask")]
        asked, said = directives(request), directives(stored.headers)
        age, (lifetime, guessed) = current_age(stored, now), freshness_lifetime(stored)
        answer, ask = Allowed("answer", stored), Allowed("ask", stored)
        if "no-cache" in said or "no-cache" in asked:
            return self._asking(stored, ask, now)
        if "max-age" in asked and age > float(asked["max-age"]):
            return self._asking(stored, ask, now)
        if "min-fresh" in asked and lifetime - age < float(asked["min-fresh"]):
            return self._asking(stored, ask, now)
        if lifetime > age:
            return [answer, ask] if guessed else [answer]
        staleness = age - lifetime
        forbidden = bool(said.keys() & {"must-revalidate", "proxy-revalidate", "s-maxage"})
        if "max-stale" in asked and not forbidden and staleness <= float(asked["max-stale"] or "inf"):
            return [answer, *self._asking(stored, ask, now)]
        return self._asking(stored, ask, now)

    def _asking(self, stored: Stored, ask: Allowed, now: float) -> list[Allowed]:
        # One that cannot be validated is of no use: the request goes on as if it were not there.
        if not validators(stored):
            return [Allowed("ask")]
        # A cache need not keep what is stale for ever; this one keeps it for an hour.
        return [ask, Allowed("ask")] if now - stored.response_time > 3600 else [ask]

    def standing_for_error(self, request: Headers, status: int, now: float) -> list[Stored]:
        """Answers that may be given instead of an error, RFC 5861 section 4."""
        if status not in SERVER_ERRORS:
            return []
        return [
            stored
            for stored in self.answers
            if matches(stored, request)
            and self._is_for(stored, request)
            and "stale-if-error" in (said := directives(stored.headers))
            and not said.keys() & {"no-cache", "must-revalidate", "proxy-revalidate"}
            and current_age(stored, now) - freshness_lifetime(stored)[0] <= float(said["stale-if-error"])
        ]

    def store(self, new: Stored) -> None:
        """A new answer takes the place of those that the same request would have got."""
        if not validators(new) and freshness_lifetime(new)[0] <= current_age(new, new.response_time):
            # Stale on arrival, and nothing to validate it with: a cache need not keep what it has no use for.
            new.certain = False
            for old in self.answers:
                old.certain = False
            self.answers.append(new)
            return
        kept = []
        for old in self.answers:
            if vary(old.headers) != vary(new.headers):
                old.certain = False
            elif matches(old, new.request):
                continue
            kept.append(old)
        self.answers = [*kept, new]

    def confirm(
        self, old: Stored, request: dict[str, str], update: Headers, times: tuple[float, float], *, surely: bool
    ) -> None:
        """Section 4.3.4: the stored answer with the fields of a 304; ``surely`` when this was about no other."""
        merged = {**{name: value for name, value in old.headers.items() if name not in ("age", "date")}, **update}
        if "vary" in update:
            # Beyond the RFC: a 304 may add to Vary, not take away.
            merged["vary"] = ", ".join(sorted(vary(old.headers) | vary(update)))
        if may_store("GET", request, old.status, merged):
            confirmed = Stored(request, old.status, merged, old.body, *times, certain=surely)
            if surely:
                self.answers.remove(old)
                self.store(confirmed)
            else:
                for stored in self.answers:
                    stored.certain = False
                self.answers.append(confirmed)
        else:
            old.certain = False

    def doubt(self, request: Headers) -> None:
        """Another answer came and was not stored: the older ones may still be there or not."""
        for stored in self.answers:
            if matches(stored, request):
                stored.certain = False

    def invalidate(self) -> None:
        """Section 4.4."""
        self.answers.clear()
