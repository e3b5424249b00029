"""Which answers are fresh, for how long, and how odd fields are read: RFC 9111 sections 4.2, 5.1 to 5.3, RFC 9213."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cache.support import Turn, at, cc, converse

pytestmark = pytest.mark.anyio

ETAG = (b"etag", b'"1"')
CDN, SURROGATE, EXPIRES, AGE, DATE, LM = (
    b"cdn-cache-control",
    b"surrogate-control",
    b"expires",
    b"age",
    b"date",
    b"last-modified",
)
DAY_OLD = (LM, at(-86400))


def case(fields: Any, stored: bool, name: str, wait_s: float = 3.0) -> Any:
    return pytest.param(fields, stored, wait_s, id=name)


# Three seconds later, is the answer given again?
LIFETIMES = [
    case([], False, "nothing-said"),
    case([cc(b"max-age=3600")], True, "max-age"),
    case([cc(b"max-age=0")], False, "max-age-0"),
    case([cc(b"max-age=2147483647")], True, "max-age-2e31-1"),
    case([cc(b"max-age=2147483648")], True, "max-age-2e31"),
    case([cc(b"max-age=99999999999")], True, "max-age-beyond"),
    case([cc(b"max-age=" + b"9" * 5000)], True, "max-age-of-5000-digits"),
    case([cc(b"max-age=3600"), (AGE, b"7200")], False, "older-than-max-age"),
    case([cc(b"max-age=3600"), (DATE, at(-7200))], False, "date-older-than-max-age"),
    case([cc(b"max-age=3600"), (DATE, at(7200))], True, "date-in-the-future"),
    case([cc(b"max-age=3600"), (EXPIRES, at(-7200))], True, "max-age-before-expires"),
    case([cc(b"max-age=3600"), (EXPIRES, b"0")], True, "max-age-before-bad-expires"),
    case([cc(b"max-age=0"), (EXPIRES, at(7200))], False, "max-age-0-before-expires"),
    case([cc(b"max-age=1"), cc(b"s-maxage=3600")], True, "s-maxage-first"),
    case([cc(b"max-age=3600, s-maxage=1")], False, "short-s-maxage-first"),
    case([cc(b"s-maxage=3600"), (EXPIRES, at(-1))], True, "s-maxage-before-expires"),
    case([cc(b"MaX-aGe=3600")], True, "names-in-any-case"),
    case([cc(b"foobar, max-age=3600")], True, "unknown-directive"),
    case([cc(b"foobar=baz, max-age=3600")], True, "unknown-directive-with-argument"),
    case([cc(b",, ,max-age=3600 ,")], True, "empty-members"),
    case([cc(b"max-age=3600\t,\tpublic")], True, "tabs"),
    # Repeated, the same twice says one thing; otherwise there is no telling.
    case([cc(b"max-age=3600, max-age=3600")], True, "max-age-twice-the-same"),
    case([cc(b"max-age=1800, max-age=1")], False, "two-max-age-short-last"),
    case([cc(b"max-age=1, max-age=1800")], False, "two-max-age-short-first"),
    case([cc(b"max-age=1800"), cc(b"max-age=3600")], False, "two-max-age-both-long"),
    # Quoted and unquoted.
    case([cc(b'max-age="3600"')], True, "quoted"),
    case([cc(b'max-age="\\3600"')], True, "quoted-pair"),
    case([cc(b'extension="max-age=3600", max-age=1')], False, "in-the-quotes-of-another-first"),
    case([cc(b'max-age=1, extension="max-age=3600"')], False, "in-the-quotes-of-another-last"),
    case([cc(b'extension="no-store, private", max-age=60')], True, "prohibitions-in-quotes"),
    case([cc(b'extension="\\", no-store, ", max-age=60')], True, "escaped-quote"),
    case([cc(b'extension="no-end, max-age=3600')], False, "unfinished-quote"),
    case([cc(b"max-age=3600"), cc(b'x="')], False, "unfinished-quote-on-another-line"),
    case([cc(b"max-age='3600'")], False, "single-quotes"),
    # No numbers.
    case([cc(b"max-age =3600")], False, "space-before-equals"),
    case([cc(b"max-age= 3600")], False, "space-after-equals"),
    case([cc(b"max-age=003600")], True, "leading-zeros"),
    case([cc(b"max-age=3600.0")], False, "float"),
    case([cc(b"max-age=-3600")], False, "negative"),
    case([cc(b"max-age=+3600")], False, "plus"),
    case([cc(b"max-age=a3600")], False, "letter-first"),
    case([cc(b"max-age=3600a")], False, "letter-last"),
    case([cc(b"max-age=3_600")], False, "underscore"),
    case([cc("max-age=\u0663".encode())], False, "digit-of-another-script"),
    case([cc(b"max-age")], False, "no-argument"),
    case([cc(b"max-age=")], False, "empty-argument"),
    case([cc(b"max-age=;3600")], False, "semicolon"),
    case([cc(b"s-maxage=x, max-age=3600")], False, "bad-s-maxage-is-not-ignored"),
    # Expires.
    case([(EXPIRES, at(7200))], True, "expires"),
    case([(EXPIRES, at(2))], False, "expires-past-by-then"),
    case([(EXPIRES, at(0))], False, "expires-now"),
    case([(EXPIRES, at(7200)), (AGE, b"7201")], False, "older-than-expires"),
    case([(EXPIRES, at(7200)), (DATE, at(7201))], False, "expires-before-date"),
    case([(EXPIRES, at(7200)), (EXPIRES, at(7200))], True, "expires-twice-the-same"),
    case([(EXPIRES, at(7200)), (EXPIRES, at(3600))], False, "two-expires"),
    case([(EXPIRES, b"Thu, 18 Aug 2050 02:01:18 GMT")], True, "expires-2050"),
    case([(EXPIRES, b"Thursday, 18-Aug-50 02:01:18 GMT")], True, "expires-rfc850"),
    case([(EXPIRES, b"Thu Aug 18 02:01:18 2050")], True, "expires-asctime"),
    case([(EXPIRES, b"Thu, 18 Aug 99999 02:01:18 GMT")], False, "expires-99999"),
    case([(EXPIRES, b"THU, 18 Aug 2050 02:01:18 GMT")], True, "expires-weekday-in-capitals"),
    case([(EXPIRES, b"Thu, 18 AUG 2050 02:01:18 GMT")], True, "expires-month-in-capitals"),
    case([(EXPIRES, b"Thu, 18 Aug 2050 02:01:18 gMT")], True, "expires-zone-in-mixed-case"),
    case([(EXPIRES, b"Thu, 18 Aug 2050 02:01:18 UTC")], False, "expires-utc"),
    case([(EXPIRES, b"Thu, 18 Aug 50 02:01:18 GMT")], False, "expires-two-digits"),
    case([(EXPIRES, b"Thu 18 Aug 2050 02:01:18 GMT")], False, "expires-no-comma"),
    case([(EXPIRES, b"Thu, 18  Aug  2050 02:01:18 GMT")], False, "expires-spaces"),
    case([(EXPIRES, b"Thu, 18-Aug-2050 02:01:18 GMT")], False, "expires-dashes"),
    case([(EXPIRES, b"Thu, 18 Aug 2050 02.01.18 GMT")], False, "expires-points"),
    case([(EXPIRES, b"Thu, 18 Aug 2050 2:01:18 GMT")], False, "expires-one-digit"),
    case([(EXPIRES, b"Wed, 30 Feb 2050 02:01:18 GMT")], False, "expires-30-february"),
    case([(EXPIRES, b"0")], False, "expires-0"),
    case([(EXPIRES, b"-1")], False, "expires-minus-1"),
    # Age.
    case([cc(b"max-age=3600"), (AGE, b"abc")], True, "age-no-number"),
    case([cc(b"max-age=3600"), (AGE, b"-7200")], True, "age-negative"),
    case([cc(b"max-age=3600"), (AGE, b"7200.0")], True, "age-float"),
    case([cc(b"max-age=3600"), (AGE, b"7200, 0")], False, "age-first-of-list-counts"),
    case([cc(b"max-age=3600"), (AGE, b"0, 7200")], True, "age-later-members-do-not"),
    case([cc(b"max-age=3600"), (AGE, b"7200"), (AGE, b"0")], False, "age-first-line-counts"),
    case([cc(b"max-age=3600"), (AGE, b"0"), (AGE, b"7200")], True, "age-later-lines-do-not"),
    case([cc(b"max-age=3600"), (AGE, b"0, 0")], True, "age-twice"),
    case([cc(b"max-age=3600"), (AGE, b"9" * 5000)], False, "age-of-5000-digits"),
    # Heuristics.
    case([DAY_OLD], True, "heuristic-a-day-old"),
    case([(LM, at(-25))], False, "heuristic-25-seconds-old"),
    case([(LM, at(3600))], False, "heuristic-from-the-future"),
    case([(LM, b"yesterday")], False, "heuristic-no-date"),
    case([DAY_OLD, cc(b"max-age=0")], False, "explicit-before-heuristic"),
    case([DAY_OLD, (EXPIRES, b"0")], False, "bad-expires-before-heuristic"),
    case([DAY_OLD, cc(b"public")], True, "heuristic-public"),
    case([DAY_OLD, (b"content-disposition", b"attachment")], True, "heuristic-attachment"),
    # Prohibitions.
    case([cc(b"no-store, max-age=60")], False, "no-store"),
    case([cc(b"No-StOrE, max-age=60")], False, "no-store-in-any-case"),
    case([cc(b"no-store=x, max-age=60")], False, "no-store-with-argument"),
    case([cc(b"private, max-age=60")], False, "private"),
    case([cc(b"private=, max-age=60")], False, "private-empty"),
    case([cc(b'private="", max-age=60')], False, "private-empty-list"),
    case([cc(b"private=x-a, max-age=60")], False, "private-unquoted-stands-for-all"),
    case([cc(b'private="a b", max-age=60')], False, "private-that-names-no-field"),
    case([cc(b'private="x-a", private, max-age=60')], False, "private-list-and-all"),
    case([cc(b"no-cache, max-age=60")], False, "no-cache"),
    case([cc(b"no-cache=x-a, max-age=60")], False, "no-cache-unquoted-stands-for-all"),
    case([cc(b"max-age=60, must-revalidate")], True, "must-revalidate-fresh"),
    case([cc(b"max-age=2, must-revalidate")], False, "must-revalidate-stale"),
    case([cc(b"max-age=60, proxy-revalidate")], True, "proxy-revalidate-fresh"),
    case([cc(b"max-age=60, immutable")], True, "immutable-fresh"),
    case([cc(b"max-age=2, immutable")], False, "immutable-stale"),
    case([cc(b"max-age=60, must-understand, no-store")], True, "must-understand-takes-no-store-back"),
    case([cc(b"max-age=60"), (b"pragma", b"no-cache")], True, "pragma-says-nothing-in-answers"),
    case([cc(b"max-age=60"), (b"set-cookie", b"a=b")], False, "set-cookie"),
    case([cc(b"max-age=60"), (b"set-cookie", b"a=b"), cc(b"public")], False, "set-cookie-public"),
    case([cc(b"max-age=60"), (b"content-disposition", b"attachment")], True, "attachment"),
    # Targeted fields.
    case([(CDN, b"max-age=3600")], True, "cdn"),
    case([(CDN, b"max-age=2147483648")], True, "cdn-2e31"),
    case([(CDN, b"max-age=99999999999")], True, "cdn-beyond"),
    case([(CDN, b"max-age=3600"), (AGE, b"7200")], False, "cdn-age"),
    case([cc(b"max-age=1"), (CDN, b"max-age =100")], False, "cdn-space-before-equals"),
    case([cc(b"max-age=1"), (CDN, b"max-age= 100")], False, "cdn-space-after-equals"),
    case([(CDN, b"max-age=0")], False, "cdn-0"),
    case([(CDN, b"foobar, max-age=3600")], True, "cdn-unknown-directive"),
    case([cc(b"max-age=1"), (CDN, b"MaX-aGe=3600")], False, "cdn-names-are-lower-case"),
    case([(CDN, b"max-age=3600"), (EXPIRES, at(-10000))], True, "cdn-before-expires"),
    case([(CDN, b"max-age=3600"), (EXPIRES, b"0")], True, "cdn-before-bad-expires"),
    case([(CDN, b"max-age=0"), (EXPIRES, at(10000))], False, "cdn-0-before-expires"),
    case([cc(b"max-age=1"), (CDN, b"max-age=3600")], True, "cdn-longer"),
    case([cc(b"max-age=3600"), (CDN, b"max-age=1")], False, "cdn-shorter"),
    case([cc(b"max-age=3600"), (CDN, b"private")], False, "cdn-private"),
    case([cc(b"max-age=3600"), (CDN, b"no-cache")], False, "cdn-no-cache"),
    case([cc(b"max-age=3600"), (CDN, b"no-store")], False, "cdn-no-store"),
    case([cc(b"no-store"), (CDN, b"max-age=3600")], True, "cdn-lets-store"),
    case([cc(b"private"), (CDN, b"max-age=3600")], True, "cdn-lets-share"),
    case([cc(b"no-store"), (CDN, b"max-age=10000, &&&&&")], False, "cdn-that-cannot-be-read"),
    case([cc(b"no-store"), (CDN, b'max-age="10000"')], False, "cdn-string-is-no-number"),
    case([cc(b"no-store"), (CDN, b"max-age=10000.0")], False, "cdn-decimal-is-no-number"),
    case([cc(b"no-store"), (CDN, b"max-age=@10000")], False, "cdn-date-is-no-number"),
    case([(CDN, b"no-cache=x, max-age=60")], False, "cdn-token-names-no-fields"),
    case([(CDN, b"private=5, max-age=60")], False, "cdn-number-names-no-fields"),
    case([cc(b"max-age=60"), (CDN, b"no-store=?0")], True, "cdn-false-is-absent"),
    case([cc(b"max-age=60"), (CDN, b"")], True, "cdn-empty"),
    case([cc(b"no-store"), (CDN, b"max-age=60"), (CDN, b"public")], True, "cdn-two-lines"),
    case([(CDN, b"max-age=60"), (SURROGATE, b"max-age=0")], True, "cdn-before-surrogate"),
    case([(SURROGATE, b"max-age=3600")], True, "surrogate"),
    case([cc(b"max-age=1"), (SURROGATE, b"max-age =100")], False, "surrogate-space-before-equals"),
    case([cc(b"max-age=1"), (SURROGATE, b"max-age= 100")], False, "surrogate-space-after-equals"),
    case([(SURROGATE, b"max-age=0"), (EXPIRES, at(9000))], False, "surrogate-0"),
    case([(SURROGATE, b"foobar, MaX-aGe=3600")], True, "surrogate-any-case"),
    case([(SURROGATE, b"max-age=3600"), (EXPIRES, b"0")], True, "surrogate-before-expires"),
    case([cc(b"max-age=1"), (SURROGATE, b"max-age=3600")], True, "surrogate-longer"),
    case([cc(b"max-age=3600"), (SURROGATE, b"max-age=1")], False, "surrogate-shorter"),
    case([(SURROGATE, b"max-age=3600"), (AGE, b"12000")], False, "surrogate-age"),
    case([cc(b"max-age=3600"), (SURROGATE, b"no-store")], False, "surrogate-no-store"),
    case([cc(b"max-age=3600"), (SURROGATE, b'content="ESI/1.0"')], True, "surrogate-about-something-else"),
]


@pytest.mark.parametrize(("fields", "stored", "wait_s"), LIFETIMES)
async def test_lifetimes(fields: Any, stored: bool, wait_s: float) -> None:
    await converse(Turn(fields, comes="upstream"), Turn(fields, wait_s=wait_s, comes="store" if stored else "asked"))


STATUSES = [
    200,
    203,
    204,
    299,
    301,
    302,
    303,
    307,
    308,
    400,
    404,
    405,
    410,
    414,
    418,
    429,
    499,
    500,
    501,
    502,
    503,
    599,
]


@pytest.mark.parametrize("status", STATUSES)
async def test_any_status_is_stored_with_freshness_of_its_own(status: int) -> None:
    await converse(
        Turn([cc(b"max-age=60")], status, comes="upstream"),
        Turn(status=status, wait_s=59, comes="store", gives=status),
        Turn(status=status, wait_s=2, comes="upstream"),
    )


@pytest.mark.parametrize("status", STATUSES)
async def test_without_it_only_those_that_may_be_guessed(status: int) -> None:
    guessed = status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
    await converse(Turn([DAY_OLD], status), Turn([DAY_OLD], status, wait_s=3, comes="store" if guessed else "upstream"))
    await converse(Turn([DAY_OLD, cc(b"public")], status), Turn(status=status, wait_s=3, comes="store"))


@pytest.mark.parametrize("status", [206, 304])
async def test_parts_and_confirmations_are_no_answers_to_store(status: int) -> None:
    fields = [cc(b"max-age=60"), (b"content-range", b"bytes 0-3/9")]
    await converse(Turn(fields, status), Turn(fields, status, comes="upstream"))


@pytest.mark.parametrize("status", [299, 418, 599])
async def test_what_must_be_understood_is_not_stored_under_an_unknown_status(status: int) -> None:
    fields = [cc(b"max-age=60, must-understand")]
    await converse(Turn(fields, status), Turn(fields, status, comes="upstream"))


@pytest.mark.parametrize(
    ("settings", "fields", "status", "stored"),
    [
        ({"ttl_s": 60}, [], 200, True),
        ({"ttl_s": 60}, [], 404, True),
        ({"ttl_s": 60}, [], 302, False),
        ({"ttl_s": 60}, [], 500, False),
        ({"ttl_s": 60}, [cc(b"max-age=1")], 200, False),
        ({"ttl_s": 60}, [(EXPIRES, b"0")], 200, False),
        ({"ttl_s": 60, "override": True}, [cc(b"max-age=1")], 200, True),
        ({"ttl_s": 60, "override": True}, [(EXPIRES, b"0")], 200, True),
        ({"ttl_s": 60, "override": True}, [(CDN, b"max-age=1")], 200, True),
        ({"ttl_s": 60, "override": True}, [cc(b"max-age=1")], 500, False),
        ({"ttl_s": 60, "override": True}, [(EXPIRES, b"0")], 503, False),
        ({"ttl_s": 60, "override": True}, [cc(b"max-age=1")], 302, False),
        ({"ttl_s": 60, "override": True}, [cc(b"private")], 200, False),
        ({"ttl_s": 60, "override": True}, [cc(b"no-store")], 200, False),
        ({"ttl_s": 60, "override": True}, [cc(b"no-cache")], 200, False),
        ({"ttl_s": 60, "override": True}, [(b"vary", b"*")], 200, False),
        ({"ttl_s": 1, "override": True}, [cc(b"max-age=60")], 200, False),
    ],
)
async def test_lifetimes_of_the_route(settings: Any, fields: Any, status: int, stored: bool) -> None:
    comes: Any = "store" if stored else "upstream"
    await converse(Turn(fields, status), Turn(fields, status, wait_s=3, comes=comes), **settings)


# Age.


@pytest.mark.parametrize(
    ("fields", "takes_s", "age"),
    [
        ([], 0, b"5"),
        ([(AGE, b"30")], 0, b"35"),
        ([(AGE, b"30")], 4, b"39"),
        ([(DATE, at(-30))], 0, b"35"),
        ([(DATE, at(-30)), (AGE, b"10")], 0, b"35"),
        ([(DATE, at(-30)), (AGE, b"40")], 0, b"45"),
        ([(DATE, at(0))], 4, b"9"),
    ],
)
@pytest.mark.parametrize("freshness", [[cc(b"max-age=600")], [(EXPIRES, at(30 * 86400))]])
async def test_age(fields: Any, freshness: Any, takes_s: float, age: bytes) -> None:
    await converse(
        Turn([*fields, *freshness], takes_s=takes_s),
        Turn(wait_s=5, comes="store", has=[(AGE, age)]),
    )


async def test_age_is_one_number_also_for_what_has_none_or_several() -> None:
    _, hit = await converse(
        Turn([cc(b"max-age=600"), (AGE, b"7"), (AGE, b"8, 9")]), Turn(wait_s=1, comes="store", has=[(AGE, b"8")])
    )
    assert len(hit.values(AGE)) == 1


async def test_date_is_not_updated_and_added_where_it_is_missing() -> None:
    date = (DATE, at(-7))
    await converse(Turn([cc(b"max-age=600"), date]), Turn(wait_s=1, comes="store", has=[date]))
    await converse(Turn([cc(b"max-age=600")]), Turn(wait_s=9, comes="store", has=[(DATE, at(0))]), dated=False)
