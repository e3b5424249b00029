"""Cookies read and Set-Cookie rewritten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cookies import CookieRewrite, cookie_pairs, cookie_value


@pytest.mark.parametrize(
    ("lines", "pairs"),
    [
        ([b"a=1; b=2"], [(b"a", b"1"), (b"b", b"2")]),
        ([b"a=1", b"b=2"], [(b"a", b"1"), (b"b", b"2")]),
        ([b"a=1;b=2;"], [(b"a", b"1"), (b"b", b"2")]),
        ([b'a="x y"; b=c=d'], [(b"a", b'"x y"'), (b"b", b"c=d")]),
        ([b"alone; =empty"], [(b"", b"alone"), (b"", b"empty")]),
        ([b"a = 1"], [(b"a", b"1")]),
        ([b"", b" ; ;"], []),
        ([b"a=\xe4"], [(b"a", b"\xe4")]),
    ],
)
def test_cookie_lines_are_read_in_order(lines: list[bytes], pairs: list[tuple[bytes, bytes]]) -> None:
    assert cookie_pairs([(b"host", b"x=y"), *((b"cookie", line) for line in lines)]) == pairs


def test_a_cookie_is_found_by_its_whole_name() -> None:
    fields = [(b"cookie", b"beta2=no; x=beta"), (b"cookie", b"beta=1; beta=2")]
    assert cookie_value(fields, b"beta") == b"1"
    assert cookie_value(fields, b"eta") is None
    assert cookie_value([(b"x-cookie", b"beta=1")], b"beta") is None


DOMAINS = CookieRewrite(domain={"shop.internal": "example.com", ".old.internal": "", "*": "any.example"})
HOSTS = CookieRewrite(upstream_hosts=["shop.internal"])
PATHS = CookieRewrite(path={"/v1": "/shop", "/v1/admin": "/admin", "/x/": "/y/"})
ROOT = CookieRewrite(path={"/": "/shop"})
UNROOT = CookieRewrite(path={"/shop": "/"})
MAPPED = CookieRewrite(public_path=lambda path: b"/shop" + path if path != b"/none" else None)


@pytest.mark.parametrize(
    ("rewrite", "before", "after"),
    [
        (DOMAINS, b"a=b; Domain=shop.internal; Path=/", b"a=b; Domain=example.com; Path=/"),
        (DOMAINS, b"a=b; domain=.SHOP.internal", b"a=b; Domain=example.com"),
        (DOMAINS, b"a=b; Domain=old.internal; Secure", b"a=b; Secure"),
        (DOMAINS, b"a=b; Domain=other.example", b"a=b; Domain=any.example"),
        (DOMAINS, b"a=b", b"a=b"),
        (HOSTS, b"a=b; Domain=Shop.Internal; Path=/", b"a=b; Path=/"),
        (HOSTS, b"a=b; Domain=example.com", b"a=b; Domain=example.com"),
        (PATHS, b"a=b; Path=/v1", b"a=b; Path=/shop"),
        (PATHS, b"a=b; path=/v1/cart; HttpOnly", b"a=b; Path=/shop/cart; HttpOnly"),
        (PATHS, b"a=b; Path=/v1/", b"a=b; Path=/shop"),
        (PATHS, b"a=b; Path=/v1/admin/x", b"a=b; Path=/admin/x"),
        (PATHS, b"a=b; Path=/v10", b"a=b; Path=/v10"),
        (PATHS, b"a=b; Path=/x/z", b"a=b; Path=/y/z"),
        (PATHS, b"__Host-a=b; Path=/v1; Secure", b"__Host-a=b; Path=/v1; Secure"),
        (ROOT, b"a=b; Path=/", b"a=b; Path=/shop"),
        (ROOT, b"a=b; Path=/cart", b"a=b; Path=/shop/cart"),
        (ROOT, b"__Host-a=b; Path=/; Secure", b"__Host-a=b; Path=/; Secure"),
        (UNROOT, b"a=b; Path=/shop", b"a=b; Path=/"),
        (UNROOT, b"a=b; Path=/shop/cart", b"a=b; Path=/cart"),
        (MAPPED, b"a=b; Path=/", b"a=b; Path=/shop"),
        (MAPPED, b"a=b; Path=/cart/", b"a=b; Path=/shop/cart/"),
        (MAPPED, b"a=b; Path=/none", b"a=b; Path=/none"),
        (MAPPED, b"a=b; Path=", b"a=b; Path="),
        (CookieRewrite(secure="always"), b"a=b; Path=/", b"a=b; Path=/; Secure"),
        (CookieRewrite(secure="always"), b"a=b; SECURE", b"a=b; SECURE"),
        (CookieRewrite(secure="never"), b"a=b; Secure; HttpOnly", b"a=b; HttpOnly"),
        (CookieRewrite(same_site="lax"), b"a=b; SameSite=None", b"a=b; SameSite=Lax"),
        (CookieRewrite(same_site="none"), b"a=b", b"a=b; SameSite=None"),
        (CookieRewrite(same_site="strict"), b"a=b; samesite=lax; SameSite=Lax", b"a=b; SameSite=Strict"),
        (CookieRewrite(secure="always"), b"Secure=Domain; Path=/", b"Secure=Domain; Path=/; Secure"),
    ],
)
def test_attributes_are_rewritten(rewrite: CookieRewrite, before: bytes, after: bytes) -> None:
    assert rewrite.is_needed
    assert rewrite.apply(before) == after


def test_nothing_to_do_is_known_beforehand() -> None:
    rewrite = CookieRewrite()
    assert not rewrite.is_needed
    assert rewrite.apply(b"a=b;Path=/ ;  X") == b"a=b;Path=/ ;  X"


@given(st.binary(max_size=20).map(lambda value: value.replace(b";", b"")), st.binary(max_size=40))
def test_name_and_value_stay_byte_for_byte(pair: bytes, rest: bytes) -> None:
    rewrite = CookieRewrite(
        domain={"*": ""}, path={"/": "/p"}, secure="always", same_site="lax", public_path=lambda path: b"/q" + path
    )
    assert rewrite.apply(pair).startswith(pair + b"; Secure; SameSite=Lax")
    assert rewrite.apply(pair + b";" + rest).partition(b";")[0] == pair
    assert CookieRewrite().apply(pair + b";" + rest) == pair + b";" + rest
