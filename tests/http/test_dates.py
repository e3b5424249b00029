from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.dates import http_date, parse_http_date

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0, id="5.6.7-imf-fixdate"),
        pytest.param(b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0, id="5.6.7-rfc850"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", 784111777.0, id="5.6.7-asctime"),
        pytest.param(b"Wed Nov 16 08:49:37 1994", 784975777.0, id="5.6.7-asctime-two-digit-day"),
        pytest.param(b" Sun, 06 Nov 1994 08:49:37 GMT\t", 784111777.0, id="surrounding-whitespace"),
        pytest.param(b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0, id="epoch"),
        pytest.param(b"Tuesday, 01-Jan-69 00:00:00 GMT", 3124224000.0, id="5.6.7-two-digits-46-years-ahead"),
        pytest.param(b"Tuesday, 01-Jan-74 00:00:00 GMT", 126230400.0, id="5.6.7-two-digits-51-years-ahead-are-past"),
        pytest.param(b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800.0, id="leap-second"),
        pytest.param(b"0", None, id="zero"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37", None, id="no-gmt"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 UTC", None, id="utc"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 +0100", None, id="offset"),
        pytest.param(b"Sun, 6 Nov 1994 08:49:37 GMT", None, id="one-digit-day"),
        pytest.param(b"sun, 06 NOV 1994 08:49:37 gmt", 784111777.0, id="9111-4.2-case"),
        pytest.param(b"SUNDAY, 06-nov-94 08:49:37 Gmt", 784111777.0, id="9111-4.2-case-rfc850"),
        pytest.param(b"Thu, 18  Aug  2050 02:01:18 GMT", None, id="more-spaces"),
        pytest.param(b"Thu, 18-Aug-2050 02:01:18 GMT", None, id="dashes"),
        pytest.param(b"Thu, 18 Aug 2050 2:01:18 GMT", None, id="one-digit-hour"),
        pytest.param(b"Thu, 18 Aug 50 02:01:18 GMT", None, id="two-digit-year-in-imf-fixdate"),
        pytest.param(b"Sun, 32 Nov 1994 08:49:37 GMT", None, id="day-32"),
        pytest.param(b"Sun, 00 Nov 1994 08:49:37 GMT", None, id="day-0"),
        pytest.param(b"Tue, 29 Feb 2000 00:00:00 GMT", 951782400.0, id="leap-day"),
        pytest.param(b"Wed, 29 Feb 2023 00:00:00 GMT", None, id="leap-day-of-a-common-year"),
        pytest.param(b"Sat, 01 Jan 0000 00:00:00 GMT", None, id="year-0"),
        pytest.param(b"Sat Jan  1 00:00:00 0000", None, id="year-0-asctime"),
        pytest.param(b"Mon, 01 Jan 0001 00:00:00 GMT", -62135596800.0, id="year-1"),
        pytest.param(b"Thu, 18 Aug 99999 02:01:18 GMT", None, id="year-99999"),
        pytest.param(b"Sun, 06 Nov 1994 24:49:37 GMT", None, id="hour-24"),
        pytest.param(b"Sun, 06 Nov 1994 08:60:37 GMT", None, id="minute-60"),
        pytest.param(b"1994-11-06T08:49:37Z", None, id="iso"),
        pytest.param(b"\xff" * 40, None, id="bytes"),
    ],
)
def test_parse(value: bytes, seconds: float | None) -> None:
    assert parse_http_date(value, NOW) == seconds


def test_fractions_are_cut() -> None:
    assert http_date(784111777.9) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@given(st.integers(min_value=0, max_value=253402300799))
def test_what_is_written_is_read(seconds: int) -> None:
    assert parse_http_date(http_date(seconds), NOW) == seconds


@given(st.from_regex(r"(?i)(Sat, [0-9]{2} Feb [0-9]{4}|Sat Feb [ 0-9][0-9]) [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|[0-9]{4})"))
def test_what_looks_like_a_date_never_raises(value: str) -> None:
    parse_http_date(value.encode("latin-1", "replace"), NOW)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_time_can_be_written(seconds: float) -> None:
    assert len(http_date(seconds)) == 29
