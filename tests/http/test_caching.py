from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.http.cache_control import MAX_SECONDS, RequestDirectives, effective_directives
from gateway.http.caching import (
    KEEP_FOR_VALIDATION_S,
    Freshness,
    StoragePolicy,
    age_value_s,
    freshness_lifetime_s,
    initial_age_s,
    judge,
    may_answer_error,
    reuse,
)
from gateway.http.dates import http_date
from gateway.http.fields import Fields

NOW = 1_700_000_000.0
ETAG = (b"etag", b'"1"')


def cc(value: bytes) -> tuple[bytes, bytes]:
    return b"cache-control", value


def at(name: bytes, offset_s: float) -> tuple[bytes, bytes]:
    return name, http_date(NOW + offset_s)


def verdict(status: int, fields: Fields, **settings: Any) -> str:
    return judge(status, fields, requested_at=NOW, received_at=NOW, **settings).reason


@pytest.mark.parametrize(
    ("status", "fields", "settings", "reason"),
    [
        pytest.param(200, [cc(b"max-age=60")], {}, "", id="3-max-age"),
        pytest.param(200, [at(b"expires", 60)], {}, "", id="3-expires"),
        pytest.param(200, [ETAG], {}, "", id="3-heuristic-status-with-validator"),
        pytest.param(200, [], {}, "no freshness and no validator", id="3-nothing-to-use-it-by"),
        pytest.param(200, [cc(b"max-age=0")], {}, "no freshness and no validator", id="3-never-fresh"),
        pytest.param(200, [cc(b"max-age=0, stale-while-revalidate=9")], {}, "", id="rfc5861-stale-only"),
        pytest.param(200, [cc(b"no-cache")], {}, "no freshness and no validator", id="5.2.2.4-no-validator"),
        pytest.param(200, [cc(b"no-cache"), ETAG], {}, "", id="5.2.2.4-validated-each-time"),
        pytest.param(200, [cc(b"no-store, max-age=60")], {}, "no-store", id="5.2.2.5"),
        pytest.param(200, [cc(b"max-age=60")], {"no_store": True}, "the request says no-store", id="5.2.1.5"),
        pytest.param(200, [cc(b"private, max-age=60")], {}, "private", id="5.2.2.7"),
        pytest.param(200, [cc(b'private="x", max-age=60')], {}, "", id="5.2.2.7-fields"),
        pytest.param(200, [cc(b"max-age=60"), (b"vary", b"*")], {}, "vary *", id="4.1-star"),
        pytest.param(206, [cc(b"max-age=60")], {}, "status 206", id="3.3-part"),
        pytest.param(304, [cc(b"max-age=60")], {}, "status 304", id="3-not-modified"),
        pytest.param(302, [cc(b"max-age=60")], {}, "", id="3-explicit-302"),
        pytest.param(302, [ETAG], {}, "status 302 without freshness", id="3-302"),
        pytest.param(302, [cc(b"public"), ETAG], {}, "", id="5.2.2.9-public"),
        pytest.param(500, [cc(b"max-age=60")], {}, "", id="3-explicit-500"),
        pytest.param(500, [ETAG], {"policy": StoragePolicy(ttl_s=60)}, "status 500 without freshness", id="ttl-500"),
        pytest.param(599, [cc(b"max-age=60")], {}, "", id="3-unknown-status"),
        pytest.param(404, [], {"policy": StoragePolicy(ttl_s=60)}, "", id="ttl-404"),
        pytest.param(200, [cc(b"no-store, must-understand, max-age=9")], {}, "", id="5.2.2.3-understood"),
        pytest.param(299, [cc(b"must-understand, max-age=9")], {}, "must-understand", id="5.2.2.3-not-understood"),
        pytest.param(200, [cc(b"max-age=60")], {"authorized": True}, "authorization", id="3.5"),
        pytest.param(200, [cc(b"public, max-age=60")], {"authorized": True}, "", id="3.5-public"),
        pytest.param(200, [cc(b"s-maxage=60")], {"authorized": True}, "", id="3.5-s-maxage"),
        pytest.param(200, [cc(b"must-revalidate, max-age=60")], {"authorized": True}, "", id="3.5-must-revalidate"),
        pytest.param(200, [cc(b"max-age=60"), (b"set-cookie", b"a=1")], {}, "set-cookie", id="set-cookie"),
        pytest.param(
            200,
            [cc(b"max-age=60"), (b"set-cookie", b"a=1")],
            {"policy": StoragePolicy(store_set_cookie=True)},
            "",
            id="set-cookie-allowed",
        ),
        pytest.param(
            200,
            [cc(b"private")],
            {"policy": StoragePolicy(ttl_s=60, override=True)},
            "private",
            id="override-is-not-about-private",
        ),
        pytest.param(
            200,
            [cc(b"no-store")],
            {"policy": StoragePolicy(ttl_s=60, override=True)},
            "no-store",
            id="override-is-not-about-no-store",
        ),
        pytest.param(200, [cc(b"no-store"), (b"cdn-cache-control", b"max-age=9")], {}, "", id="rfc9213"),
        pytest.param(200, [cc(b"max-age=9"), (b"cdn-cache-control", b"no-store")], {}, "no-store", id="rfc9213-no"),
    ],
)
def test_what_may_be_stored(status: int, fields: Fields, settings: dict[str, Any], reason: str) -> None:
    assert verdict(status, fields, **settings) == reason


