"""Conditions, ranges and validation."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import ResponseBroken
from gateway.http.dates import http_date
from tests.middleware.cache_origin import START, Answer, Clock, Origin, cached, get, is_hit, status_of

pytestmark = pytest.mark.anyio

ETAG = (b"etag", b'"1"')
MODIFIED = (b"last-modified", http_date(START - 1000))
NONE_MATCH = (b"if-none-match", b'"1"')


def cc(value: bytes) -> tuple[bytes, bytes]:
    return b"cache-control", value


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        pytest.param([NONE_MATCH], 304, id="13.1.2"),
        pytest.param([(b"if-none-match", b'W/"1"')], 304, id="13.1.2-weak"),
        pytest.param([(b"if-none-match", b'"0"'), (b"if-none-match", b'"1"')], 304, id="13.1.2-two-lines"),
        pytest.param([(b"if-none-match", b'"2"')], 200, id="13.1.2-other"),
        pytest.param([(b"if-modified-since", http_date(START - 1000))], 304, id="13.1.3"),
        pytest.param([(b"if-modified-since", http_date(START - 1001))], 200, id="13.1.3-changed"),
        pytest.param([(b"if-none-match", b'"2"'), (b"if-modified-since", http_date(START))], 200, id="13.2.2"),
    ],
)
async def test_conditions_are_answered_from_the_store(asked: Any, status: int) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), ETAG, MODIFIED, (b"content-type", b"a/b")]))
    app = cached(origin, clock)
    await get(app)
    clock.now += 5
    sent = await get(app, b"/", *asked)
    assert is_hit(sent)
    assert sent.status == status
    assert sent.body == (b"body" if status == 200 else b"")
    assert sent.values(b"etag") == [b'"1"']
    assert sent.values(b"age") == [b"5"]
    assert sent.values(b"content-type") == ([b"a/b"] if status == 200 else [])


async def test_condition_does_not_keep_an_answer_from_being_stored() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), ETAG]))
    app = cached(origin, clock)
    sent = await get(app, b"/", NONE_MATCH)
    assert b"if-none-match" not in origin.asked()
    assert sent.status == 304
    sent = await get(app)
    assert is_hit(sent)
    assert sent.body == b"body"


async def test_condition_reaches_the_upstream_where_nothing_is_stored() -> None:
    clock = Clock()

    def answer(scope: Scope) -> Answer:
        unchanged = dict(scope["headers"]).get(b"if-none-match") == b'"1"'
        return Answer(status=304 if unchanged else 200, headers=[cc(b"private"), ETAG], pieces=[b""])

    origin = Origin(clock, choose=answer)
    app = cached(origin, clock)
    # The first request finds out that answers are private.
    assert (await get(app, b"/", NONE_MATCH)).status == 200
    assert (await get(app, b"/", NONE_MATCH)).status == 304


async def test_conditions_do_not_apply_to_other_statuses() -> None:
    clock = Clock()
    app = cached(Origin(clock, Answer(status=404, headers=[cc(b"max-age=60"), ETAG])), clock)
    await get(app)
    assert (await get(app, b"/", NONE_MATCH)).status == 404


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        pytest.param([(b"range", b"bytes=1-2")], 206, b"12", b"bytes 1-2/10", id="14.2"),
        pytest.param([(b"range", b"bytes=-2")], 206, b"89", b"bytes 8-9/10", id="14.2-suffix"),
        pytest.param([(b"range", b"bytes=10-")], 416, b"", b"bytes */10", id="15.5.17"),
        pytest.param([(b"range", b"lines=1-2")], 200, b"0123456789", None, id="14.2-other-unit"),
        pytest.param([(b"range", b"bytes=1-2"), (b"if-range", b'"1"')], 206, b"12", b"bytes 1-2/10", id="13.1.5"),
        pytest.param([(b"range", b"bytes=1-2"), (b"if-range", b'"2"')], 200, b"0123456789", None, id="13.1.5-other"),
        pytest.param([(b"range", b"bytes=1-2"), NONE_MATCH], 304, b"", None, id="13.2.2-condition-first"),
    ],
)
async def test_ranges_are_answered_from_the_store(asked: Any, status: int, body: bytes, content_range: Any) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), ETAG], pieces=[b"01234", b"56789"]))
    app = cached(origin, clock)
    await get(app)
    sent = await get(app, b"/", *asked)
    assert is_hit(sent)
    assert (sent.status, sent.body) == (status, body)
    assert sent.values(b"content-range") == ([content_range] if content_range else [])
    assert sent.values(b"content-length") == ([] if status == 304 else [b"%d" % len(body)])


async def test_several_ranges_come_in_one_answer() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), (b"content-type", b"a/b")], pieces=[b"0123456789"]))
    app = cached(origin, clock)
    await get(app)
    sent = await get(app, b"/", (b"range", b"bytes=0-1,8-9"))
    assert sent.status == 206
    assert sent.values(b"content-type")[0].startswith(b"multipart/byteranges; boundary=")
    assert sent.body.count(b"Content-Type: a/b\r\nContent-Range: bytes") == 2
    assert sent.values(b"content-length") == [b"%d" % len(sent.body)]


async def test_range_of_what_is_not_stored_passes_untouched() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(status=206, headers=[cc(b"max-age=60"), (b"content-range", b"bytes 0-3/9")]))
    app = cached(origin, clock)
    for _ in range(2):
        sent = await get(app, b"/", (b"range", b"bytes=0-3"))
        assert sent.status == 206
        assert status_of(sent) == b"gateway; fwd=uri-miss; fwd-status=206; detail=range"
    assert origin.asked()[b"range"] == b"bytes=0-3"


async def test_part_that_nobody_asked_for_is_not_stored() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(status=206, headers=[cc(b"max-age=60"), (b"content-range", b"bytes 0-3/9")]))
    app = cached(origin, clock)
    await get(app)
    assert not is_hit(await get(app))


async def test_stale_answer_is_validated() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), ETAG, MODIFIED, (b"x", b"old"), (b"y", b"1")]),
        Answer(status=304, headers=[cc(b"max-age=90"), ETAG, (b"x", b"new"), (b"content-length", b"0")], pieces=[b""]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    sent = await get(app)
    asked = origin.asked()
    assert (asked[b"if-none-match"], asked[b"if-modified-since"]) == (b'"1"', MODIFIED[1])
    assert (sent.status, sent.body) == (200, b"body")
    assert status_of(sent) == b"gateway; fwd=stale; fwd-status=304; stored; ttl=90"
    assert sent.values(b"x") == [b"new"]
    assert sent.values(b"y") == [b"1"]
    assert sent.values(b"content-length") == [b"4"]
    assert sent.values(b"age") == [b"0"]
    assert sent.values(b"date") == [clock.date()]
    clock.now += 80
    assert is_hit(await get(app))


async def test_validation_brings_a_new_answer() -> None:
    clock = Clock()
    origin = Origin(
        clock, Answer(headers=[cc(b"max-age=60"), ETAG]), Answer(headers=[cc(b"max-age=60")], pieces=[b"new"])
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    sent = await get(app)
    assert sent.body == b"new"
    assert status_of(sent) == b"gateway; fwd=stale; fwd-status=200; stored; ttl=60"
    assert (await get(app)).body == b"new"


@pytest.mark.parametrize(
    ("asked", "status"),
    [([NONE_MATCH], 304), ([(b"if-none-match", b'"0"')], 200), ([(b"range", b"bytes=0-0")], 206), ([], 200)],
)
async def test_what_the_client_asks_is_answered_after_validation(asked: Any, status: int) -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"no-cache"), ETAG]),
        Answer(status=304, headers=[cc(b"no-cache"), ETAG], pieces=[b""]),
    )
    app = cached(origin, clock)
    await get(app)
    for _ in range(2):
        sent = await get(app, b"/", *asked)
        assert sent.status == status
        assert origin.asked()[b"if-none-match"] == b'"1"'
        assert b"range" not in origin.asked()


async def test_client_reload_is_validated_with_what_is_stored() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), ETAG]), Answer(status=304, headers=[ETAG], pieces=[b""]))
    app = cached(origin, clock)
    await get(app)
    sent = await get(app, b"/", cc(b"no-cache"))
    assert status_of(sent) == b"gateway; fwd=request; fwd-status=304; stored; ttl=60"
    assert sent.body == b"body"


async def test_304_about_something_else_is_followed_by_a_whole_request() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), ETAG]),
        Answer(status=304, headers=[(b"etag", b'"2"')], pieces=[b""]),
        Answer(headers=[cc(b"max-age=60"), (b"etag", b'"2"')], pieces=[b"new"]),
    )

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await origin(scope, receive, send)

    app = cached(reading, clock)
    await get(app)
    clock.now += 61
    assert (await get(app)).body == b"new"
    assert b"if-none-match" not in origin.asked()
    assert is_hit(await get(app))


@pytest.mark.parametrize("directive", [b"no-store", b"private"])
async def test_304_can_end_the_storage(directive: bytes) -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), ETAG]),
        Answer(status=304, headers=[cc(directive), ETAG], pieces=[b""]),
        Answer(headers=[cc(directive), ETAG], pieces=[b"new"]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    assert (await get(app)).body == b"body"
    assert (await get(app)).body == b"new"
    assert b"if-none-match" not in origin.asked()


async def test_cookie_of_a_304_reaches_only_whoever_asked() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), ETAG]),
        Answer(status=304, headers=[ETAG, (b"set-cookie", b"a=1")], pieces=[b""]),
        Answer(status=304, headers=[ETAG], pieces=[b""]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    assert (await get(app)).values(b"set-cookie") == [b"a=1"]
    for _ in range(2):
        assert (await get(app)).values(b"set-cookie") == []


async def test_vary_that_a_304_leaves_out_still_holds() -> None:
    clock = Clock()

    def answer(scope: Scope) -> Answer:
        fields = dict(scope["headers"])
        if b"if-none-match" in fields:
            return Answer(status=304, headers=[ETAG, (b"vary", b"origin")], pieces=[b""])
        coding = fields.get(b"accept-encoding", b"identity")
        headers = [cc(b"max-age=60"), ETAG, (b"vary", b"accept-encoding")]
        return Answer(headers=[*headers, (b"content-encoding", coding)], pieces=[coding])

    app = cached(Origin(clock, choose=answer), clock)
    await get(app, b"/", (b"accept-encoding", b"br"))
    clock.now += 61
    assert (await get(app, b"/", (b"accept-encoding", b"br"))).body == b"br"
    assert (await get(app, b"/", (b"accept-encoding", b"gzip"))).body == b"gzip"


async def test_error_while_validating_is_passed_on_where_nothing_stale_may_be_used() -> None:
    clock = Clock()
    origin = Origin(
        clock, Answer(headers=[cc(b"max-age=60"), ETAG]), Answer(status=503, pieces=[b"away"]), Answer(status=304)
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    sent = await get(app)
    assert (sent.status, sent.body) == (503, b"away")
    # What is stored is not lost by it.
    clock.now += 2
    assert (await get(app)).body == b"body"


async def test_new_answer_that_is_not_to_be_kept_removes_the_old_one() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60, stale-if-error=600"), ETAG]),
        Answer(headers=[cc(b"no-store")], pieces=[b"secret"]),
        Answer(status=500),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    assert (await get(app)).body == b"secret"
    assert (await get(app)).status == 500


async def test_broken_answer_leaves_the_stored_one_alone() -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), ETAG]),
        Answer(headers=[cc(b"max-age=60")], pieces=[b"ne"], error=ResponseBroken("cut")),
        Answer(status=304, headers=[ETAG], pieces=[b""]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    with pytest.raises(ResponseBroken):
        await get(app)
    assert (await get(app)).body == b"body"
