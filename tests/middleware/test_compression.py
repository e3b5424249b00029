from __future__ import annotations

import asyncio
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import ResponseBroken
from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.coding import CODINGS, BoundedDecoder, make_encoder
from gateway.middleware.compression import CompressionMiddleware
from tests.support.messages import Sent, answering, call, http_scope

pytestmark = pytest.mark.anyio

TEXT = (b"content-type", b"text/plain; charset=utf-8")
BODY = b"All work and no play. " * 200


def asking(accept: bytes | None = b"gzip", method: str = "GET", *more: tuple[bytes, bytes]) -> Scope:
    headers = [(b"host", b"example.com"), *more]
    if accept is not None:
        headers.append((b"accept-encoding", accept))
    return http_scope(method, b"/", headers)


def length(body: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % len(body))


def decoded(sent: Sent) -> bytes:
    (coding,) = sent.values(b"content-encoding")
    decoder = BoundedDecoder([coding.decode()], max_bytes=None)
    body = b"".join(decoder.decode(sent.body))
    assert decoder.complete
    return body


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_body_is_coded_as_the_client_wants_it(coding: str) -> None:
    app = CompressionMiddleware(answering(200, [TEXT, length(BODY)], [BODY]))
    sent = await call(app, asking(coding.encode()))
    assert sent.values(b"content-encoding") == [coding.encode()]
    assert sent.values(b"vary") == [b"Accept-Encoding"]
    assert sent.values(b"content-length") == []
    assert decoded(sent) == BODY and len(sent.body) < len(BODY) / 2


async def test_a_coding_that_is_none_does_not_stand_beside_the_real_one() -> None:
    fields = [TEXT, (b"content-encoding", b"identity"), length(BODY)]
    sent = await call(CompressionMiddleware(answering(200, fields, [BODY])), asking())
    assert sent.values(b"content-encoding") == [b"gzip"]
    assert decoded(sent) == BODY


async def test_a_body_that_is_at_hand_keeps_a_length() -> None:
    app = CompressionMiddleware(answering(200, [TEXT, length(BODY)], [BODY], **{WHOLE_FOLLOWS: True}))
    sent = await call(app, asking())
    assert sent.values(b"content-length") == [b"%d" % len(sent.body)]
    assert gzip.decompress(sent.body) == BODY


async def test_a_small_body_that_is_at_hand_stays_as_it_is_though_nobody_said_how_long_it_is() -> None:
    sent = await call(CompressionMiddleware(answering(200, [TEXT], [b"hello"], **{WHOLE_FOLLOWS: True})), asking())
    assert sent.headers == [TEXT, (b"vary", b"Accept-Encoding")]
    assert sent.body == b"hello"


async def test_pieces_where_the_whole_was_announced_are_coded_all_the_same() -> None:
    app = CompressionMiddleware(answering(200, [TEXT], [b"hello", BODY], **{WHOLE_FOLLOWS: True}))
    assert decoded(await call(app, asking())) == b"hello" + BODY


async def test_a_whole_answer_is_left_to_others_when_it_is_to_be_decoded_or_takes_long() -> None:
    app = CompressionMiddleware(answering(200, [], [b""]), codings=["br"], level="best")
    accept = [(b"accept-encoding", b"br")]
    assert app.whole_answer(200, [TEXT, (b"content-encoding", b"gzip")], BODY, accept) is None
    assert app.whole_answer(200, [TEXT], BODY * 20, accept) is None
    answer = app.whole_answer(200, [TEXT], BODY, accept)
    assert answer is not None and (b"content-length", b"%d" % len(answer[1])) in answer[0]