@pytest.mark.parametrize(
    ("status", "fields", "policy", "lifetime_s"),
    [
        pytest.param(200, [cc(b"s-maxage=5, max-age=60"), at(b"expires", 90)], {}, 5, id="4.2.1-s-maxage-first"),
        pytest.param(200, [cc(b"max-age=60"), at(b"expires", 90)], {}, 60, id="4.2.1-max-age-second"),
        pytest.param(200, [at(b"expires", 90)], {}, 90, id="4.2.1-expires-third"),
        pytest.param(200, [at(b"expires", -90)], {}, 0, id="5.3-past"),
        pytest.param(200, [(b"expires", b"0")], {}, 0, id="5.3-zero"),
        pytest.param(200, [(b"expires", b"soon")], {"ttl_s": 7}, 0, id="5.3-junk-is-past"),
        pytest.param(200, [at(b"expires", 90), at(b"expires", 91)], {}, 0, id="4.2.1-two-expires"),
        pytest.param(200, [at(b"expires", 90), at(b"expires", 90)], {}, 90, id="4.2.1-same-expires"),
        pytest.param(200, [cc(b"max-age=x"), at(b"expires", 90)], {"ttl_s": 7}, 0, id="4.2.1-invalid-is-stale"),
        pytest.param(200, [at(b"last-modified", -1000)], {}, 100, id="4.2.2-tenth"),
        pytest.param(200, [at(b"last-modified", -1e8)], {}, 86400, id="4.2.2-at-most-a-day"),
        pytest.param(200, [at(b"last-modified", 1000)], {}, 0, id="4.2.2-from-the-future"),
        pytest.param(200, [(b"last-modified", b"?")], {}, 0, id="4.2.2-junk"),
        pytest.param(302, [at(b"last-modified", -1000)], {}, 0, id="4.2.2-not-this-status"),
        pytest.param(302, [cc(b"public"), at(b"last-modified", -1000)], {}, 100, id="4.2.2-public"),
        pytest.param(200, [at(b"last-modified", -1000)], {"ttl_s": 7}, 7, id="ttl-before-heuristics"),
        pytest.param(200, [cc(b"max-age=60")], {"ttl_s": 7}, 60, id="ttl-after-max-age"),
        pytest.param(200, [cc(b"s-maxage=60")], {"ttl_s": 7, "override": True}, 7, id="override"),
        pytest.param(
            200, [(b"cdn-cache-control", b"public"), at(b"expires", 90)], {}, 0, id="rfc9213-expires-is-replaced-too"
        ),
    ],
)
def test_lifetime(status: int, fields: Fields, policy: dict[str, Any], lifetime_s: float) -> None:
    directives = effective_directives(fields)
    assert freshness_lifetime_s(status, fields, directives, NOW, NOW, StoragePolicy(**policy)) == lifetime_s


