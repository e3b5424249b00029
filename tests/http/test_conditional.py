from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.conditional import (
    is_etag,
    is_not_modified,
    not_modified_fields,
    parse_etags,
    range_applies,
    strongly_equal,
    weakly_equal,
)
from gateway.http.dates import http_date

NOW = 1_700_000_000.0
ETAG = (b"etag", b'"a"')
WEAK = (b"etag", b'W/"a"')
MODIFIED = (b"last-modified", http_date(NOW - 100))
DATE = (b"date", http_date(NOW - 10))


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b'"a"', [b'"a"']),
        (b'W/"a", "b"', [b'W/"a"', b'"b"']),
        (b' "a" , ,"b,c"', [b'"a"', b'"b,c"']),
        (b"*", [b"*"]),
        (b" * ", [b"*"]),
        (b'""', [b'""']),
        (b'"\xff"', [b'"\xff"']),
        (b"a", []),
        (b'w/"a"', []),
        (b'"a" "b"', []),
        (b'"a", b, "c"', [b'"a"']),
        (b'"a', []),
        (b"", []),
    ],
)
def test_etags(value: bytes, tags: list[bytes]) -> None:
    assert parse_etags(value) == tags


@pytest.mark.parametrize(
    ("first", "second", "strong", "weak"),
    [
        pytest.param(b'W/"1"', b'W/"1"', False, True, id="8.8.3.2-both-weak"),
        pytest.param(b'W/"1"', b'W/"2"', False, False, id="8.8.3.2-weak-and-other"),
        pytest.param(b'W/"1"', b'"1"', False, True, id="8.8.3.2-one-weak"),
        pytest.param(b'"1"', b'"1"', True, True, id="8.8.3.2-both-strong"),
    ],
)
def test_comparison(first: bytes, second: bytes, strong: bool, weak: bool) -> None:
    assert strongly_equal(first, second) == strong
    assert weakly_equal(first, second) == weak


@pytest.mark.parametrize(
    ("none_match", "since", "stored", "expected"),
    [
        pytest.param(None, None, [ETAG], False, id="no-condition"),
        pytest.param(b'"a"', None, [ETAG], True, id="13.1.2-match"),
        pytest.param(b'W/"a"', None, [ETAG], True, id="13.1.2-weak-comparison"),
        pytest.param(b'"a"', None, [WEAK], True, id="13.1.2-weak-comparison-other-way"),
        pytest.param(b'"b", "a"', None, [ETAG], True, id="13.1.2-list"),
        pytest.param(b'"b"', None, [ETAG], False, id="13.1.2-no-match"),
        pytest.param(b"*", None, [], True, id="13.1.2-any"),
        pytest.param(b'"a"', None, [MODIFIED], False, id="13.1.2-no-etag-stored"),
        pytest.param(b'"b"', http_date(NOW), [ETAG, MODIFIED], False, id="13.2.2-if-none-match-decides-alone"),
        pytest.param(b"junk", http_date(NOW), [ETAG, MODIFIED], False, id="13.2.2-junk-decides-too"),
        pytest.param(None, http_date(NOW - 100), [MODIFIED], True, id="13.1.3-same-date"),
        pytest.param(None, http_date(NOW - 99), [MODIFIED], True, id="13.1.3-later-date"),
        pytest.param(None, http_date(NOW - 101), [MODIFIED], False, id="13.1.3-earlier-date"),
        pytest.param(None, b"yesterday", [MODIFIED], False, id="13.1.3-no-date"),
        pytest.param(None, http_date(NOW - 10), [DATE], True, id="4.3.2-date-for-last-modified"),
        pytest.param(None, http_date(NOW - 11), [DATE], False, id="4.3.2-date-is-later"),
        pytest.param(None, http_date(NOW - 5), [(b"last-modified", b"?")], True, id="4.3.2-time-of-arrival"),
        pytest.param(None, http_date(NOW - 6), [], False, id="4.3.2-arrived-later"),
    ],
)
def test_stored_answer_is_what_the_client_has(none_match: Any, since: Any, stored: Any, expected: bool) -> None:
    assert is_not_modified(none_match, since, stored, now=NOW, received_at=NOW - 5) == expected


def test_fields_of_304() -> None:
    described = [(b"content-type", b"text/plain"), (b"content-length", b"4"), (b"content-encoding", b"br")]
    kept = [ETAG, DATE, (b"vary", b"a"), (b"cache-control", b"max-age=1"), (b"content-location", b"/x")]
    assert not_modified_fields([*described, *kept]) == kept


@pytest.mark.parametrize(
    ("if_range", "stored", "applies"),
    [
        pytest.param(None, [], True, id="13.1.5-absent"),
        pytest.param(b'"a"', [ETAG], True, id="13.1.5-strong"),
        pytest.param(b'"b"', [ETAG], False, id="13.1.5-other"),
        pytest.param(b'W/"a"', [WEAK], False, id="13.1.5-weak"),
        pytest.param(b'"a"', [WEAK], False, id="13.1.5-stored-weak"),
        pytest.param(b'"a"', [], False, id="13.1.5-none-stored"),
        pytest.param(http_date(NOW - 100), [MODIFIED, DATE], True, id="13.1.5-date"),
        pytest.param(http_date(NOW - 99), [MODIFIED, DATE], False, id="13.1.5-later-date-is-another"),
        pytest.param(DATE[1], [(b"last-modified", DATE[1]), DATE], False, id="13.1.5-weak-date"),
        pytest.param(http_date(NOW - 100), [MODIFIED], False, id="13.1.5-no-date-stored"),
        pytest.param(b"junk", [ETAG, MODIFIED, DATE], False, id="13.1.5-junk"),
    ],
)
def test_if_range(if_range: Any, stored: Any, applies: bool) -> None:
    assert range_applies(if_range, stored, NOW) == applies


@given(st.binary(max_size=60))
def test_any_value_can_be_read(value: bytes) -> None:
    for tag in parse_etags(value):
        assert tag == b"*" or is_etag(tag)
    is_not_modified(value, value, [ETAG, MODIFIED], now=NOW, received_at=NOW)
    range_applies(value, [ETAG, MODIFIED, DATE], NOW)
