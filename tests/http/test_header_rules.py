"""Header rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.header_rules import HeaderRules

FIELDS = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"\xff")]


def test_remove_comes_before_set_and_set_before_add() -> None:
    rules = HeaderRules(set={"A": "x"}, add={"B": "y", "C": "z"}, remove=["C"])
    expected = [(b"b", b"2"), (b"a", b"x"), (b"b", b"y"), (b"c", b"z")]
    assert rules.apply_request(FIELDS, {}) == expected
    assert rules.apply_response(FIELDS) == expected


def test_the_given_fields_stay_as_they_are() -> None:
    fields = list(FIELDS)
    HeaderRules(set={"A": "x"}).apply_response(fields).clear()
    assert fields == FIELDS


def test_no_rules_are_false_and_change_nothing() -> None:
    rules = HeaderRules()
    assert not rules
    assert rules.apply_request(FIELDS, {}) == FIELDS
    assert HeaderRules(remove=["x"])
    assert HeaderRules(add={"x": ""})


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{client_ip}", b"192.0.2.1"),
        ("for={client_ip};id={id}", b"for=192.0.2.1;id=7%20"),
        ("{id}{id}", b"7%207%20"),
        ('{"json": 1}', b'{"json": 1}'),
        ("{not-a-name}", b"{not-a-name}"),
        ("{}", b"{}"),
        ("{missing}", b""),
        ("{{id}}", b"{7%20}"),
    ],
)
def test_templates_are_filled_in_requests(template: str, value: bytes) -> None:
    rules = HeaderRules(set={"X": template})
    assert rules.apply_request([], {"client_ip": b"192.0.2.1", "id": b"7%20"}) == [(b"x", value)]
    assert rules.apply_response([]) == [(b"x", template.encode())]


def test_the_names_that_are_asked_for_are_known() -> None:
    assert HeaderRules(set={"X": "{a}{b}"}, add={"Y": "{c}"}).names == {"a", "b", "c"}
    assert HeaderRules(set={"X": "a"}).names == frozenset()


@pytest.mark.parametrize("inserted", [b"a\r\nX-Evil: 1", b"a\nb", b"\0a", b" a ", b"\x7f"])
def test_inserted_bytes_cannot_begin_a_field(inserted: bytes) -> None:
    [(_, value)] = HeaderRules(set={"X": "{v}"}).apply_request([], {"v": inserted})
    assert value == inserted.translate(None, b"\r\n\0\x7f").strip()


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\n", "ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        HeaderRules(set={name: "x"})
    with pytest.raises(ValueError, match="not a header name"):
        HeaderRules(remove=[name])


@pytest.mark.parametrize("value", ["a\r\nb", "a\0", " a", "a\t"])
def test_what_is_no_value_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not a header value"):
        HeaderRules(add={"x": value})


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.binary(max_size=20)))
def test_rendered_values_are_always_sendable(names: dict[str, bytes]) -> None:
    [(_, value)] = HeaderRules(set={"X": "{a} {b}"}).apply_request([], names)
    assert not set(value) & {*range(9), *range(10, 32), 127}
    assert value == value.strip(b" \t")