@pytest.mark.parametrize(
    ("fields", "date_offset_s", "delay_s", "age_s"),
    [
        pytest.param([], 0, 0, 0, id="4.2.3-new"),
        pytest.param([], -30, 0, 30, id="4.2.3-apparent-age"),
        pytest.param([], 30, 0, 0, id="4.2.3-date-in-the-future"),
        pytest.param([], -0.9, 0, 0, id="4.2.3-within-the-second-of-date"),
        pytest.param([(b"age", b"20")], 0, 0, 20, id="4.2.3-age-value"),
        pytest.param([(b"age", b"20")], -30, 0, 30, id="4.2.3-larger-of-both"),
        pytest.param([(b"age", b"20")], 0, 2, 22, id="4.2.3-delay"),
        pytest.param([], 0, 2, 2, id="4.2.3-delay-without-age"),
    ],
)
def test_initial_age(fields: Fields, date_offset_s: float, delay_s: float, age_s: float) -> None:
    assert initial_age_s(fields, NOW + date_offset_s, NOW - delay_s, NOW) == age_s


@pytest.mark.parametrize(
    ("value", "age_s"),
    [
        (b"5", 5),
        (b" 5 ", 5),
        (b"5, 9", 5),
        (b"-5", None),
        (b"5.0", None),
        (b"x", None),
        (b"", None),
        (b"9" * 5000, MAX_SECONDS),
        (b"3000000000", MAX_SECONDS),
    ],
)
def test_age_field(value: bytes, age_s: int | None) -> None:
    assert age_value_s([(b"age", value)]) == age_s


FRESH = Freshness(birth=NOW - 40, fresh_until=NOW + 60, keep_until=NOW + 999)
STALE = Freshness(birth=NOW - 40, fresh_until=NOW - 10, keep_until=NOW + 999)


@pytest.mark.parametrize(
    ("freshness", "changes", "asked", "expected"),
    [
        pytest.param(FRESH, {}, {}, "fresh", id="4-fresh"),
        pytest.param(FRESH, {}, {"no_cache": True}, "request", id="5.2.1.4"),
        pytest.param(FRESH, {}, {"max_age_s": 40}, "fresh", id="5.2.1.1-old-enough"),
        pytest.param(FRESH, {}, {"max_age_s": 39}, "request", id="5.2.1.1-too-old"),
        pytest.param(FRESH, {"immutable": True}, {"max_age_s": 0}, "fresh", id="rfc8246-reload"),
        pytest.param(STALE, {"immutable": True}, {"max_age_s": 0}, "request", id="rfc8246-only-while-fresh"),
        pytest.param(FRESH, {"immutable": True}, {"no_cache": True}, "request", id="rfc8246-no-cache"),
        pytest.param(FRESH, {}, {"min_fresh_s": 60}, "fresh", id="5.2.1.3-fresh-enough"),
        pytest.param(FRESH, {}, {"min_fresh_s": 61}, "request", id="5.2.1.3-not-enough"),
        pytest.param(STALE, {}, {}, "validate", id="4.2.4-stale"),
        pytest.param(STALE, {}, {"max_stale_s": 10}, "stale", id="5.2.1.2-taken"),
        pytest.param(STALE, {}, {"max_stale_s": 9}, "validate", id="5.2.1.2-too-stale"),
        pytest.param(STALE, {}, {"max_stale_s": 10, "max_age_s": 5}, "request", id="5.2.1.1-with-max-stale"),
        pytest.param(
            STALE, {"clients_may_take_stale": False}, {"max_stale_s": 99}, "validate", id="5.2.2.10-forbids-max-stale"
        ),
        pytest.param(STALE, {"stale_while_revalidate_s": 11}, {}, "behind", id="rfc5861-3"),
        pytest.param(STALE, {"stale_while_revalidate_s": 10}, {}, "validate", id="rfc5861-3-too-late"),
        pytest.param(
            STALE, {"stale_while_revalidate_s": 11, "may_be_stale": False}, {}, "validate", id="5.2.2.2-must-revalidate"
        ),
        pytest.param(STALE, {"stale_while_revalidate_s": 11}, {"min_fresh_s": 1}, "validate", id="5.2.1.3-stale"),
        pytest.param(STALE, {"fresh_until": -math.inf}, {"max_stale_s": MAX_SECONDS}, "validate", id="5.2.2.4"),
    ],
)
def test_reuse(freshness: Freshness, changes: dict[str, Any], asked: dict[str, Any], expected: str) -> None:
    values = {name: getattr(freshness, name) for name in Freshness.__slots__}
    assert reuse(Freshness(**{**values, **changes}), RequestDirectives(**asked), NOW) == expected


