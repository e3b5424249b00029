from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cache_key import (
    KeyPolicy,
    covers,
    forwarded_parts,
    parse_public_url,
    public_url,
    query_filter,
    same_origin_url,
    with_root,
)


@pytest.mark.parametrize(
    ("setting", "target", "kept"),
    [
        ("all", b"/p?b=1&a=2", b"/p?b=1&a=2"),
        ("all", b"/p?", b"/p?"),
        ("none", b"/p?b=1", b"/p"),
        ({"only": ["a"]}, b"/p?b=1&a=2&a=3&A=4", b"/p?a=2&a=3"),
        ({"only": ["a"]}, b"/p?b=1", b"/p"),
        ({"only": ["a"]}, b"/p", b"/p"),
        ({"only": ["b", "a"]}, b"/p?b=1&a=2", b"/p?a=2&b=1"),
        ({"only": ["b", "a"], "sort": False}, b"/p?b=1&a=2", b"/p?b=1&a=2"),
        ({"except": ["utm"]}, b"/p?z=1&utm=2&a&&a=0", b"/p?a&a=0&z=1"),
        ({"except": ["utm"], "sort": False}, b"/p?z=1&utm=2&a", b"/p?z=1&a"),
        ({"only": ["id"]}, b"/p?%69d=1&x=2", b"/p?%69d=1"),
        ({"only": ["a b"]}, b"/p?a+b=1&a%20b=2", b"/p?a+b=1&a%20b=2"),
        ({"only": ["id"]}, b"/p?x=1;id=2", b"/p?x=1;id=2"),
        ({"only": ["id"]}, b"/p?x=%zz&id=2", b"/p?x=%zz&id=2"),
        ({"only": ["\u00e4"]}, b"/p?%C3%A4=1&b=2", b"/p?%C3%A4=1"),
    ],
)
def test_query(setting: Any, target: bytes, kept: bytes) -> None:
    assert KeyPolicy(query=setting).target(target) == kept


@pytest.mark.parametrize(
    "setting", ["some", {}, {"only": ["a"], "except": ["b"]}, {"only": "a"}, {"only": ["a"], "order": True}]
)
def test_query_settings_that_say_nothing_are_refused(setting: Any) -> None:
    with pytest.raises(ValueError, match="query"):
        query_filter(setting)


def test_chosen_cookies_and_fields_enter_the_key() -> None:
    policy = KeyPolicy("shop", cookies=["lang"], vary=["X-Device", "Accept-Encoding"])
    headers = [(b"cookie", b"a=1; lang=de; lang=en"), (b"x-device", b"phone"), (b"accept-encoding", b"gzip, x")]
    key = policy.key("https", b"Example.com", b"/p?x", headers)
    assert key == ("shop", "https", b"Example.com", b"/p?x", (b"de;en", b"phone", b"gzip"))
    assert policy.key("https", b"Example.com", b"/p?x", [])[4] == (None, None, None)
    assert KeyPolicy("other").key("https", b"Example.com", b"/p?x", headers)[4] == ()


def test_key_in_words() -> None:
    policy = KeyPolicy("shop", cookies=["lang"], vary=["X-Device"], query="none")
    words = policy.describe("https", b"example.com", b"/p?x", [(b"cookie", b"lang=de")])
    assert words == "https://example.com/p cookie lang='de' x-device absent"


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("https://Example.COM:443/A?b", b"https://example.com/A?b"),
        ("HTTP://example.com:80/", b"http://example.com/"),
        ("http://example.com:443/", b"http://example.com:443/"),
        ("https://example.com", b"https://example.com"),
        ("https://example.com?x", b"https://example.com?x"),
        ("https://example.com/\u00e4 b#c", b"https://example.com/%C3%A4%20b"),
        ("https://[::1]:8443/", b"https://[::1]:8443/"),
    ],
)
def test_public_urls(url: str, parsed: bytes) -> None:
    assert parse_public_url(url) == parsed


