"""Host and path patterns: what they say, what is refused, and which are the same."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.patterns import EVERY_PATH, compile_regex, decode_segment, parse_host, parse_path


@pytest.mark.parametrize(
    ("text", "segments", "has_tail", "ends_with_slash", "names"),
    [
        ("/", (), False, False, ()),
        ("/*", (), True, False, ()),
        ("/{rest*}", (), True, False, ("rest",)),
        ("/a", (b"a",), False, False, ()),
        ("/a/", (b"a",), False, True, ()),
        ("/a/*", (b"a",), True, False, ()),
        ("/a/b", (b"a", b"b"), False, False, ()),
        ("/users/{id}/orders", (b"users", None, b"orders"), False, False, ("id",)),
        ("/{a}/{b}/{rest*}", (None, None), True, False, ("a", "b", "rest")),
        ("/{id}/", (None,), False, True, ("id",)),
        ("/caf\u00e9", ("caf\u00e9".encode(),), False, False, ()),
        ("/caf%C3%A9", ("caf\u00e9".encode(),), False, False, ()),
        ("/a%20b", (b"a b",), False, False, ()),
        ("/a b", (b"a b",), False, False, ()),
        ("/a%2fb", (b"a%2Fb",), False, False, ()),
        ("/%7Bid%7D", (b"{id}",), False, False, ()),
        ("/%2A", (b"*",), False, False, ()),
        ("/a;b", (b"a;b",), False, False, ()),
        ("/...", (b"...",), False, False, ()),
    ],
)
def test_path_patterns_are_read(
    text: str, segments: tuple[bytes | None, ...], has_tail: bool, ends_with_slash: bool, names: tuple[str, ...]
) -> None:
    pattern = parse_path(text)
    assert pattern.segments == segments
    assert (pattern.has_tail, pattern.ends_with_slash, pattern.names) == (has_tail, ends_with_slash, names)
    assert (pattern.text, pattern.regex) == (text, "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'must start with "/"'),
        ("a", 'must start with "/"'),
        ("*", 'must start with "/"'),
        ("/a?b", "query"),
        ("/a#b", "fragment"),
        ("/a%", "percent escape"),
        ("/a%4", "percent escape"),
        ("/a%zz", "percent escape"),
        ("/a//b", "empty segment"),
        ("//a", "empty segment"),
        ("/a//", "empty segment"),
        ("/a/*/b", "last segment"),
        ("/a/*/", "last segment"),
        ("/{rest*}/b", "last segment"),
        ("/a*", "stands alone"),
        ("/*a", "stands alone"),
        ("/**", "stands alone"),
        ("/{id", "whole segment"),
        ("/id}", "whole segment"),
        ("/v{id}", "whole segment"),
        ("/{id}.json", "whole segment"),
        ("/{1d}", "whole segment"),
        ("/{}", "whole segment"),
        ("/{*}", "whole segment"),
        ("/{a}/{a}", "twice"),
        ("/{a}/{a*}", "twice"),
        ("/.", "never reach"),
        ("/a/../b", "never reach"),
        ("/%2e%2E/b", "never reach"),
        ("/..;x/b", "never reach"),
        ("/a\\b", "never reach"),
        ("/a%5Cb", "never reach"),
        ("/a%00", "never reach"),
        ("/a\tb", "never reach"),
        ("/a%7F", "never reach"),
        ("/x" * 129, "more than 128"),
        ("~", "no regular expression"),
        ("~(", "is no regular expression"),
        ("~a(?=b)", "is no regular expression"),
    ],
)
def test_unusable_path_patterns_are_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_path(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/{id}", "/{name}"),
        ("/a/{id}/*", "/a/{x}/{rest*}"),
        ("/*", "/{rest*}"),
        ("/caf\u00e9", "/caf%c3%a9"),
        ("/a%2Fb", "/a%2fb"),
        ("~^/a", "~^/a"),
    ],
)
def test_patterns_with_the_same_conditions_are_equal(one: str, other: str) -> None:
    assert parse_path(one) == parse_path(other)
    assert hash(parse_path(one)) == hash(parse_path(other))


def test_patterns_with_other_conditions_differ() -> None:
    texts = ["/", "/*", "/a", "/a/", "/a/*", "/A", "/{a}", "/{a}/", "/{a}/*", "/a/b", "~/a", "~^/a"]
    assert len({parse_path(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "literals"),
    [
        ("/", ()),
        ("/*", ()),
        ("/a/b", ("a", "b")),
        ("/a/b/", ("a", "b")),
        ("/a%20b/*", ("a%20b",)),
        ("/a/{id}/b", ("a",)),
        ("/{id}/b", ()),
        ("~^/a/b", ()),
    ],
)
def test_leading_literal_segments_are_given_as_written(text: str, literals: tuple[str, ...]) -> None:
    assert parse_path(text).literal_segments == literals


def test_path_patterns_rank_by_the_leftmost_segment_that_differs() -> None:
    in_order = ["/a/b/c", "/a/b/{x}", "/a/b/*", "/a/{x}/c", "/a/{x}/*", "/a/*", "/{x}/b/c", "/{x}/*", "/*", "~^/a"]
    assert sorted(reversed(in_order), key=lambda text: parse_path(text).rank) == in_order
    assert parse_path("/a").rank < parse_path("/a/*").rank


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("/*", "/"),
        ("/*", "/a/{x}/"),
        ("/*", "~^/a"),
        ("/a/*", "/a"),
        ("/a/*", "/a/"),
        ("/a/*", "/a/{x}/*"),
        ("/{x}", "/a"),
        ("/{x}/*", "/a/b/*"),
        ("/{x}/b", "/{y}/b"),
        ("~^/a", "~^/a"),
    ],
)
def test_a_pattern_covers_narrower_ones(wide: str, narrow: str) -> None:
    assert parse_path(wide).covers(parse_path(narrow))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/", "/*"),
        ("/a", "/a/"),
        ("/a/", "/a"),
        ("/a", "/{x}"),
        ("/a", "/a/*"),
        ("/{x}", "/a/"),
        ("/{x}", "/"),
        ("/a/*", "/{x}/b"),
        ("/a/*", "~^/a/"),
        ("~^/a", "/a"),
        ("~^/a", "~^/ab"),
    ],
)
def test_a_pattern_does_not_cover_what_it_does_not_match(one: str, other: str) -> None:
    assert not parse_path(one).covers(parse_path(other))


def test_every_path_is_what_its_text_says() -> None:
    assert parse_path(EVERY_PATH.text) == EVERY_PATH


def test_regular_expressions_match_from_the_start() -> None:
    pattern = parse_path("~^/v[0-9]+/")
    assert pattern.match_regex("/v12/items")
    assert not pattern.match_regex("/x/v12/")
    assert not parse_path("~/b").match_regex("/a/b")


def test_a_dot_in_a_regular_expression_takes_a_line_break() -> None:
    assert compile_regex("/private/.*/secret")("/private/a\nb/secret")


def test_a_regular_expression_without_the_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ValueError, match=r"gateway\[regex\]"):
        parse_path("~^/a")


@pytest.mark.parametrize(
    ("text", "name", "is_wildcard"),
    [
        ("shop.example.com", "shop.example.com", False),
        ("Shop.Example.COM", "shop.example.com", False),
        ("shop.example.com.", "shop.example.com", False),
        ("*.example.com", "example.com", True),
        ("localhost", "localhost", False),
        ("a_b.example", "a_b.example", False),
        ("192.0.2.7", "192.0.2.7", False),
        ("[::1]", "[::1]", False),
        ("[2001:DB8:0::0:1]", "[2001:db8::1]", False),
        ("b\u00fccher.example", "xn--bcher-kva.example", False),
    ],
)
def test_host_patterns_are_read(text: str, name: str, is_wildcard: bool) -> None:
    pattern = parse_host(text)
    assert (pattern.name, pattern.is_wildcard) == (name, is_wildcard)
    assert parse_host(pattern.text) == pattern


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no host name"),
        (".", "no host name"),
        ("a..b", "no host name"),
        ("a..", "no host name"),
        ("-a.example", "no host name"),
        ("a b", "no host name"),
        ("a/b", "no host name"),
        ("user@example.com", "no host name"),
        ("a" * 254, "no host name"),
        ("\u00fc" * 64, "no host name"),
        ("example.com:80", "port"),
        ("::1", "brackets"),
        ("[::1]:80", "brackets"),
        ("[::x]", "no IPv6 address"),
        ("*", "only at the front"),
        ("a.*.example", "only at the front"),
        ("*a.example", "only at the front"),
    ],
)
def test_unusable_host_patterns_are_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_host(text)


def test_a_wildcard_is_any_subdomain_and_not_the_domain() -> None:
    pattern = parse_host("*.example.com")
    assert pattern.matches("a.example.com")
    assert pattern.matches("a.b.example.com")
    assert not pattern.matches("example.com")
    assert not pattern.matches("badexample.com")


def test_hosts_cover_narrower_ones() -> None:
    wildcard = parse_host("*.example.com")
    assert wildcard.covers(wildcard)
    assert wildcard.covers(parse_host("a.example.com"))
    assert wildcard.covers(parse_host("*.a.example.com"))
    assert not wildcard.covers(parse_host("example.com"))
    assert not parse_host("a.example.com").covers(wildcard)


def test_hosts_rank_exact_then_longest_wildcard() -> None:
    in_order = ["a.b.example", "*.b.example", "*.example"]
    assert sorted(reversed(in_order), key=lambda text: parse_host(text).rank) == in_order


@given(st.binary(max_size=20))
def test_a_segment_decodes_to_what_was_encoded(value: bytes) -> None:
    value = value.replace(b"/", b"")
    assert decode_segment(b"".join(b"%%%02x" % byte for byte in value)) == value
