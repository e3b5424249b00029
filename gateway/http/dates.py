"""HTTP dates, RFC 9110 section 5.6.7."""

from __future__ import annotations

import re
from calendar import isleap, timegm
from functools import lru_cache
from time import gmtime

_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_DAY_NAME = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
# Caches are to read them without regard to case, RFC 9111 section 4.2.
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        _DAY_NAME + rb", (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT",
        rb"(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), (?P<day>[0-9]{2})-"
        + _MONTH
        + rb"-(?P<year>[0-9]{2}) "
        + _TIME
        + rb" GMT",
        _DAY_NAME + rb" " + _MONTH + rb" (?P<day>[0-9]{2}| [0-9]) " + _TIME + rb" (?P<year>[0-9]{4})",
    )
)

_YEAR_S = 31556952  # The mean Gregorian year.
_LONGEST = len(b"Wednesday, 06-Nov-94 08:49:37 GMT")
_LATEST_S = 253402300799  # The last second of year 9999: later ones have no HTTP date.


def http_date(seconds: float) -> bytes:
    """The date in the preferred form (IMF-fixdate), for seconds since the epoch."""
    return _http_date(int(seconds))


@lru_cache(maxsize=64)
def _http_date(seconds: int) -> bytes:
    year, month, day, hour, minute, second, weekday, _, _ = gmtime(min(max(0, seconds), _LATEST_S))
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        _DAYS[weekday],
        day,
        _MONTHS[month - 1],
        year,
        hour,
        minute,
        second,
    )


def parse_http_date(value: bytes, now: float) -> float | None:
    """Seconds since the epoch for any of the three forms; None when ``value`` is no HTTP date.

    ``now`` decides the century of a two-digit year: one that looks more than 50 years ahead is in the past.
    """
    value = value.strip(b" \t")
    this_year = 1970 + int(now // _YEAR_S)
    # The same Date comes with every answer of a second.
    return _parse_cached(value, this_year) if len(value) <= _LONGEST else None


def _parse(value: bytes, this_year: int) -> float | None:
    for form in _FORMS:
        match = form.fullmatch(value)
        if match is not None:
            break
    else:
        return None
    month, day, year = _MONTH_NUMBERS[match["month"].title()], int(match["day"]), int(match["year"])
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    if len(match["year"]) == 2:
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    # There is no year 0.
    if not year or not 1 <= day <= _DAYS_IN_MONTH[month - 1] or (month == 2 and day == 29 and not isleap(year)):
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return float(timegm((year, month, day, hour, minute, second)))


_parse_cached = lru_cache(maxsize=256)(_parse)
