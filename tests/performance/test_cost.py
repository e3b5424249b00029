"""What one request may cost. No clock is read: the counts are the same on a busy machine and on a quiet one.

A count that has grown is a request path that has become longer: shorten it again, or say in the commit why it is worth
that and put the new count here. One that has shrunk goes here as well, so that it stays so. The table as it is now:

    python -m tests.performance
"""

from __future__ import annotations

import socket

import pytest

from tests.performance.counting import Count, Counting
from tests.performance.measuring import PATHS, cost

# Python functions called, then system calls: reads, writes, waits for events, others on sockets.
BUDGETS = {
    "request": Count(51, 2, 2, 2, 0),
    "request that differs": Count(73, 2, 2, 2, 0),
    "guarded request": Count(87, 2, 2, 2, 0),
    "request to a sticky upstream": Count(60, 2, 2, 2, 0),
    "request with a body": Count(168, 2, 2, 5, 0),
    "request whose answer is coded": Count(73, 2, 2, 2, 0),
    "request on a connection of its own": Count(78, 3, 2, 5, 10),
    "the same of a client that comes again": Count(63, 3, 2, 5, 10),
    "cache hit": Count(22, 1, 1, 1, 0),
    "cache hit that the client has": Count(25, 1, 1, 1, 0),
    "cache hit, coded": Count(22, 1, 1, 1, 0),
    "cache miss": Count(326, 2, 2, 6, 0),
    "request past the cache": Count(66, 2, 2, 2, 0),
    "WebSocket message through the tunnel": Count(4, 2, 2, 2, 0),
    "WebSocket message that is relayed": Count(94, 2, 2, 4, 2),
    "request under uvicorn": Count(80, 2, 2, 4, 0),
    "cache hit under uvicorn": Count(45, 1, 1, 2, 0),
}

# Versions of Python and of the libraries differ by a call or two; how much a turn of the event loop finds to do depends
# on when the client's bytes come.
SLACK = 0.02
_MORE = {"waits": 1.5}


@pytest.mark.parametrize("name", PATHS)
def test_a_request_costs_no_more_than_its_budget(name: str) -> None:
    found, budget = cost(PATHS[name]), BUDGETS[name]
    over = [
        f"{kind}: {value:.1f} instead of {allowed}"
        for kind, value, allowed in zip(Count._fields, found, budget, strict=True)
        if value > allowed * (1 + SLACK) + _MORE.get(kind, 0.5)
    ]
    assert not over, f"{name}: {'; '.join(over)}; what to do about it says the head of this file"


def test_what_is_called_read_and_written_is_counted() -> None:
    def called() -> None:
        left.send(b"a")
        right.recv(1)

    counting = Counting()
    left, right = socket.socketpair()
    with left, right, counting.running():
        before = counting.read()
        for _ in range(10):
            called()
        found = counting.read() - before
    assert (found.reads, found.writes, found.waits, found.others) == (10, 10, 0, 0)
    assert 10 <= found.calls <= 20
