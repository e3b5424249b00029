"""Heads that somebody has made to hold the event loop are judged in time that grows with their length alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gateway.errors import BadRequest, BadUpstreamResponse
from gateway.http.forwarded import has_via
from gateway.server.framing import HeadReader
from gateway.upstream.http1_head import HeadParser

MUCH_S = 1.0
"""Of this thread's CPU. Each takes a millisecond, or seconds where a pattern tries one part after another."""


def seconds_of(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


def reader() -> HeadReader:
    return HeadReader(max_header_bytes=32 * 1024, max_headers=100, max_target_bytes=8 * 1024)


def refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        reader().read(head)


def test_a_short_transfer_encoding_is_judged_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %bx\r\n\r\n" % (b"a;  ," * 18)
    assert seconds_of(lambda: refused(head)) < MUCH_S


def test_a_long_transfer_encoding_is_judged_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: a;%bx\r\n\r\n" % (b" " * 32_000)
    assert seconds_of(lambda: refused(head)) < MUCH_S


def test_a_malformed_line_of_blanks_is_judged_at_once() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX:%b\x01\r\n\r\n" % (b" " * 32_000)
    assert seconds_of(lambda: refused(head)) < MUCH_S


def test_a_malformed_line_of_blanks_from_an_upstream_is_judged_at_once() -> None:
    def parse() -> None:
        with pytest.raises(BadUpstreamResponse):
            HeadParser().parse(b"HTTP/1.1 200 OK\r\nX:%b\x01\r\n" % (b" " * 60_000))

    assert seconds_of(parse) < MUCH_S


def test_comments_in_via_are_read_at_once() -> None:
    assert seconds_of(lambda: has_via([(b"via", b"1.1 gw " + b"\\(" * 16_000)], "gw")) < MUCH_S
