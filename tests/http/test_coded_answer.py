"""Which answers are coded, as a table; the middleware's own tests show what comes out of it."""

from __future__ import annotations

import pytest

from gateway.http.coded_answer import CodingRule, Plan, fields_of_coded, with_strong_tags
from gateway.http.fields import Fields

RULE = CodingRule(codings=("zstd", "br", "gzip"), min_size=1000, types=("text/*", "Application/JSON"))
TEXT = (b"content-type", b"text/plain; charset=utf-8")
LONG = (b"content-length", b"1000")
VARY = (b"vary", b"Accept-Encoding")
GZIP = [(b"accept-encoding", b"gzip")]


@pytest.mark.parametrize(
    ("status", "fields", "request_fields", "plan"),
    [
        pytest.param(200, [TEXT, LONG], GZIP, Plan([TEXT, LONG, VARY], "gzip", (), 1000), id="coded"),
        pytest.param(200, [TEXT], GZIP, Plan([TEXT, VARY], "gzip"), id="unknown length"),
        pytest.param(404, [TEXT], GZIP, Plan([TEXT, VARY], "gzip"), id="an error is an answer"),
        pytest.param(200, [TEXT], [], Plan([TEXT, VARY]), id="nothing accepted, 12.5.3"),
        pytest.param(200, [TEXT, (b"content-length", b"999")], GZIP, None, id="small"),
        pytest.param(200, [(b"content-type", b"image/png")], GZIP, None, id="does not compress"),
        pytest.param(206, [TEXT], GZIP, None, id="a part"),
        pytest.param(103, [TEXT], GZIP, None, id="interim"),
        pytest.param(200, [TEXT, (b"cache-control", b"no-transform")], GZIP, None, id="no-transform, 9111 5.2.2.6"),
        pytest.param(
            200,
            [TEXT, (b"cache-control", b'x="no-transformer"')],
            GZIP,
            Plan([TEXT, (b"cache-control", b'x="no-transformer"'), VARY], "gzip"),
            id="another directive",
        ),
        pytest.param(200, [TEXT, (b"content-encoding", b"gzip")], GZIP, None, id="coded and accepted"),
        pytest.param(200, [TEXT, (b"content-encoding", b"compress")], GZIP, None, id="coded by who knows what"),
        pytest.param(
            200,
            [TEXT, (b"content-encoding", b"br, x-gzip")],
            [(b"accept-encoding", b"zstd")],
            Plan([TEXT, (b"content-encoding", b"br, x-gzip"), VARY], "zstd", ["br", "gzip"]),
            id="coded and refused",
        ),
        pytest.param(
            200,
            [(b"content-type", b"text/event-stream")],
            GZIP,
            Plan([(b"content-type", b"text/event-stream"), VARY], "gzip", (), 16 * 1024),
            id="events",
        ),
        pytest.param(
            304,
            [(b"etag", b'"a"')],
            [(b"if-none-match", b'"b", W/"a"')],
            Plan([(b"etag", b'W/"a"')]),
            id="304 to who holds the coded one",
        ),
        pytest.param(304, [(b"etag", b'"a"')], [], Plan([(b"etag", b'"a"')]), id="304"),
    ],
)
def test_what_is_done_with_an_answer(status: int, fields: Fields, request_fields: Fields, plan: Plan | None) -> None:
    before = list(fields)
    assert RULE.plan(status, fields, request_fields) == plan
    assert fields == before


def test_an_answer_to_head_is_not_coded_and_says_on_what_it_depends() -> None:
    assert RULE.plan(200, [TEXT, LONG], GZIP, is_head=True) == Plan([TEXT, LONG, VARY], "identity", (), 1000)


def test_the_fields_of_a_coded_body() -> None:
    fields = [TEXT, LONG, (b"etag", b'"a"'), (b"digest", b"x"), (b"accept-ranges", b"bytes"), (b"x", b"1")]
    kept = [TEXT, (b"etag", b'W/"a"'), (b"x", b"1")]
    assert fields_of_coded(fields, "identity") == kept
    assert fields_of_coded(fields, "br", 7) == [*kept, (b"content-encoding", b"br"), (b"content-length", b"7")]
    assert fields_of_coded([(b"etag", b'W/"a"')], "identity") == [(b"etag", b'W/"a"')]


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (b'W/"a"', b'W/"a", "a"'),
        (b'"a"', b'"a"'),
        (b"*", b"*"),
        (b'W/"a", "a"', b'W/"a", "a"'),
        (b"W/", b"W/"),
        (b'W/"a,b", "c"', b'W/"a,b", "c", "a,b"'),
    ],
)
def test_weak_tags_are_asked_for_in_their_strong_form_too(value: bytes, asked: bytes) -> None:
    assert with_strong_tags([(b"host", b"a"), (b"if-none-match", value)]) == [
        (b"host", b"a"),
        (b"if-none-match", asked),
    ]


def test_304_names_the_tag_with_a_comma_that_the_client_holds() -> None:
    plan = RULE.plan(304, [(b"etag", b'"a,b"')], [(b"if-none-match", b'W/"a,b"')])
    assert plan is not None
    assert plan.fields == [(b"etag", b'W/"a,b"')]
