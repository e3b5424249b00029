from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cache_control import (
    MAX_SECONDS,
    RequestDirectives,
    ResponseDirectives,
    effective_directives,
    parse_directives,
    request_directives,
    response_directives,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"max-age=60", {"max_age_s": 60}, id="5.2-argument"),
        pytest.param(b"MAX-AGE=60, Public", {"max_age_s": 60, "public": True}, id="5.2-case"),
        pytest.param(b'max-age="60"', {"max_age_s": 60}, id="5.2-quoted-argument"),
        pytest.param(b'max-age="6\\0"', {"max_age_s": 60}, id="5.2-quoted-pair"),
        pytest.param(b",, max-age=60 ,\t,", {"max_age_s": 60}, id="empty-members"),
        pytest.param(b"max-age=60, max-age=60", {"max_age_s": 60}, id="4.2.1-same-twice"),
        pytest.param(b"max-age=60, max-age=1", {"max_age_s": 0}, id="4.2.1-repeated-with-other-value"),
        pytest.param(b"max-age=-1", {"max_age_s": 0}, id="4.2.1-negative"),
        pytest.param(b"max-age=1.5", {"max_age_s": 0}, id="4.2.1-fraction"),
        pytest.param(b"max-age=1e3", {"max_age_s": 0}, id="4.2.1-exponent"),
        pytest.param(b"max-age=abc", {"max_age_s": 0}, id="4.2.1-letters"),
        pytest.param(b"max-age=60abc", {"max_age_s": 0}, id="4.2.1-trailing-letters"),
        pytest.param(b"max-age='60'", {"max_age_s": 0}, id="4.2.1-single-quotes"),
        pytest.param(b"max-age", {"max_age_s": 0}, id="4.2.1-no-argument"),
        pytest.param(b"max-age=", {"max_age_s": 0}, id="4.2.1-empty-argument"),
        pytest.param(b"max-age =60", {"max_age_s": 0}, id="4.2.1-space-before-equals"),
        pytest.param(b"max-age= 60", {"max_age_s": 0}, id="4.2.1-space-after-equals"),
        pytest.param(b"max-age=60 70", {"max_age_s": 0}, id="4.2.1-two-numbers"),
        pytest.param(b"max-age=60;x", {"max_age_s": 0}, id="4.2.1-parameter"),
        pytest.param(b"max-age=\xb2", {"max_age_s": 0}, id="4.2.1-superscript-digit"),
        pytest.param(b"max-age=0060", {"max_age_s": 60}, id="leading-zeros"),
        pytest.param(b"max-age=2147483648", {"max_age_s": MAX_SECONDS}, id="1.2.2-at-the-limit"),
        pytest.param(b"max-age=99999999999", {"max_age_s": MAX_SECONDS}, id="1.2.2-overflow"),
        pytest.param(b"max-age=" + b"9" * 5000, {"max_age_s": MAX_SECONDS}, id="1.2.2-overflow-of-int"),
        pytest.param(b"s-maxage=5, max-age=60", {"s_maxage_s": 5, "max_age_s": 60}, id="5.2.2.10"),
        pytest.param(b"no-store=x", {"no_store": True}, id="no-store-with-argument"),
        pytest.param(b'public="x"', {}, id="permission-with-argument-is-none"),
        pytest.param(b"no-cache", {"no_cache": True}, id="5.2.2.4"),
        pytest.param(b'no-cache="a, B"', {"no_cache_fields": frozenset([b"a", b"b"])}, id="5.2.2.4-fields"),
        pytest.param(b"no-cache=a, b", {"no_cache": True}, id="5.2.2.4-fields-without-quotes"),
        pytest.param(b'no-cache=""', {"no_cache": True}, id="5.2.2.4-no-field"),
        pytest.param(b'no-cache="a b"', {"no_cache": True}, id="5.2.2.4-field-is-no-name"),
        pytest.param(b'no-cache="a", no-cache', {"no_cache": True}, id="5.2.2.4-both"),
        pytest.param(b'private="a", private="b"', {"private_fields": frozenset([b"a", b"b"])}, id="5.2.2.7-twice"),
        pytest.param(b"private", {"private": True}, id="5.2.2.7"),
        pytest.param(b'private ="a"', {"private": True}, id="5.2.2.7-junk-is-all-of-it"),
        pytest.param(b'private="a', {"private": True, "no_store": True}, id="unfinished-quote"),
        pytest.param(b'x="max-age=1, no-store", public', {"public": True}, id="quoted-is-no-directive"),
        pytest.param(b'x="\\"", public', {"public": True}, id="escaped-quote"),
        pytest.param(b"a=b=c, public", {"public": True}, id="two-equals"),
        pytest.param(b"@@@, public", {"public": True}, id="no-name"),
        pytest.param(
            b"must-revalidate,proxy-revalidate,must-understand,immutable",
            {"must_revalidate": True, "proxy_revalidate": True, "must_understand": True, "immutable": True},
            id="5.2.2-flags",
        ),
        pytest.param(
            b"stale-while-revalidate=5, stale-if-error=x",
            {"stale_while_revalidate_s": 5, "stale_if_error_s": 0},
            id="rfc5861",
        ),
    ],
)
def test_response_directives(value: bytes, expected: dict[str, Any]) -> None:
    assert response_directives(parse_directives(value)) == ResponseDirectives(**expected)


