"""Security fields."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from gateway.exchange import SCOPE_KEY, Exchange
from gateway.middleware.security_headers import SecurityHeadersMiddleware, make_security_headers_rule
from tests.support.messages import answering, call, http_scope

pytestmark = pytest.mark.anyio

DEFAULTS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
HSTS = (b"strict-transport-security", b"max-age=31536000")


async def test_the_defaults_are_added() -> None:
    sent = await call(SecurityHeadersMiddleware(answering(200, [(b"a", b"1")])), http_scope())
    assert sent.headers == [(b"a", b"1"), *DEFAULTS]


async def test_what_the_service_set_is_never_replaced() -> None:
    own = [(b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", b"default-src *")]
    app = SecurityHeadersMiddleware(answering(200, own), content_security_policy="default-src 'self'")
    sent = await call(app, http_scope())
    assert sent.values(b"x-frame-options") == [b"SAMEORIGIN"]
    assert sent.values(b"content-security-policy") == [b"default-src *"]


@pytest.mark.parametrize(
    ("scope_scheme", "exchange_scheme", "sent_hsts"),
    [
        ("http", None, False),
        ("https", None, True),
        ("wss", None, True),
        ("http", "https", True),
        ("https", "http", False),
    ],
)
async def test_hsts_follows_the_public_scheme_rfc6797_7_2(
    scope_scheme: str, exchange_scheme: str | None, sent_hsts: bool
) -> None:
    scope = http_scope(scheme=scope_scheme)
    if exchange_scheme is not None:
        scope[SCOPE_KEY] = Exchange("GET", b"/")
        scope[SCOPE_KEY].scheme = exchange_scheme
    sent = await call(SecurityHeadersMiddleware(answering(200)), scope)
    assert (HSTS in sent.headers) is sent_hsts


def test_an_empty_value_is_not_sent() -> None:
    rule = make_security_headers_rule(
        hsts="",
        content_type_options="",
        frame_options="",
        referrer_policy="",
        cross_origin_opener_policy="",
        permissions_policy="camera=()",
    )
    message = {"type": "http.response.start", "status": 200, "headers": []}
    rule(http_scope(scheme="https"), message)
    assert message["headers"] == [(b"permissions-policy", b"camera=()")]


async def test_answers_do_not_share_fields() -> None:
    app = SecurityHeadersMiddleware(answering(200))
    (await call(app, http_scope())).start["headers"].append((b"x", b"1"))
    assert (await call(app, http_scope())).headers == DEFAULTS


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(SecurityHeadersMiddleware(app), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