@pytest.mark.parametrize("url", ["", "/path", "example.com/", "ftp://example.com/", "https://", "https:///x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        parse_public_url(url)


def test_url_of_a_key_is_compared_in_one_form() -> None:
    assert public_url("https", b"EXAMPLE.com:443", b"/A?b") == parse_public_url("https://example.com/A?b")
    assert with_root(b"https://example.com") == b"https://example.com/"
    assert with_root(b"https://example.com?x/y") == b"https://example.com/?x/y"
    assert with_root(b"https://example.com/x") == b"https://example.com/x"


@pytest.mark.parametrize(
    ("url", "stored", "covered"),
    [
        (b"/p?a=1&utm=2", b"/p?a=1", True),
        (b"/p?utm=2&a=1", b"/p?a=1&utm=2", True),
        (b"/p?a=1", b"/p", True),
        (b"/p", b"/p", True),
        (b"/p?a=1", b"/p?a=2", False),
        (b"/p?a=1", b"/p?a=1&a=1", False),
        (b"/q?a=1", b"/p?a=1", False),
    ],
)
def test_purge_finds_what_is_stored_under_a_part_of_the_query(url: bytes, stored: bytes, covered: bool) -> None:
    assert covers(url, stored) == covered


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        pytest.param(b"/x?y", b"https://a.com/x?y", id="4.4-path"),
        pytest.param(b"https://a.com/x#f", b"https://a.com/x", id="4.4-absolute"),
        pytest.param(b"https://A.com:443", b"https://a.com/", id="4.4-absolute-root"),
        pytest.param(b"//a.com/x", b"https://a.com/x", id="4.4-same-host"),
        pytest.param(b"x", b"https://a.com/d/x", id="4.4-relative"),
        pytest.param(b"../x/./y?q=/..", b"https://a.com/x/y?q=/..", id="4.4-dots"),
        pytest.param(b"../../..", b"https://a.com/", id="4.4-more-dots"),
        pytest.param(b"?n=1", b"https://a.com/d/e?n=1", id="4.4-query"),
        pytest.param(b"http://a.com/x", None, id="4.4-other-scheme"),
        pytest.param(b"https://a.com:8443/x", None, id="4.4-other-port"),
        pytest.param(b"https://b.com/x", None, id="4.4-other-host"),
        pytest.param(b"https://a.com.b.com/x", None, id="4.4-longer-host"),
        pytest.param(b"https://a.com@b.com/x", None, id="4.4-user"),
        pytest.param(b"//b.com/x", None, id="4.4-other-host-without-scheme"),
        pytest.param(b"mailto:x", None, id="4.4-no-url"),
        pytest.param(b"ftp://a.com/", None, id="4.4-other-protocol"),
        pytest.param(b"", None, id="4.4-empty"),
    ],
)
def test_only_the_same_origin_is_invalidated(reference: bytes, url: bytes | None) -> None:
    assert same_origin_url(b"https://a.com/d/e?f", reference) == url


@given(st.binary(max_size=40))
def test_any_reference_stays_in_its_origin(reference: bytes) -> None:
    url = same_origin_url(b"https://a.com/d/e?f", reference)
    assert url is None or url.startswith(b"https://a.com/")


@given(st.lists(st.sampled_from([b"a=1", b"a=2", b"b=1", b"utm=3", b"%61=1"]), max_size=6))
def test_what_a_filter_keeps_is_covered_by_the_whole(pairs: list[bytes]) -> None:
    target = b"/p?" + b"&".join(pairs) if pairs else b"/p"
    for setting in ("none", {"only": ["a"]}, {"except": ["utm"]}):
        assert covers(target, KeyPolicy(query=setting).target(target))


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        pytest.param([], [(b"x-forwarded-for", b"192.0.2.1")], True, id="client"),
        pytest.param([(b"x-forwarded-host", b"a")], [(b"x-forwarded-host", b"b")], False, id="host"),
        pytest.param([], [(b"x-forwarded-host", b"b")], False, id="host-of-nobody"),
        pytest.param([(b"x-forwarded-host", b"a")], [(b"x-forwarded-server", b"a")], False, id="another-name"),
        pytest.param([(b"forwarded", b"for=1;host=a")], [(b"forwarded", b"host=a")], True, id="forwarded-client"),
        pytest.param(
            [(b"forwarded", b'For="[::1]:4711", host=a;by=_x')],
            [(b"forwarded", b"For=_y, host=a;by=_z")],
            True,
            id="nodes",
        ),
        pytest.param([(b"forwarded", b"for=1;host=a")], [(b"forwarded", b"for=1;host=b")], False, id="forwarded-host"),
        pytest.param([(b"forwarded", b'host="a;for=1"')], [(b"forwarded", b'host="a;for=2"')], False, id="in-quotes"),
    ],
)
def test_what_proxies_say_of_the_url(first: Any, second: Any, equal: bool) -> None:
    assert (forwarded_parts(first) == forwarded_parts(second)) == equal


@pytest.mark.parametrize(
    "value", [b" " * 1_000_000, b'"\\' * 500_000, b'\\"' * 500_000, b'for="\\' * 200_000, b"for=" * 200_000]
)
def test_what_proxies_say_takes_no_longer_to_read_than_it_is(value: bytes) -> None:
    assert len(forwarded_parts([(b"forwarded", value)])) == 1
