"""Which failures may be followed by another attempt, and how soon."""

from __future__ import annotations

import random

import pytest

from gateway.errors import (
    BadUpstreamResponse,
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    UpstreamAppFailed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.proxy.retry import NO_RETRY, RetryPolicy, conditions

ALL = RetryPolicy()


@pytest.mark.parametrize(
    ("error", "method", "allowed"),
    [
        (ConnectFailed(), "GET", True),
        (ConnectFailed(), "POST", True),
        (ConnectTimeout(), "POST", True),
        (ConnectionBroken(), "GET", True),
        (ConnectionBroken(), "POST", False),
        (ConnectionBroken(request_sent=False), "POST", True),
        (UpstreamTimeout(), "PUT", True),
        (UpstreamTimeout(), "PATCH", False),
        (UpstreamAppFailed(), "GET", True),
        (UpstreamAppFailed(), "POST", False),
        (BadUpstreamResponse(), "GET", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, UpstreamError) else str(value),
)
def test_a_failure_may_be_followed_by_another_attempt(error: UpstreamError, method: str, allowed: bool) -> None:
    assert ALL.allows_error(error, method) is allowed


@pytest.mark.parametrize(
    ("on", "error", "allowed"),
    [
        (["reset"], ConnectFailed(), False),
        (["connect"], ConnectTimeout(), False),
        (["timeout"], ConnectTimeout(), True),
        (["timeout"], UpstreamTimeout(), True),
        (["connect"], ConnectionBroken(), False),
        ([502], ConnectFailed(), False),
    ],
)
def test_only_what_the_route_names(on: list[str | int], error: UpstreamError, allowed: bool) -> None:
    assert RetryPolicy(on=conditions(on)).allows_error(error, "GET") is allowed


def test_without_retry_only_what_was_never_sent_goes_on() -> None:
    assert NO_RETRY.allows_error(ConnectFailed(), "POST")
    assert not NO_RETRY.allows_error(ConnectionBroken(), "GET")
    assert not NO_RETRY.allows_status(503, "GET")


def test_a_status_counts_for_methods_that_may_be_repeated() -> None:
    assert ALL.allows_status(503, "GET")
    assert not ALL.allows_status(503, "POST")
    assert not ALL.allows_status(500, "GET")


def test_the_delay_doubles_up_to_a_second_with_jitter() -> None:
    policy, rng = RetryPolicy(backoff_s=0.1), random.Random(1)
    for number, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (60, 1.0)):
        delays = [policy.delay_s(number, rng) for _ in range(100)]
        assert bound / 2 <= min(delays) <= max(delays) <= bound
        assert len(set(delays)) > 1


@pytest.mark.parametrize(
    ("retry_after", "at_least_s"),
    [(b"1", 1.0), (b"0", 0.0), (b"2", 0.0), (b"9999", 0.0), (b"Wed, 21 Oct 2026 07:28:00 GMT", 0.0), (None, 0.0)],
)
def test_a_short_retry_after_is_honoured_and_a_long_one_is_not_waited_for(
    retry_after: bytes | None, at_least_s: float
) -> None:
    delay = RetryPolicy(backoff_s=0.01).delay_s(1, random.Random(1), retry_after)
    assert at_least_s <= delay <= max(at_least_s, 0.01)


def test_an_unknown_condition_is_an_error() -> None:
    assert conditions(["connect", 503]) == frozenset(["connect", 503])
    with pytest.raises(ValueError, match="conect"):
        conditions(["conect"])