@pytest.mark.parametrize(
    ("cache_control", "pragma", "expected"),
    [
        pytest.param(None, None, {}, id="nothing"),
        pytest.param(b"no-cache", None, {"no_cache": True}, id="5.2.1.4"),
        pytest.param(b"no-store", None, {"no_store": True}, id="5.2.1.5"),
        pytest.param(b"only-if-cached", None, {"only_if_cached": True}, id="5.2.1.7"),
        pytest.param(b"max-age=0", None, {"max_age_s": 0}, id="5.2.1.1"),
        pytest.param(b"max-age=junk", None, {"max_age_s": 0}, id="5.2.1.1-junk-is-the-strictest"),
        pytest.param(b"max-stale", None, {"max_stale_s": MAX_SECONDS}, id="5.2.1.2-any"),
        pytest.param(b"max-stale=5", None, {"max_stale_s": 5}, id="5.2.1.2"),
        pytest.param(b"max-stale=x", None, {"max_stale_s": 0}, id="5.2.1.2-junk-allows-nothing"),
        pytest.param(b"min-fresh=5", None, {"min_fresh_s": 5}, id="5.2.1.3"),
        pytest.param(b"stale-if-error=5", None, {"stale_if_error_s": 5}, id="rfc5861-4"),
        pytest.param(b'x="', None, {"no_cache": True, "no_store": True}, id="unfinished-quote"),
        pytest.param(None, b"no-cache", {"no_cache": True}, id="5.4-pragma"),
        pytest.param(None, b"x=1, No-Cache", {"no_cache": True}, id="5.4-pragma-list"),
        pytest.param(None, b"x", {}, id="5.4-other-pragma"),
        pytest.param(b"max-stale=5", b"no-cache", {"max_stale_s": 5}, id="5.4-cache-control-wins"),
        pytest.param(b"max-age=5" + b"," * 300, None, {"max_age_s": 5}, id="long"),
    ],
)
def test_request_directives(cache_control: bytes | None, pragma: bytes | None, expected: dict[str, Any]) -> None:
    assert request_directives(cache_control, pragma) == RequestDirectives(**expected)


CC = b"cache-control"
CDN = b"cdn-cache-control"
SURROGATE = b"surrogate-control"


@pytest.mark.parametrize(
    ("fields", "expected", "targeted"),
    [
        pytest.param([(CC, b"max-age=1"), (CC, b"public")], {"max_age_s": 1, "public": True}, False, id="two-lines"),
        pytest.param([(CC, b"no-store"), (CDN, b"max-age=9")], {"max_age_s": 9}, True, id="rfc9213-2.2"),
        pytest.param([(CC, b"max-age=1"), (CDN, b"")], {"max_age_s": 1}, False, id="rfc9213-2.1-empty"),
        pytest.param([(CC, b"max-age=1"), (CDN, b"max-age=")], {"max_age_s": 1}, False, id="rfc9213-2.1-broken"),
        pytest.param([(CDN, b"max-age=9;x=1, no-store;y")], {"max_age_s": 9, "no_store": True}, True, id="parameters"),
        pytest.param([(CDN, b"no-store=?0, max-age=9")], {"max_age_s": 9}, True, id="false-is-absent"),
        pytest.param([(CDN, b'max-age="9"')], {"max_age_s": 0}, True, id="rfc9213-2.1-string"),
        pytest.param([(CDN, b"max-age=9.5")], {"max_age_s": 0}, True, id="wrong-type"),
        pytest.param([(CDN, b"max-age=9"), (SURROGATE, b"max-age=5")], {"max_age_s": 9}, True, id="cdn-first"),
        pytest.param([(CC, b"no-store"), (SURROGATE, b"max-age=5")], {"max_age_s": 5}, True, id="surrogate"),
        pytest.param(
            [(SURROGATE, b'max-age=5+60, content="ESI/1.0"')],
            {"max_age_s": 5, "stale_while_revalidate_s": 60},
            True,
            id="surrogate-stale-time",
        ),
        pytest.param(
            [(CC, b"private"), (SURROGATE, b'content="ESI/1.0"')], {"private": True}, False, id="surrogate-only-esi"
        ),
        pytest.param([(CC, b"private"), (SURROGATE, b"max-age=5;other")], {"private": True}, False, id="for-another"),
        pytest.param([(SURROGATE, b"no-store")], {"no_store": True}, True, id="surrogate-no-store"),
        pytest.param([(SURROGATE, b'max-age=5, content="')], {"max_age_s": 5, "no_store": True}, True, id="unfinished"),
    ],
)
def test_targeted_fields_come_first(fields: Any, expected: dict[str, Any], targeted: bool) -> None:
    found = effective_directives(fields)
    assert found == ResponseDirectives(**expected)
    assert found.targeted == targeted


@given(st.binary(max_size=60))
def test_any_value_can_be_read(value: bytes) -> None:
    response_directives(parse_directives(value))
    request_directives(value, value)
    for name in (CC, CDN, SURROGATE):
        effective_directives([(name, value)])


@given(st.lists(st.sampled_from([b"max-age=5", b"no-store", b'x="a,b"', b" ", b'private="q"'])), st.binary(max_size=9))
def test_no_store_is_never_overlooked(members: list[bytes], junk: bytes) -> None:
    value = b",".join([b"no-store", *members, junk])
    assert response_directives(parse_directives(value)).no_store