@pytest.mark.parametrize(
    ("value", "policy", "asked", "allowed"),
    [
        pytest.param(b"max-age=0, stale-if-error=20", {}, {}, True, id="rfc5861-4-answer"),
        pytest.param(b"max-age=0, stale-if-error=9", {}, {}, False, id="rfc5861-4-too-late"),
        pytest.param(b"max-age=0", {"stale_if_error_s": 20}, {}, True, id="rfc5861-4-route"),
        pytest.param(b"s-maxage=0", {"stale_if_error_s": 20}, {}, True, id="s-maxage-with-route"),
        pytest.param(b"max-age=0", {}, {"stale_if_error_s": 20}, True, id="rfc5861-4-request"),
        pytest.param(b"max-age=0", {}, {}, False, id="4.2.4-nobody-allowed-it"),
        pytest.param(b"max-age=0, must-revalidate", {"stale_if_error_s": 20}, {}, False, id="5.2.2.2"),
        pytest.param(b"max-age=0, proxy-revalidate", {"stale_if_error_s": 20}, {}, False, id="5.2.2.8"),
        pytest.param(b"no-cache", {"stale_if_error_s": 20}, {}, False, id="5.2.2.4"),
    ],
)
def test_stale_if_error(value: bytes, policy: dict[str, Any], asked: dict[str, Any], allowed: bool) -> None:
    judgement = judge(
        200, [cc(value), ETAG], requested_at=NOW - 10, received_at=NOW - 10, policy=StoragePolicy(**policy)
    )
    assert may_answer_error(judgement.freshness, RequestDirectives(**asked), NOW) == allowed


def test_freshness_of_a_stored_answer() -> None:
    fields = [cc(b"max-age=60, stale-while-revalidate=5, stale-if-error=7"), at(b"date", -10), (b"age", b"20")]
    freshness = judge(200, fields, requested_at=NOW - 1, received_at=NOW).freshness
    assert freshness.birth == NOW - 21
    assert freshness.fresh_until == NOW + 39
    assert freshness.keep_until == NOW + 39 + 60, "as long again as it was fresh, for clients that take it stale"
    assert freshness.age_s(NOW + 4) == 25
    assert freshness.age_s(NOW - 99) == 0
    assert freshness.ttl_s(NOW + 40) == -1
    assert freshness.outdated(NOW + 3).fresh_until == NOW + 3
    assert freshness.outdated(NOW + 50) is freshness


def test_answer_with_a_validator_is_kept_for_validation() -> None:
    judgement = judge(200, [cc(b"no-cache"), ETAG], requested_at=NOW, received_at=NOW)
    assert judgement.freshness.keep_until == NOW + KEEP_FOR_VALIDATION_S
    assert judgement.freshness.ttl_s(NOW) == 0


def test_coded_answer_without_vary_depends_on_accept_encoding() -> None:
    fields = [cc(b"max-age=60"), (b"content-encoding", b"gzip"), (b"vary", b"Origin")]
    assert judge(200, fields, requested_at=NOW, received_at=NOW).vary == (b"accept-encoding", b"origin")
