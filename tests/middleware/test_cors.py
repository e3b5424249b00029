"""Cross-origin requests."""

from __future__ import annotations

import json

import pytest

from gateway.errors import Forbidden
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.middleware.cors import CorsMiddleware, CorsRule, Origins
from tests.support.messages import Sent, answering, call, http_scope

pytestmark = pytest.mark.anyio

APP = b"https://app.example.com"
Field = tuple[bytes, bytes]


def preflight(origin: bytes = APP, *more: Field) -> dict[str, object]:
    return http_scope(
        "OPTIONS",
        headers=[(b"host", b"a"), (b"origin", origin), (b"access-control-request-method", b"PUT"), *more],
    )


async def asked(origins: list[str], *headers: Field, answer: list[Field] | None = None, **options: object) -> Sent:
    app = CorsMiddleware(answering(200, answer or []), origins=origins, **options)  # type: ignore[arg-type]
    return await call(app, http_scope(headers=[(b"host", b"a"), *headers]))


@pytest.mark.parametrize(
    ("origins", "origin", "inside"),
    [
        (["https://app.example.com"], b"https://app.example.com", True),
        (["HTTPS://App.Example.com"], b"https://app.example.com", True),
        (["https://app.example.com"], b"http://app.example.com", False),
        (["https://app.example.com"], b"https://app.example.com:8443", False),
        (["https://app.example.com"], b"https://app.example.com.evil.example", False),
        (["https://app.example.com:8443"], b"https://app.example.com:8443", True),
        (["https://*.example.com"], b"https://a.example.com", True),
        (["https://*.example.com"], b"https://a.b.example.com", True),
        (["https://*.example.com"], b"https://example.com", False),
        (["https://*.example.com"], b"https://.example.com", False),
        (["https://*.example.com"], b"https://evilexample.com", False),
        (["https://*.example.com"], b"https://evil.example/.example.com", False),
        (["https://*.example.com"], b"https://evil.example#.example.com", False),
        (["https://*.example.com"], b"https://user@a.example.com", False),
        (["https://*.example.com:8443"], b"https://a.example.com:8443", True),
        (["https://*.example.com"], b"http://a.example.com", False),
        (["*"], b"https://anything.example", True),
        (["null"], b"null", True),
        (["https://a"], b"null", False),
    ],
)
def test_origins(origins: list[str], origin: bytes, inside: bool) -> None:
    assert Origins(origins).contains(origin) is inside


@pytest.mark.parametrize("origin", ["app.example.com", "https://a/", "https://a/b", "https://*", "https://a.*.b", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Origins([origin])


def test_credentials_for_all_are_refused() -> None:
    with pytest.raises(ValueError, match="credentials"):
        CorsRule(origins=["*"], credentials=True)


async def test_an_allowed_origin_may_read_the_answer() -> None:
    sent = await asked([APP.decode()], (b"origin", APP), expose=["X-Total", "ETag"], credentials=True)
    assert sent.headers == [
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", APP),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"X-Total, ETag"),
    ]


@pytest.mark.parametrize(
    "headers",
    [[], [(b"origin", b"https://evil.example")], [(b"origin", APP), (b"origin", APP)]],
    ids=["none", "other", "two"],
)
async def test_others_may_not_and_caches_are_told(headers: list[Field]) -> None:
    sent = await asked([APP.decode()], *headers, answer=[(b"vary", b"Accept")])
    assert sent.headers == [(b"vary", b"Accept, Origin")]


async def test_an_answer_for_everyone_does_not_vary() -> None:
    sent = await asked(["*"], (b"origin", APP))
    assert sent.headers == [(b"access-control-allow-origin", b"*")]
    assert (await asked(["*"])).headers == []


async def test_what_the_service_says_itself_is_replaced() -> None:
    own = [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"*"),
    ]
    sent = await asked([APP.decode()], (b"origin", APP), answer=own)
    assert sent.headers == [(b"vary", b"Origin"), (b"access-control-allow-origin", APP)]
    sent = await asked([APP.decode()], (b"origin", b"https://evil.example"), answer=own)
    assert sent.headers == [(b"vary", b"Origin")]


async def test_a_preflight_is_answered_without_the_service() -> None:
    app = CorsMiddleware(
        answering(500), origins=[APP.decode()], methods=["GET", "PUT"], headers=["X-A", "X-B"], max_age_s=60.0
    )
    sent = await call(app, preflight())
    assert sent.status == 204
    assert sent.complete and sent.body == b""
    assert sent.headers == [
        (b"access-control-allow-origin", APP),
        (b"access-control-allow-methods", b"GET, PUT"),
        (b"access-control-allow-headers", b"X-A, X-B"),
        (b"access-control-max-age", b"60"),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]


async def test_any_header_may_be_asked_for_where_all_are_allowed() -> None:
    app = CorsMiddleware(answering(500), origins=[APP.decode()], headers=["*"], credentials=True)
    sent = await call(app, preflight(APP, (b"access-control-request-headers", b"x-a, authorization")))
    assert sent.values(b"access-control-allow-headers") == [b"x-a, authorization"]
    sent = await call(app, preflight(APP, (b"access-control-request-headers", b"x-a\x00<script>")))
    assert sent.values(b"access-control-allow-headers") == []


async def test_a_preflight_of_another_origin_is_refused() -> None:
    app = CorsMiddleware(answering(500), origins=[APP.decode()])
    sent = await call(app, preflight(b"https://evil.example"))
    assert sent.status == 403
    assert json.loads(sent.body)["status"] == 403
    assert sent.values(b"access-control-allow-origin") == []


async def test_inside_the_gateway_the_refusal_is_raised() -> None:
    app = CorsMiddleware(answering(500), origins=[APP.decode()])
    scope = preflight(b"https://evil.example")
    scope[SCOPE_KEY] = Exchange("OPTIONS", b"/")
    with pytest.raises(Forbidden):
        await call(app, scope)


@pytest.mark.parametrize(
    "headers", [[(b"origin", APP)], [(b"access-control-request-method", b"PUT")]], ids=["origin", "method"]
)
async def test_an_ordinary_options_request_reaches_the_service(headers: list[Field]) -> None:
    app = CorsMiddleware(answering(200, [(b"allow", b"GET")]), origins=[APP.decode()])
    sent = await call(app, http_scope("OPTIONS", headers=headers))
    assert sent.status == 200
    assert sent.values(b"allow") == [b"GET"]


async def test_websockets_pass_untouched() -> None:
    sent = await call(CorsMiddleware(answering(200), origins=["*"]), {**http_scope(), "type": "websocket"})
    assert sent.headers == []