@pytest.mark.parametrize(
    ("status", "headers", "vary"),
    [
        pytest.param(200, [TEXT, (b"content-encoding", b"gzip"), length(BODY)], [], id="coded already"),
        pytest.param(200, [TEXT, (b"cache-control", b"public, No-Transform"), length(BODY)], [], id="no-transform"),
        pytest.param(206, [TEXT, (b"content-range", b"bytes 0-9/10"), length(BODY)], [], id="a part"),
        pytest.param(204, [], [], id="no content"),
        pytest.param(304, [(b"etag", b'"x"')], [], id="not modified"),
        pytest.param(200, [(b"content-type", b"image/png"), length(BODY)], [], id="does not compress"),
        pytest.param(200, [length(BODY)], [], id="no type"),
        pytest.param(200, [TEXT, (b"content-length", b"1023")], [], id="small"),
    ],
)
async def test_what_must_stay_as_it_is(status: int, headers: list[tuple[bytes, bytes]], vary: list[bytes]) -> None:
    sent = await call(CompressionMiddleware(answering(status, headers, [BODY])), asking())
    assert sent.headers == headers
    assert sent.body == BODY


@pytest.mark.parametrize("accept", [None, b"", b"identity", b"gzip;q=0", b"deflate"])
async def test_an_answer_that_would_have_been_coded_says_so(accept: bytes | None) -> None:
    sent = await call(CompressionMiddleware(answering(200, [TEXT, length(BODY)], [BODY])), asking(accept))
    assert sent.headers == [TEXT, length(BODY), (b"vary", b"Accept-Encoding")]
    assert sent.body == BODY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [b"Accept-Encoding"]),
        ([b"Origin"], [b"Origin, Accept-Encoding"]),
        ([b"Origin", b"Cookie"], [b"Origin, Accept-Encoding", b"Cookie"]),
        ([b"origin, ACCEPT-encoding"], [b"origin, ACCEPT-encoding"]),
        ([b"*"], [b"*"]),
    ],
)
async def test_vary_names_the_field_once(before: list[bytes], after: list[bytes]) -> None:
    headers = [TEXT, *[(b"vary", value) for value in before]]
    sent = await call(CompressionMiddleware(answering(200, headers, [BODY])), asking())
    assert sent.values(b"vary") == after


async def test_fields_about_the_uncoded_bytes_go() -> None:
    headers = [
        TEXT,
        length(BODY),
        (b"accept-ranges", b"bytes"),
        (b"content-md5", b"x"),
        (b"content-digest", b"x"),
        (b"repr-digest", b"x"),
        (b"etag", b'"v1"'),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    sent = await call(CompressionMiddleware(answering(200, headers, [BODY])), asking())
    assert sent.headers == [
        TEXT,
        (b"etag", b'W/"v1"'),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"vary", b"Accept-Encoding"),
        (b"content-encoding", b"gzip"),
    ]


async def test_a_head_request_gets_the_fields_of_the_plain_answer() -> None:
    app = CompressionMiddleware(answering(200, [TEXT, length(BODY), (b"etag", b'"v1"')]))
    sent = await call(app, asking(b"gzip", "HEAD"))
    assert sent.headers == [TEXT, length(BODY), (b"etag", b'"v1"'), (b"vary", b"Accept-Encoding")]


async def test_the_weak_tag_of_a_coded_answer_matches_again() -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"if-none-match")
        await answering(304, [(b"etag", b'"v1"')])(scope, receive, send)

    sent = await call(CompressionMiddleware(app), asking(b"gzip", "GET", (b"if-none-match", b'W/"v1", "v0"')))
    assert seen == [b'W/"v1", "v0", "v1"']
    assert sent.values(b"etag") == [b'W/"v1"']


async def test_a_client_that_holds_the_plain_answer_is_told_its_own_tag() -> None:
    app = CompressionMiddleware(answering(304, [(b"etag", b'"v1"')]))
    sent = await call(app, asking(b"gzip", "GET", (b"if-none-match", b'"v1"')))
    assert sent.values(b"etag") == [b'"v1"']


async def test_events_leave_one_by_one() -> None:
    first_left, gate = asyncio.Event(), asyncio.Event()
    sent = Sent()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        first_left.set()
        await gate.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})

    task = asyncio.ensure_future(CompressionMiddleware(app)(asking(), _never, sent))
    decoder = BoundedDecoder(["gzip"], max_bytes=None)
    await first_left.wait()
    assert b"".join(decoder.decode(sent.body)) == b"data: 1\n\n"
    gate.set()
    await task
    assert decoded(sent) == b"data: 1\n\ndata: 2\n\n"


