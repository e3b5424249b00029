"""Targets: which are refused, how they are read for matching, and how they go out."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.http.target import (
    TargetRewrite,
    Template,
    check_query,
    cut_root_path,
    join,
    read_path,
    strip_segments,
)


@pytest.mark.parametrize(
    ("raw", "segments", "trailing_slash"),
    [
        (b"/", (), False),
        (b"//", (), False),
        (b"*", (), False),
        (b"/a", (b"a",), False),
        (b"/a/", (b"a",), True),
        (b"//a///b//", (b"a", b"b"), True),
        (b"/a%20b/%63", (b"a b", b"c"), False),
        (b"/a%2fb", (b"a%2Fb",), False),
        (b"/%C3%A9", (b"\xc3\xa9",), False),
        (b"/%252e%252e", (b"%2e%2e",), False),
        (b"/a;v=1/b", (b"a;v=1", b"b"), False),
        (b"/.hidden/..x/...", (b".hidden", b"..x", b"..."), False),
        (b"/a%3Fb%23c", (b"a?b#c",), False),
        (b"/a%0Ab", (b"a\nb",), False),
        (b"/a+b,c=d&e:f@g!$'()*~", (b"a+b,c=d&e:f@g!$'()*~",), False),
    ],
)
def test_paths_are_read_decoded(raw: bytes, segments: tuple[bytes, ...], trailing_slash: bool) -> None:
    path = read_path(raw)
    assert (path.raw, path.segments, path.trailing_slash) == (raw, segments, trailing_slash)


@pytest.mark.parametrize("shape", [b"%b", b"/%b", b"/a/%b", b"/%b/b", b"/a/%b/b", b"/a/%b/", b"//%b//"])
@pytest.mark.parametrize(
    "dots",
    [
        b".",
        b"..",
        b"%2e",
        b"%2E%2e",
        b".%2e",
        b"%2e.",
        b"..;",
        b"..;x=1",
        b".;x",
        b"%2e%2e;x",
        b"..%3Bx",
        b"..%2F",
        b"..%2fx",
        b"x%2F..",
        b"x%2f%2e%2E%2Fy",
        b"..%5C",
        b"x%5c..",
        b"..%5Cx",
        b"x%5C..;y%2Fz",
        b"x%2F.",
    ],
)
def test_dot_segments_are_refused_in_either_reading(shape: bytes, dots: bytes) -> None:
    with pytest.raises(BadRequest):
        read_path(shape % dots)


@pytest.mark.parametrize(
    "raw",
    [
        b"a",
        b"http://example.com/",
        b"/a\\b",
        b"\\a",
        b"/a#b",
        b"/a?b",
        b"/a b",
        b"/a\x00",
        b"/a\x1f",
        b"/a\x7f",
        b"/a\r\nb",
        b"/a\x80",
        b"/\xc3\xa9",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/%%41",
        b"/a%00",
        b"/a%00b/c",
        b"**",
        b"*/",
    ],
)
@pytest.mark.parametrize("padding", [b"", b"/" + b"x" * 300], ids=["short", "long"])
def test_unsafe_paths_are_refused(raw: bytes, padding: bytes) -> None:
    with pytest.raises(BadRequest):
        read_path(raw + padding)


@pytest.mark.parametrize("query", [b"a#b", b"a b", b"a\x00", b"a\x1f", b"a\x7f", b"a\x80", b"\xc3\xa9", b"a\r\nb"])
def test_unsafe_queries_are_refused(query: bytes) -> None:
    with pytest.raises(BadRequest):
        check_query(query)


@pytest.mark.parametrize("query", [b"", b"a=1&a=2", b"?", b"a=%zz", b"a=%00", b'[]\\{}|^`"<>', b"a=../..&b=//;c"])
def test_other_queries_pass(query: bytes) -> None:
    check_query(query)


@pytest.mark.parametrize(
    ("raw", "second"),
    [
        (b"/a", None),
        (b"/a%20b", None),
        (b"/a%252Fb", None),
        (b"/a%2Fb", (b"a", b"b")),
        (b"/a%5cb", (b"a", b"b")),
        (b"/a%2F%5C%2fb/c%2F", (b"a", b"b", b"c")),
        (b"/%2F", ()),
    ],
)
def test_a_path_is_read_a_second_time_with_other_separators(raw: bytes, second: tuple[bytes, ...] | None) -> None:
    read = read_path(raw).second
    assert (None if read is None else read.segments) == second


def test_an_encoded_separator_at_the_end_is_a_trailing_slash_in_the_second_reading() -> None:
    path = read_path(b"/a%2F")
    assert not path.trailing_slash
    assert path.second is not None
    assert path.second.trailing_slash


@pytest.mark.parametrize(
    ("raw", "count", "tail"),
    [
        (b"/files/a/b", 1, b"a/b"),
        (b"/files/a//b/", 1, b"a//b/"),
        (b"/files", 1, b""),
        (b"/files/", 1, b""),
        (b"/files//", 1, b"/"),
        (b"/files//a", 1, b"/a"),
        (b"//files/a", 1, b"a"),
        (b"//host/x", 0, b"/host/x"),
        (b"/", 0, b""),
        (b"/a%2Fb/%C3%a9", 1, b"%C3%a9"),
        (b"*", 0, b""),
    ],
)
def test_a_tail_is_the_clients_bytes_after_a_segment_and_its_slash(raw: bytes, count: int, tail: bytes) -> None:
    assert read_path(raw).tail(count) == tail


def test_raw_segments_stand_beside_the_decoded_ones() -> None:
    path = read_path(b"//a%20b/%2f/c;d/")
    assert path.raw_segments == (b"a%20b", b"%2f", b"c;d")
    assert path.segments == (b"a b", b"%2F", b"c;d")
    assert read_path(b"*").raw_segments == ()


def test_regular_expressions_see_the_decoded_path() -> None:
    assert read_path(b"//caf%C3%A9//a%2fb/").decoded == "/caf\u00e9/a%2Fb/"
    assert read_path(b"/").decoded == "/"
    assert read_path(b"/%FF").decoded == "/\ufffd"


def test_short_paths_are_remembered_and_long_ones_are_not() -> None:
    assert read_path(b"/remembered") is read_path(b"/remembered")
    long = b"/" + b"x" * 256
    assert read_path(long) is not read_path(long)


_PIECES = st.sampled_from(
    [
        b"/",
        b".",
        b"..",
        b"%2e",
        b"%2E",
        b"%2f",
        b"%2F",
        b"%5c",
        b"%5C",
        b";",
        b"%3b",
        b"a",
        b"%61",
        b"%25",
        b"%00",
        b"\\",
    ]
)


@given(st.lists(_PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)))
@example(b"/a/..%2f..%5cetc")
def test_no_reading_of_an_accepted_path_has_a_dot_segment(raw: bytes) -> None:
    try:
        read_path(raw)
    except BadRequest:
        return
    # Every server there may be: it decodes before or after it splits, with or without backslashes and parameters.
    readings = itertools.product((False, True), (b"/", b"/\\"), (False, True))
    for decodes_first, separators, cuts_parameters in readings:
        text = unquote_to_bytes(raw) if decodes_first else raw
        for segment in re.split(b"[" + re.escape(separators) + b"]", text):
            segment = segment if decodes_first else unquote_to_bytes(segment)
            assert (segment.split(b";")[0] if cuts_parameters else segment) not in (b".", b"..")


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(BadRequest):
        read_path(b"")


@given(st.binary(max_size=30))
def test_every_path_is_accepted_or_a_bad_request(raw: bytes) -> None:
    try:
        path = read_path(b"/" + raw)
    except BadRequest:
        return
    assert len(path.segments) == len(path.raw_segments)
    assert b"" not in path.segments


# Rewriting.


@pytest.mark.parametrize(
    ("rules", "path", "target"),
    [
        ({}, b"/a//b%2Fc/", b"/a//b%2Fc/"),
        ({}, b"//host/x", b"//host/x"),
        ({}, b"*", b"*"),
        ({"base_path": b"/"}, b"/a", b"/a"),
        ({"base_path": b"/api"}, b"/a", b"/api/a"),
        ({"base_path": b"/api/"}, b"/a", b"/api/a"),
        ({"base_path": b"/api"}, b"/", b"/api/"),
        ({"base_path": b"/api"}, b"*", b"*"),
        ({"base_path": b"/api"}, b"//a", b"/api//a"),
        ({"strip_prefix": b"/shop"}, b"/shop", b"/"),
        ({"strip_prefix": b"/shop"}, b"/shop/", b"/"),
        ({"strip_prefix": b"/shop"}, b"/shop/a", b"/a"),
        ({"strip_prefix": b"/shop"}, b"//shop/a", b"/a"),
        ({"strip_prefix": b"/shop"}, b"/s%68op/a", b"/a"),
        ({"strip_prefix": b"/a/b"}, b"/a//b/c//d", b"/c//d"),
        ({"add_prefix": b"/v1"}, b"/a", b"/v1/a"),
        ({"add_prefix": b"/v1/"}, b"/a", b"/v1/a"),
        ({"strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/shop", b"/v1"),
        ({"strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/shop/", b"/v1/"),
        ({"strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/shop/a%2F..b", b"/v1/a%2F..b"),
        ({"base_path": b"/b/", "strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/shop/a", b"/b/v1/a"),
        ({"rewrite": "/items/{id}"}, b"/x/7%2f", b"/items/7%2f"),
        ({"base_path": b"/b/", "rewrite": "/items/{id}"}, b"/x/7%2f", b"/b/items/7%2f"),
    ],
)
def test_targets_are_rewritten(rules: dict[str, bytes], path: bytes, target: bytes) -> None:
    rewrite = TargetRewrite(**rules)  # type: ignore[arg-type]
    params = {"id": b"7%2f"}
    assert rewrite.apply(path, b"", params) == target
    assert rewrite.apply(path, b"q=%20&q=//;", params) == target + b"?q=%20&q=//;"


def test_a_target_that_does_not_change_is_not_copied() -> None:
    path = b"/a//b%2F"
    assert TargetRewrite().apply(path, b"", {}) is path


@pytest.mark.parametrize(
    ("rules", "upstream", "public"),
    [
        ({}, b"/a", b"/a"),
        ({}, b"/", b"/"),
        ({"strip_prefix": b"/shop"}, b"/a", b"/shop/a"),
        ({"strip_prefix": b"/shop"}, b"/", b"/shop/"),
        ({"add_prefix": b"/v1"}, b"/v1", b"/"),
        ({"add_prefix": b"/v1"}, b"/v1/a", b"/a"),
        ({"add_prefix": b"/v1"}, b"/v12/a", None),
        ({"add_prefix": b"/v1"}, b"/a", None),
        ({"base_path": b"/b", "strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/b/v1/a", b"/shop/a"),
        ({"base_path": b"/b", "strip_prefix": b"/shop", "add_prefix": b"/v1"}, b"/b/v1", b"/shop"),
        ({"rewrite": "/items/{id}"}, b"/items/7", None),
    ],
)
def test_paths_of_an_upstream_are_made_public(rules: dict[str, bytes], upstream: bytes, public: bytes | None) -> None:
    assert TargetRewrite(**rules).public_path(upstream) == public  # type: ignore[arg-type]


_RAW_SEGMENT = st.text("ab.~;=+&%", min_size=1, max_size=4).map(
    lambda text: text.replace("%", "%2F").replace(".", "x.").encode()
)
_PREFIX = st.lists(st.sampled_from([b"/shop", b"/v1", b"/a%20b"]), max_size=3).map(b"".join)
_REST = st.lists(st.tuples(st.sampled_from([b"/", b"//", b"///"]), _RAW_SEGMENT), max_size=4).map(
    lambda parts: b"".join(itertools.chain.from_iterable(parts))
)


@given(
    base=_PREFIX, strip=_PREFIX, add=_PREFIX, rest=_REST, end=st.sampled_from([b"", b"/"]), query=st.just(b"q=//%2F")
)
def test_rewriting_keeps_the_clients_bytes_and_can_be_turned_back(
    base: bytes, strip: bytes, add: bytes, rest: bytes, end: bytes, query: bytes
) -> None:
    rest += end
    path = strip + rest or b"/"
    rewrite = TargetRewrite(base_path=base, strip_prefix=strip, add_prefix=add)
    target = rewrite.apply(path, query, {})
    # The path "/" is the empty one, RFC 9110 section 4.2.3: beneath a prefix it keeps its slash.
    kept = rest if strip else path
    assert target == (base + add + kept or b"/") + b"?" + query
    public = rewrite.public_path(target.removesuffix(b"?" + query))
    assert public == path or (public, path) == (strip + b"/", strip)


@pytest.mark.parametrize(
    ("prefix", "path", "joined"),
    [(b"", b"", b"/"), (b"/v1", b"", b"/v1"), (b"/v1", b"a", b"/v1/a"), (b"/v1", b"/a", b"/v1/a"), (b"", b"a", b"/a")],
)
def test_a_join_has_exactly_one_slash(prefix: bytes, path: bytes, joined: bytes) -> None:
    assert join(prefix, path) == joined


@pytest.mark.parametrize(
    ("path", "count", "rest"),
    [
        (b"/a/b", 0, b"/a/b"),
        (b"/a/b", 1, b"/b"),
        (b"//a//b", 1, b"//b"),
        (b"/a/b", 2, b""),
        (b"/a/", 1, b"/"),
        (b"/a", 5, b""),
    ],
)
def test_segments_are_stripped_from_the_front(path: bytes, count: int, rest: bytes) -> None:
    assert strip_segments(path, count) == rest


def test_templates_insert_the_bytes_of_names() -> None:
    template = Template("https://{host}/new/{rest}?x={id}{id}")
    assert template.names == ("host", "rest", "id", "id")
    names = {"host": b"example.com:8443", "rest": b"a%2F//b", "id": b"7"}
    assert template.render(names) == b"https://example.com:8443/new/a%2F//b?x=77"
    assert Template("/{missing}/x").render({}) == b"//x"
    assert Template("/caf\u00e9/{not a name}").render({}) == "/caf\u00e9/{not a name}".encode()


@pytest.mark.parametrize(
    ("raw", "root", "rest"),
    [
        (b"/api/a//b%2F", "/api", b"/a//b%2F"),
        (b"/api", "/api", b"/"),
        (b"/api/", "/api/", b"/"),
        (b"/apis/a", "/api", b"/apis/a"),
        (b"/a", "", b"/a"),
        (b"/a", "/", b"/a"),
        (b"/x/y/a", "/x/y", b"/a"),
        (b"/x", "/x/y", b"/x"),
        (b"/caf%C3%A9/a", "/caf\u00e9", b"/a"),
        (b"/caf%c3%a9/a", "/caf%C3%A9", b"/a"),
        (b"/%61pi/a", "/api", b"/a"),
        (b"/api%2Fa", "/api", b"/api%2Fa"),
        (b"/100%25/a", "/100%", b"/a"),
    ],
)
def test_a_mount_prefix_is_cut_at_a_segment(raw: bytes, root: str, rest: bytes) -> None:
    assert cut_root_path(raw, root) == rest
