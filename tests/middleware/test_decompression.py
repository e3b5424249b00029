"""Request bodies decoded on the way in."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import brotli
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import BodyTooLarge, GatewayError, NotDecodable, UnsupportedCoding
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.coding import make_encoder
from gateway.middleware.decompression import DecompressionMiddleware
from tests.support.messages import Sent, body_of, call, http_scope

pytestmark = pytest.mark.anyio

TEXT = b"the quick brown fox " * 500
Field = tuple[bytes, bytes]


def encoded(coding: str, data: bytes = TEXT) -> bytes:
    if coding == "deflate":
        return zlib.compress(data)
    encoder = make_encoder(coding)
    return encoder.encode(data) + encoder.finish()


def post(codings: str | None, length: int | None = None, *more: Field) -> dict[str, Any]:
    headers: list[Field] = [(b"host", b"a"), *more]
    if codings is not None:
        headers.append((b"content-encoding", codings.encode()))
    headers.append((b"transfer-encoding", b"chunked") if length is None else (b"content-length", b"%d" % length))
    return http_scope("POST", headers=headers)


def inside(scope: Scope) -> Scope:
    return {**scope, SCOPE_KEY: Exchange("POST", b"/")}


class Service:
    """Reads the whole body, then answers."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.pieces: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self.pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


async def decoded(scope: Scope, *pieces: bytes, **options: Any) -> tuple[Service, Sent]:
    service = Service()
    return service, await call(DecompressionMiddleware(service, **options), scope, *pieces)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "x-gzip", "GZIP"])
async def test_each_coding_is_decoded(coding: str) -> None:
    data = encoded(coding.lower().removeprefix("x-"))
    service, sent = await decoded(post(coding, len(data), (b"content-digest", b"sha-256=:x:")), data)
    assert sent.status == 200
    assert service.body == TEXT
    assert service.scope["headers"] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


async def test_stacked_codings_are_decoded_in_reverse() -> None:
    data = encoded("br", encoded("gzip", encoded("zstd")))
    service, _ = await decoded(post("zstd, identity, gzip, br"), data)
    assert service.body == TEXT
    service, _ = await decoded(post("zstd", None, (b"content-encoding", b"gzip")), encoded("zstd", encoded("gzip")))
    assert service.body == TEXT