async def test_a_stream_of_events_does_with_a_small_window() -> None:
    events = (b"content-type", b"text/event-stream; charset=utf-8")
    sent = await call(CompressionMiddleware(answering(200, [events], [BODY, BODY])), asking(b"zstd"))
    # A window of 16 KiB, RFC 8878 section 3.1.1.1.2.
    assert sent.body[5] == 14 - 10 << 3


async def test_the_head_of_a_stream_does_not_wait_for_its_body() -> None:
    sent = Sent()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        assert sent.values(b"content-encoding") == [b"gzip"]
        await send({"type": "http.response.body", "body": b""})

    await CompressionMiddleware(app)(asking(), _never, sent)
    assert decoded(sent) == b""


async def test_a_broken_body_is_not_ended_cleanly() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
        await send({"type": "http.response.body", "body": BODY, "more_body": True})
        raise ResponseBroken("gone")

    sent = Sent()
    with pytest.raises(ResponseBroken):
        await CompressionMiddleware(app)(asking(), _never, sent)
    assert not sent.complete


@pytest.mark.parametrize("level", ["fast", "balanced", "best"])
@pytest.mark.parametrize("size", [1023, 1024, 1025, 131_072, 131_073, 700_000])
async def test_bodies_around_the_thresholds_round_trip(size: int, level: str) -> None:
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    app = CompressionMiddleware(answering(200, [TEXT], [body]), level=level)  # type: ignore[arg-type]
    assert decoded(await call(app, asking(b"zstd"))) == body


@settings(max_examples=50)
@given(pieces=st.lists(st.binary(max_size=3000), min_size=1, max_size=10), coding=st.sampled_from(CODINGS))
async def test_any_cut_of_a_body_round_trips(pieces: list[bytes], coding: str) -> None:
    sent = await call(CompressionMiddleware(answering(200, [TEXT], pieces)), asking(coding.encode()))
    assert decoded(sent) == b"".join(pieces)


def coded(coding: str, body: bytes) -> bytes:
    encoder = make_encoder(coding)
    return encoder.encode(body) + encoder.finish()


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_coding_the_client_refuses_is_taken_off(coding: str) -> None:
    body = coded(coding, BODY)
    headers = [TEXT, (b"content-encoding", coding.encode()), length(body), (b"etag", b'"c"')]
    sent = await call(CompressionMiddleware(answering(200, headers, [body[:50], body[50:]])), asking(b"identity"))
    assert sent.values(b"content-encoding") == []
    assert sent.values(b"content-length") == []
    assert sent.values(b"etag") == [b'W/"c"']
    assert sent.values(b"vary") == [b"Accept-Encoding"]
    assert sent.body == BODY


async def test_a_coding_the_client_refuses_becomes_one_that_it_takes() -> None:
    body = coded("br", BODY)
    headers = [TEXT, (b"content-encoding", b"br"), length(body)]
    sent = await call(CompressionMiddleware(answering(200, headers, [body])), asking(b"gzip"))
    assert sent.values(b"content-encoding") == [b"gzip"]
    assert decoded(sent) == BODY


async def test_an_unknown_coding_passes() -> None:
    headers = [TEXT, (b"content-encoding", b"compress")]
    sent = await call(CompressionMiddleware(answering(200, headers, [BODY])), asking(b"gzip"))
    assert sent.headers == headers and sent.body == BODY


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"this is not gzip at all", id="junk"),
        pytest.param(gzip.compress(BODY)[:-4], id="cut short"),
        pytest.param(gzip.compress(bytes(30_000_000)), id="a bomb"),
    ],
)
async def test_what_cannot_be_decoded_breaks_the_response(body: bytes) -> None:
    headers = [TEXT, (b"content-encoding", b"gzip")]
    sent = Sent()
    with pytest.raises(ResponseBroken):
        await CompressionMiddleware(answering(200, headers, [body]))(asking(b"identity"), _never, sent)
    assert not sent.complete


def test_an_unknown_coding_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="known are zstd, br, gzip"):
        CompressionMiddleware(answering(200), codings=["snappy"])


async def test_other_scopes_pass_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": "websocket"}
    await CompressionMiddleware(app)(scope, _never, Sent())
    assert seen[0] is scope


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError
