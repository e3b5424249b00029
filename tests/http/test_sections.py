"""Header sections whose names have come before are let in as they would be one field at a time."""

from __future__ import annotations

from itertools import compress

from hypothesis import given
from hypothesis import strategies as st

from gateway.http.fields import Fields
from gateway.http.hop_by_hop import admitted_fields
from gateway.http.sections import CommonSections

_DROP = frozenset([b"x-request-id"])
_NAMES = st.sampled_from(
    [b"host", b"accept", b"cookie", b"connection", b"x-forwarded-for", b"x_user", b"x-request-id", b"via", b"te"]
)
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from([b"a", b"close", b"cookie", b"keep-alive"])), max_size=8)


@given(_FIELDS)
def test_a_common_section_is_what_its_fields_are_one_by_one(fields: Fields) -> None:
    sections = CommonSections(_DROP)
    for _ in range(3):
        section = sections.find(fields)
    names = [name for name, _ in fields]
    is_judged_by_value = names.count(b"host") != 1 or names.count(b"connection") > 1 or b"via" in names
    if is_judged_by_value or (b"connection", b"cookie") in fields or (b"connection", b"a") in fields:
        assert section is None
        return
    assert section is not None
    assert fields[section.host_at][1] == dict(fields)[b"host"]
    assert list(compress(fields, section.kept)) == admitted_fields(fields, drop=_DROP)
    assert section.names == tuple(name for name, _ in list(compress(fields, section.kept)))


def test_values_do_not_matter_to_what_a_section_is() -> None:
    sections = CommonSections(_DROP)
    for number in range(3):
        section = sections.find([(b"host", b"h%d" % number), (b"cookie", b"%d" % number)])
    assert section is not None
    assert section.kept == [True, True]


def test_fields_that_connection_names_are_looked_for_every_time() -> None:
    sections = CommonSections(_DROP)
    plain: Fields = [(b"host", b"a"), (b"connection", b"keep-alive"), (b"x-hop", b"1")]
    sections.find(plain)
    assert sections.find(plain) is not None
    assert sections.find([(b"host", b"a"), (b"connection", b"x-hop"), (b"x-hop", b"1")]) is None
    assert sections.find(plain) is not None


def test_expectations_and_via_are_judged_every_time() -> None:
    sections = CommonSections(_DROP)
    for name in (b"expect", b"via"):
        for _ in range(3):
            assert sections.find([(b"host", b"a"), (name, b"100-continue")]) is None


def test_no_more_is_remembered_than_is_allowed() -> None:
    sections = CommonSections(_DROP)
    for number in range(2000):
        for _ in range(2):
            sections.find([(b"host", b"a"), (b"x-%d" % number, b"1")])
    assert 0 < len(sections._known) <= 512
    long = [(b"host", b"a"), (b"x" * 2000, b"1")]
    for _ in range(3):
        assert sections.find(long) is None
