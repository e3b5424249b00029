from __future__ import annotations

import pytest

from gateway.http.cache_control import effective_directives
from gateway.http.dates import http_date
from gateway.http.fields import Fields
from gateway.http.stored_fields import head_confirms, storable_fields, updated_fields

NOW = 1_700_000_000.0
ETAG = (b"etag", b'"1"')


def cc(value: bytes) -> tuple[bytes, bytes]:
    return b"cache-control", value


def at(name: bytes, offset_s: float) -> tuple[bytes, bytes]:
    return name, http_date(NOW + offset_s)


def test_fields_that_are_not_stored() -> None:
    fields = [
        cc(b'max-age=60, private="x-user", no-cache="set-cookie"'),
        (b"connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"x-user", b"1"),
        (b"set-cookie", b"a=1"),
        (b"age", b"5"),
        (b"keep-alive", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"proxy-authenticate", b"x"),
        (b"x-kept", b"1"),
        (b"x-kept", b"2"),
        at(b"date", -5),
    ]
    kept = storable_fields(fields, effective_directives(fields), NOW)
    assert kept == [fields[0], (b"x-kept", b"1"), (b"x-kept", b"2"), at(b"date", -5)]


@pytest.mark.parametrize("dates", [[], [b"junk"], [http_date(NOW - 5), http_date(NOW - 4)]])
def test_date_is_repaired(dates: list[bytes]) -> None:
    fields = [(b"date", date) for date in dates]
    kept = storable_fields(fields, effective_directives(fields), NOW)
    assert len(kept) == 1
    assert kept[0] == at(b"date", -5 if len(dates) == 2 else 0)


def test_304_replaces_fields_but_not_those_of_the_bytes() -> None:
    stored = [ETAG, cc(b"max-age=1"), (b"content-length", b"4"), (b"content-type", b"a/b"), (b"x", b"1"), (b"x", b"2")]
    update = [cc(b"max-age=9"), (b"content-length", b"0"), (b"content-type", b"c/d"), (b"x", b"3"), (b"y", b"4")]
    merged = updated_fields(stored, [*update, (b"connection", b"y"), (b"age", b"3")])
    assert merged == [ETAG, (b"content-length", b"4"), cc(b"max-age=9"), (b"content-type", b"c/d"), (b"x", b"3")]


def test_vary_of_a_stored_answer_only_grows() -> None:
    merged = updated_fields([(b"vary", b"Accept-Encoding, Origin")], [(b"vary", b"origin, X")])
    assert merged == [(b"vary", b"origin, X"), (b"vary", b"accept-encoding")]


@pytest.mark.parametrize(
    ("head", "confirms"),
    [
        pytest.param([ETAG, (b"content-length", b"4")], True, id="4.3.5-same"),
        pytest.param([], True, id="4.3.5-says-nothing"),
        pytest.param([(b"etag", b'"2"')], False, id="4.3.5-other-etag"),
        pytest.param([(b"content-length", b"5")], False, id="4.3.5-other-length"),
        pytest.param([at(b"last-modified", -5)], False, id="4.3.5-other-date"),
    ],
)
def test_head_is_about_what_is_stored(head: Fields, confirms: bool) -> None:
    assert head_confirms([ETAG, (b"content-length", b"4")], head) == confirms
