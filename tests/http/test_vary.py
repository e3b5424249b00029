from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.vary import normal_value, selectors_of, selects, vary_names

AE = b"accept-encoding"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], ()),
        ([b""], ()),
        ([b"Accept-Encoding"], (AE,)),
        ([b"Origin, Accept-Encoding", b"ORIGIN"], (AE, b"origin")),
        ([b"*"], None),
        ([b"Origin", b" * "], None),
        ([b"a b"], None),
        ([b"\xff"], None),
    ],
)
def test_names(values: list[bytes], names: Any) -> None:
    assert vary_names([(b"vary", value) for value in values] + [(b"x", b"*")]) == names


@pytest.mark.parametrize(
    ("name", "first", "second", "equal"),
    [
        pytest.param(AE, b"gzip, deflate, br, zstd", b"zstd,br;q=1.0,gzip", True, id="4.1-order-of-equals"),
        pytest.param(AE, b"gzip", b"x-gzip, deflate", True, id="4.1-codings-nobody-uses"),
        pytest.param(AE, b"gzip;q=0.5, br", b"br, gzip;q=0.1", True, id="4.1-same-ranking"),
        pytest.param(AE, b"gzip, br;q=0.5", b"br, gzip;q=0.5", False, id="4.1-other-ranking"),
        pytest.param(AE, b"gzip, br", b"gzip", False, id="4.1-other-set"),
        pytest.param(AE, b"br;q=0, gzip", b"gzip", True, id="4.1-refused"),
        pytest.param(AE, b"*", b"gzip, br, zstd", True, id="4.1-any"),
        pytest.param(AE, b"", b"identity", True, id="4.1-none"),
        pytest.param(AE, b"gzip, identity;q=0", b"gzip", False, id="4.1-identity-refused"),
        pytest.param(AE, b"gzip;q=0.5, identity", b"gzip", False, id="4.1-identity-preferred"),
        pytest.param(AE, b"gzip;q=0.5, identity;q=0.1", b"gzip", True, id="4.1-identity-last"),
        pytest.param(AE, None, b"", False, id="4.1-absent-is-not-empty"),
        pytest.param(AE, None, None, True, id="4.1-both-absent"),
        pytest.param(b"accept-language", b"de, EN ;q=0.5", b"DE,en ;q=0.5", True, id="4.1-languages-have-no-case"),
        pytest.param(b"accept", b"text/html ,  */*", b"text/html,*/*", True, id="4.1-whitespace"),
        pytest.param(b"accept", b"text/html", b"TEXT/html", False, id="4.1-types-may-have-case-in-parameters"),
        pytest.param(b"user-agent", b"a", b"A", False, id="4.1-others-as-they-are"),
        pytest.param(b"user-agent", b"a ", b"a", True, id="4.1-outer-whitespace"),
        pytest.param(b"foo", b"1,2", b" 1, 2 ", True, id="4.1-lists-of-unknown-fields"),
        pytest.param(b"foo", b"1,2", b"2,1", False, id="4.1-order-of-unknown-fields"),
        pytest.param(b"foo", b'"1,2"', b'"1, 2"', False, id="4.1-commas-in-quotes"),
        pytest.param(b"foo", b"1 2", b"1  2", False, id="4.1-whitespace-elsewhere"),
        pytest.param(b"authorization", b"Digest a=b,c=d", b"Digest a=b, c=d", False, id="4.1-credentials"),
        pytest.param(b"cookie", b"a=1,2", b"a=1, 2", False, id="4.1-cookies"),
        pytest.param(b"accept-language", b"en, de", b"de, en", False, id="4.1-order-of-languages"),
    ],
)
def test_values_that_mean_the_same_are_equal(name: bytes, first: Any, second: Any, equal: bool) -> None:
    def request(value: bytes | None) -> list[tuple[bytes, bytes]]:
        return [] if value is None else [(name, value)]

    assert (normal_value(name, request(first)) == normal_value(name, request(second))) == equal
    assert selects(selectors_of([name], request(first)), request(second)) == equal


@pytest.mark.parametrize(
    "value", [b" " * 2_000_000 + b"x,y", b"x" + b" ,\t" * 700_000 + b"y", b"x,y" + b"," * 2_000_000]
)
def test_long_values_take_no_longer_than_they_are(value: bytes) -> None:
    assert normal_value(b"accept", [(b"accept", value)]) == b"x,y"


def test_lines_of_one_field_are_one_list() -> None:
    assert normal_value(AE, [(AE, b"gzip"), (AE, b"br")]) == normal_value(AE, [(AE, b"br, gzip")])
    assert normal_value(b"cookie", [(b"cookie", b"a=1"), (b"cookie", b"b=2")]) == b"a=1; b=2"


def test_answer_in_a_coding_outside_the_normal_form_is_told_apart_by_the_exact_field() -> None:
    deflated = [(b"content-encoding", b"deflate")]
    selectors = selectors_of([AE], [(AE, b"gzip, deflate")], deflated)
    assert selects(selectors, [(AE, b"gzip, deflate")])
    assert not selects(selectors, [(AE, b"gzip")])


def test_every_selector_has_to_hold() -> None:
    selectors = selectors_of([AE, b"origin"], [(AE, b"br"), (b"origin", b"https://a")])
    assert selects(selectors, [(b"origin", b"https://a"), (AE, b"br")])
    assert not selects(selectors, [(b"origin", b"https://b"), (AE, b"br")])
    assert selects((), [(b"origin", b"https://b")])


@given(st.binary(max_size=300))
def test_a_request_always_selects_what_it_got(value: bytes) -> None:
    for name in (AE, b"accept", b"accept-language", b"cookie", b"x"):
        request = [(name, value)]
        assert selects(selectors_of([name], request), request)
