from __future__ import annotations

from typing import Any

import pytest

from gateway.exchange import Scope
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import StickySettings, UpstreamSettings
from gateway.upstream.sticky import StickyCookie
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import at, endpoints_of, make_upstream

KEY = b"k" * 32


def sticky(**settings: Any) -> StickyCookie:
    return StickyCookie(StickySettings(**settings), "shop", KEY)


def with_cookie(value: bytes) -> Scope:
    return http_scope(headers=[(b"host", b"example.com"), (b"cookie", value)])


@pytest.mark.parametrize(
    ("settings", "secure", "expected"),
    [
        ({}, False, b"gw_endpoint=ID; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        ({}, True, b"gw_endpoint=ID; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"),
        ({"cookie": "s", "max_age_s": 0.0}, False, b"s=ID; Path=/; HttpOnly; SameSite=Lax"),
        ({"max_age_s": 0.5}, False, b"gw_endpoint=ID; Path=/; Max-Age=1; HttpOnly; SameSite=Lax"),
    ],
)
def test_the_cookie_is_kept_from_scripts_and_other_sites(
    settings: dict[str, Any], secure: bool, expected: bytes
) -> None:
    endpoint = endpoints_of(1)[0]
    endpoint.cookie_id = b"ID"

    assert sticky(**settings).header(endpoint, secure=secure) == expected


def test_the_cookie_does_not_reveal_the_address() -> None:
    endpoint, other = endpoints_of(1, 1)
    shown = sticky().id_of(endpoint)

    assert shown == sticky().id_of(endpoints_of(1)[0])
    assert shown != sticky().id_of(other)
    assert shown != StickyCookie(StickySettings(), "shop", b"another").id_of(endpoint)
    assert shown != StickyCookie(StickySettings(), "blog", KEY).id_of(endpoint)
    assert b"127" not in shown or b"9001" not in shown
    assert "kkk" not in repr(StickySettings(key=KEY))


def test_one_valid_cookie_among_several_is_enough() -> None:
    upstream = make_upstream(sticky=StickySettings())
    endpoint = upstream.endpoints[1]
    scope = http_scope(
        headers=[(b"cookie", b"gw_endpoint=old; a=1"), (b"cookie", cookie_of(upstream, endpoint) + b"; gw_endpoint=")]
    )

    assert upstream.sticky_cookie(scope, endpoint) is None
    assert {upstream.try_acquire(scope) for _ in range(20)} == {endpoint}


def cookie_of(upstream: Upstream, endpoint: Endpoint) -> bytes:
    value = upstream.sticky_cookie(http_scope(), endpoint)
    assert value is not None
    return value.partition(b";")[0]


def test_a_client_comes_back_to_its_endpoint() -> None:
    upstream = make_upstream(at(9001), at(9002), at(9003), sticky=StickySettings())
    for endpoint in upstream.endpoints:
        scope = with_cookie(b"theme=dark; " + cookie_of(upstream, endpoint))
        assert all(upstream.try_acquire(scope) is endpoint for _ in range(20))
        assert upstream.sticky_cookie(scope, endpoint) is None


def test_a_cookie_is_issued_again_when_its_endpoint_is_gone() -> None:
    upstream = make_upstream(at(9001), at(9002), sticky=StickySettings())
    gone, other = upstream.endpoints
    scope = with_cookie(cookie_of(upstream, gone))
    gone.health.healthy = False
    upstream.on_change()

    assert upstream.try_acquire(scope) is other
    issued = upstream.sticky_cookie(scope, other, secure=True)
    assert issued is not None
    assert issued.startswith(cookie_of(upstream, other))
    assert issued.endswith(b"; Secure")


def test_a_forged_cookie_is_ignored() -> None:
    upstream = make_upstream(at(9001), at(9002), sticky=StickySettings())
    scope = with_cookie(b"gw_endpoint=127.0.0.1:9001")

    assert {upstream.try_acquire(scope) for _ in range(50)} == set(upstream.endpoints)


def test_a_full_or_tried_endpoint_is_left_for_another() -> None:
    upstream = make_upstream(at(9001), at(9002), sticky=StickySettings(), max_connections=1)
    own, other = upstream.endpoints
    scope = with_cookie(cookie_of(upstream, own))

    assert upstream.try_acquire(scope, [own]) is other
    upstream.release(other)
    assert upstream.try_acquire(scope) is own
    assert upstream.try_acquire(scope) is other


def test_cookies_stay_valid_over_a_reload_even_without_a_configured_key() -> None:
    upstream = make_upstream(at(9001), at(9002), sticky=StickySettings())
    own = upstream.endpoints[0]
    scope = with_cookie(cookie_of(upstream, own))

    after = upstream.successor(UpstreamSettings("shop", (at(9001), at(9003)), sticky=StickySettings(max_age_s=60)))

    assert after.sticky_cookie(scope, own) is None
    assert after.try_acquire(scope) is own


def test_without_sticky_there_is_no_cookie() -> None:
    upstream = make_upstream()

    assert upstream.sticky_cookie(http_scope(), upstream.endpoints[0]) is None
