"""References that name an upstream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.location import PublicReferences, normal_authority, upstream_authorities


def public_path(path: bytes) -> bytes | None:
    """What strips /shop and adds /v1 on the way in, backwards."""
    return b"/shop" + path[3:] if path == b"/v1" or path.startswith(b"/v1/") else None


UPSTREAM = upstream_authorities(
    ["http://127.0.0.1:9001/v1", "http://[::1]:9001", "https://shop.internal", "unix:/x.sock"]
)
REFERENCES = PublicReferences(UPSTREAM, public_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # absolute, of the upstream
        (b"http://127.0.0.1:9001/v1/cart?a=b#c", b"https://example.com/shop/cart?a=b#c"),
        (b"http://127.0.0.1:9001/v1", b"https://example.com/shop"),
        (b"HTTP://127.0.0.1:9001/v1/", b"https://example.com/shop/"),
        (b"http://[::1]:9001/v1/x", b"https://example.com/shop/x"),
        (b"https://Shop.Internal/v1/x", b"https://example.com/shop/x"),
        (b"https://shop.internal./v1/x", b"https://example.com/shop/x"),
        (b"http://shop.internal/v1/x", b"https://example.com/shop/x"),
        (b"https://shop.internal:443/v1/x", b"https://example.com/shop/x"),
        (b"http://user:secret@127.0.0.1:9001/v1/x", b"https://example.com/shop/x"),
        (b"http://127.0.0.1:09001/v1/x", b"https://example.com/shop/x"),
        # a path without a public one still names no address
        (b"http://127.0.0.1:9001/other", b"https://example.com/other"),
        (b"http://127.0.0.1:9001", b"https://example.com"),
        (b"http://127.0.0.1:9001?a=b", b"https://example.com?a=b"),
        # without a scheme
        (b"//127.0.0.1:9001/v1/x", b"//example.com/shop/x"),
        (b"//shop.internal/v1/x", b"//example.com/shop/x"),
        # a path alone
        (b"/v1/x?y=/v1/#/v1/", b"/shop/x?y=/v1/#/v1/"),
        (b"/v1", b"/shop"),
        (b"/v1?a", b"/shop?a"),
        (b"/v10/x", b"/v10/x"),
        (b"/other", b"/other"),
        # the public host with an inner path
        (b"https://example.com/v1/x", b"https://example.com/shop/x"),
        (b"https://Example.com/v1/x", b"https://Example.com/shop/x"),
        (b"http://example.com/v1/x", b"https://example.com/shop/x"),
        (b"//example.com/v1/x", b"//example.com/shop/x"),
        # others
        (b"https://elsewhere.example/v1/x", b"https://elsewhere.example/v1/x"),
        (b"http://127.0.0.1:9002/v1/x", b"http://127.0.0.1:9002/v1/x"),
        (b"https://127.0.0.1.example:9001/v1", b"https://127.0.0.1.example:9001/v1"),
        (
            b"https://elsewhere.example/?to=http://127.0.0.1:9001/v1",
            b"https://elsewhere.example/?to=http://127.0.0.1:9001/v1",
        ),
        (b"https://elsewhere.example@127.0.0.1:9001/v1/x", b"https://example.com/shop/x"),
        (b"//elsewhere.example/v1/x", b"//elsewhere.example/v1/x"),
        (b"x/y", b"x/y"),
        (b"../v1", b"../v1"),
        (b"?a=b", b"?a=b"),
        (b"#x", b"#x"),
        (b"", b""),
        (b"mailto:a@127.0.0.1:9001", b"mailto:a@127.0.0.1:9001"),
        (b"ftp://127.0.0.1:9001/v1", b"ftp://127.0.0.1:9001/v1"),
        (b"/\\127.0.0.1:9001/v1", b"/\\127.0.0.1:9001/v1"),
        (b"http://127.0.0.1:port/v1", b"http://127.0.0.1:port/v1"),
    ],
)
def test_a_reference_is_made_public(before: bytes, after: bytes) -> None:
    assert REFERENCES.reference(before, scheme=b"https", host=b"example.com") == after


def test_a_public_scheme_is_never_lowered() -> None:
    assert REFERENCES.reference(b"https://a/v1/x", scheme=b"http", host=b"a") == b"https://a/shop/x"


def test_the_port_of_the_public_host_is_kept() -> None:
    made = REFERENCES.reference(b"http://127.0.0.1:9001/v1/x", scheme=b"http", host=b"example.com:8080")
    assert made == b"http://example.com:8080/shop/x"
    other = b"http://example.com/v1/x"
    assert REFERENCES.reference(other, scheme=b"http", host=b"example.com:8080") == other


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"http://127.0.0.1:9001/v1/x", b"/shop/x"),
        (b"//127.0.0.1:9001", b"/"),
        (b"http://127.0.0.1:9001?a", b"/?a"),
        (b"/v1/x", b"/shop/x"),
    ],
)
def test_without_a_public_host_the_path_is_enough(before: bytes, after: bytes) -> None:
    assert REFERENCES.reference(before, scheme=b"http", host=b"") == after


def test_without_a_path_rule_only_the_host_changes() -> None:
    references = PublicReferences(UPSTREAM)
    assert references.reference(b"http://127.0.0.1:9001/v1/x", scheme=b"http", host=b"a") == b"http://a/v1/x"
    assert references.reference(b"/v1/x", scheme=b"http", host=b"a") == b"/v1/x"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"5; url=http://127.0.0.1:9001/v1/x", b"5; url=https://example.com/shop/x"),
        (b"0;URL='/v1/x'", b"0;URL='/shop/x'"),
        (b'0, url = "http://127.0.0.1:9001/v1/" ', b'0, url = "https://example.com/shop/" '),
        (b"5; /v1/x", b"5; /shop/x"),
        (b"1.5;url=/v1", b"1.5;url=/shop"),
        (b"5", b"5"),
        (b"5; url=https://elsewhere.example/", b"5; url=https://elsewhere.example/"),
        (b"garbage", b"garbage"),
    ],
)
def test_refresh_is_made_public(before: bytes, after: bytes) -> None:
    assert REFERENCES.refresh(before, scheme=b"https", host=b"example.com") == after


@pytest.mark.parametrize(
    ("scheme", "authority", "name"),
    [
        (b"http", b"A.example", b"a.example:80"),
        (b"https", b"a.example:", b"a.example:443"),
        (b"http", b"u@a.example:0080", b"a.example:80"),
        (b"http", b"[2001:DB8::1]", b"[2001:db8::1]:80"),
        (b"http", b"", b""),
        (b"http", b":80", b""),
        (b"http", b"a:b:c", b""),
        (b"ftp", b"a", b""),
    ],
)
def test_an_authority_has_one_spelling(scheme: bytes, authority: bytes, name: bytes) -> None:
    assert normal_authority(scheme, authority) == name


def test_endpoints_without_a_network_name_have_none() -> None:
    assert upstream_authorities(["unix:/x.sock", "asgi:shop:app"]) == frozenset()
    assert upstream_authorities(["http://shop"]) == {b"shop:80", b"shop:443"}
    assert upstream_authorities(["https://shop:8443/base"]) == {b"shop:8443"}


@given(st.text(alphabet="htps:/127.0.0.1:9001shop.internal@?#[]\\ v", max_size=40).map(str.encode))
def test_no_reference_to_the_upstream_comes_out(value: bytes) -> None:
    made = REFERENCES.reference(value, scheme=b"https", host=b"example.com")
    assert REFERENCES.reference(made, scheme=b"https", host=b"example.com") is not None
    for prefix in (b"http://127.0.0.1:9001", b"//127.0.0.1:9001"):
        assert not made.startswith(prefix) or made[len(prefix) : len(prefix) + 1] not in (b"", b"/", b"?", b"#")