async def test_a_body_in_pieces_is_decoded_as_it_comes() -> None:
    arrived = asyncio.Queue[bytes]()
    coded = asyncio.Queue[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            arrived.put_nowait(message["body"])
        arrived.put_nowait(message["body"])

    encoder = make_encoder("gzip")
    task = asyncio.ensure_future(DecompressionMiddleware(app)(post("gzip"), coded.get, Sent()))
    first = encoder.encode(b"first") + encoder.flush()
    coded.put_nowait({"type": "http.request", "body": first, "more_body": True})
    assert await arrived.get() == b"first"
    second = encoder.encode(b"second") + encoder.finish()
    coded.put_nowait({"type": "http.request", "body": second, "more_body": True})
    assert await arrived.get() == b"second"
    coded.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    await task
    assert await arrived.get() == b""


@pytest.mark.parametrize(
    "scope",
    [
        post(None),
        post("identity"),
        post("gzip", 0),
        http_scope("GET", headers=[(b"content-encoding", b"gzip")]),
    ],
    ids=["uncoded", "identity", "empty", "bodiless"],
)
async def test_what_needs_no_decoding_passes_untouched(scope: dict[str, Any]) -> None:
    service, sent = await decoded(scope, b"plain" if (b"content-length", b"0") not in scope["headers"] else b"")
    assert service.scope is scope
    assert sent.status == 200


async def test_a_coded_body_without_a_byte_is_empty() -> None:
    service, sent = await decoded(post("gzip"), b"")
    assert (service.body, sent.status) == (b"", 200)


@pytest.mark.parametrize("codings", ["compress", "gzip, aes128gcm", "gzip, gzip, gzip, gzip", "gzip;q=1"])
async def test_an_unknown_coding_is_415_rfc9110_15_5_16(codings: str) -> None:
    service, sent = await decoded(post(codings), b"x")
    assert sent.status == 415
    assert sent.values(b"accept-encoding") == [b"zstd, br, gzip, deflate"]
    assert not service.scope
    with pytest.raises(UnsupportedCoding):
        await decoded(inside(post(codings)), b"x")


BAD = {
    "not gzip": b"not gzip at all",
    "cut short": encoded("gzip")[:-9],
    "wrong checksum": encoded("gzip")[:-8] + b"\0" * 8,
    "rest": encoded("gzip") + b"rest",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_bad_data_is_400(data: bytes) -> None:
    _, sent = await decoded(post("gzip"), data)
    assert sent.status == 400
    assert json.loads(sent.body)["detail"] == NotDecodable.detail
    assert (b"connection", b"close") in sent.headers
    with pytest.raises(NotDecodable):
        await decoded(inside(post("gzip")), data)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
async def test_a_bomb_is_413_and_never_decoded_whole(coding: str) -> None:
    bomb = encoded(coding, b"\0" * 20_000_000)
    assert len(bomb) < 100_000
    service, sent = await decoded(post(coding, len(bomb)), bomb, max_body=1_000_000)
    assert sent.status == 413
    assert len(service.body) <= 1_000_000
    with pytest.raises(BodyTooLarge):
        await decoded(inside(post(coding)), bomb, max_body=1_000_000)


async def test_the_limit_holds_at_the_byte() -> None:
    data = encoded("gzip", b"x" * 1000)
    assert (await decoded(post("gzip"), data, max_body=1000))[1].status == 200
    assert (await decoded(post("gzip"), data, max_body=999))[1].status == 413


async def test_without_a_limit_a_bomb_is_still_one() -> None:
    bomb = brotli.compress(b"\0" * 30_000_000)
    assert (await decoded(post("br"), bomb, max_body=None))[1].status == 413
    assert (await decoded(post("br"), encoded("br"), max_body=None))[1].status == 200


async def test_frames_of_nothing_do_not_go_on_for_ever() -> None:
    empty = gzip.compress(b"")
    _, sent = await decoded(post("gzip"), *([empty * 100] * 10), max_body=1000)
    assert sent.status == 413


async def test_the_clients_leaving_is_passed_on() -> None:
    service = Service()
    waiting: list[Message] = [
        {"type": "http.request", "body": encoded("gzip")[:20], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return waiting.pop(0)

    await DecompressionMiddleware(service)(post("gzip"), receive, Sent())
    assert not waiting


async def test_after_the_body_the_server_is_asked_as_before() -> None:
    answers: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answers.append(await receive())
        answers.append(await receive())

    waiting: list[Message] = [
        {"type": "http.request", "body": encoded("gzip", b"x"), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return waiting.pop(0)

    await DecompressionMiddleware(app)(post("gzip"), receive, Sent())
    assert answers == [{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}]


async def test_whatever_the_service_makes_of_the_error_the_client_hears_of_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except GatewayError:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"oops"})
            raise RuntimeError("the service failed") from None

    sent = await call(DecompressionMiddleware(app), post("gzip"), b"bad")
    assert sent.status == 400
    assert b"oops" not in sent.body
    with pytest.raises(NotDecodable):
        await call(DecompressionMiddleware(app), inside(post("gzip")), b"bad")


async def test_the_error_is_raised_again_for_whoever_asks_again() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            try:
                await receive()
            except GatewayError as error:
                seen.append(type(error).__name__)

    assert (await call(DecompressionMiddleware(app), post("gzip"), b"bad")).status == 400
    assert seen == ["NotDecodable", "NotDecodable"]


async def test_an_answer_that_has_begun_is_the_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        try:
            await receive()
        except GatewayError:
            await send({"type": "http.response.body", "body": b"early"})

    sent = await call(DecompressionMiddleware(app), post("gzip"), b"bad")
    assert (sent.status, sent.body, sent.complete) == (202, b"early", True)


async def test_other_failures_of_the_service_stay_its_own() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the service failed")

    with pytest.raises(RuntimeError, match="the service failed"):
        await call(DecompressionMiddleware(app), post("gzip"), b"bad")


def _starlette() -> Starlette:
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    return Starlette(routes=[Route("/", echo, methods=["POST"])])


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.post("/")
    async def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    return app


@pytest.mark.parametrize("make", [_starlette, _fastapi])
async def test_it_works_in_an_application(make: Any) -> None:
    app = make()
    app.add_middleware(DecompressionMiddleware, max_body=1000)
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        good = await client.post("/", content=gzip.compress(b'{"a":"b"}'), headers=headers)
        assert (good.status_code, good.json()) == (200, {"a": "b"})
        bad = await client.post("/", content=b"garbage", headers=headers)
        assert (bad.status_code, bad.headers["content-type"]) == (400, "application/problem+json")
        bomb = await client.post("/", content=gzip.compress(b" " * 1_000_000), headers=headers)
        assert bomb.status_code == 413
        unknown = await client.post("/", content=b"x", headers={"content-encoding": "rot13"})
        assert unknown.status_code == 415


@given(
    st.binary(max_size=3000),
    st.lists(st.sampled_from(["gzip", "br", "zstd", "deflate"]), min_size=1, max_size=3),
    st.integers(1, 500),
)
def test_any_body_comes_out_as_it_was(data: bytes, codings: list[str], size: int) -> None:
    coded = data
    for coding in codings:
        coded = encoded(coding, coded)
    pieces = [coded[start : start + size] for start in range(0, len(coded), size)]

    async def run() -> tuple[bytes, int]:
        service, sent = Service(), Sent()
        await DecompressionMiddleware(service)(post(", ".join(codings)), body_of(*pieces), sent)
        return service.body, sent.status

    assert asyncio.run(run()) == (data, 200)


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(DecompressionMiddleware(app), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
