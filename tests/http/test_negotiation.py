from __future__ import annotations

import pytest

from gateway.http.negotiation import accepted_codings, choose_coding, is_accepted, parse_codings

OFFERED = ("zstd", "br", "gzip")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        pytest.param(None, "identity", id="absent: any is allowed, none is wanted"),
        pytest.param(b"", "identity", id="empty"),
        pytest.param(b"gzip", "gzip", id="one"),
        pytest.param(b"GZIP", "gzip", id="case does not matter"),
        pytest.param(b"x-gzip", "gzip", id="x-gzip is gzip, 8.4.1.3"),
        pytest.param(b"gzip, deflate, br, zstd", "zstd", id="a browser: the server's order among equals"),
        pytest.param(b"gzip, br;q=0.5", "gzip", id="the client's weight before the server's order"),
        pytest.param(b"br;q=0.001, gzip;q=0", "br", id="the smallest weight is a yes, 0 a no"),
        pytest.param(b"gzip;q=0", "identity", id="refused"),
        pytest.param(b"*", "zstd", id="anything"),
        pytest.param(b"*;q=0", "identity", id="nothing"),
        pytest.param(b"zstd;q=0, *;q=0.5", "br", id="* is what is not listed"),
        pytest.param(b"identity, gzip;q=0.5", "identity", id="identity listed higher"),
        pytest.param(b"identity, gzip", "gzip", id="identity listed equal"),
        pytest.param(b"identity;q=0", "identity", id="identity refused and nothing offered is named"),
        pytest.param(b"identity;q=0, gzip", "gzip", id="identity refused"),
        pytest.param(b"deflate", "identity", id="only what is not offered"),
        pytest.param(b"gzip;q=2", "identity", id="a weight above 1 is malformed"),
        pytest.param(b"gzip;q=abc, br", "br", id="a malformed member does not count"),
        pytest.param(b"gzip;q=0.1234", "identity", id="four digits are malformed"),
        pytest.param(b",, gzip ,", "gzip", id="empty members"),
        pytest.param(b"gzip;level=9", "identity", id="an unknown parameter is malformed"),
        pytest.param(b"gzip ; q=0.3", "gzip", id="white space around the parameter"),
        pytest.param(b"gzip, gzip;q=0", "gzip", id="the first of two"),
        pytest.param(b"g" * 5000, "identity", id="long junk"),
    ],
)
def test_the_coding_is_chosen_by_weight_and_then_by_order(accept: bytes | None, chosen: str) -> None:
    assert choose_coding(accept, OFFERED) == chosen


def test_only_what_is_offered_is_chosen() -> None:
    assert choose_coding(b"zstd, br, gzip", ("gzip",)) == "gzip"
    assert choose_coding(b"zstd, br", ()) == "identity"


@pytest.mark.parametrize(
    ("coding", "accept", "verdict"),
    [
        ("gzip", None, True),
        ("gzip", b"", False),
        ("identity", b"", True),
        ("identity", b"identity;q=0", False),
        ("identity", b"*;q=0", False),
        ("br", b"gzip, *;q=0.1", True),
        ("br", b"gzip", False),
    ],
)
def test_acceptance_of_one_coding(coding: str, accept: bytes | None, verdict: bool) -> None:
    assert is_accepted(coding, accept) is verdict


def test_weights_are_read_once_for_each_coding() -> None:
    assert accepted_codings(b"gzip;q=0.5, br, gzip") == {"gzip": 0.5, "br": 1.0}


def test_codings_come_in_the_order_of_their_application() -> None:
    assert parse_codings([b"x-gzip, identity", b"BR"]) == ["gzip", "br"]
    assert parse_codings([b"identity"]) == []
