"""Memory stays as it is over very many requests of every kind."""

from __future__ import annotations

import itertools
import socket
import threading
from pathlib import Path

import pytest

from tests.performance.measuring import another, same, stored, upload
from tests.performance.peers import answer, serving
from tests.wire.processes import gateway_process

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

CLIENTS = 8
# What is remembered, of what comes again and of answers, and what waits for a collection of garbage, has its size after
# six.
ROUNDS = 11
WARM_UP_ROUNDS = 6
REQUESTS_A_ROUND = 40_000
# Of the other 200,000 requests not one in three may leave an object behind.
LIMIT_BYTES = 4 * 1024**2

CONFIG = """
[server]
bind = "127.0.0.1:0"
[cache]
max_size = "1MiB"
[[routes]]
path = "/*"
upstream = "{url}"
response_headers = {{ set = {{ X-Served-By = "gateway" }} }}
compress = true
[[routes]]
path = "/cached"
upstream = "{url}"
cache = true
"""


def leave(connection: socket.socket, number: int) -> None:
    """Ask, and be gone before the answer."""
    connection.sendall(b"GET /items/%d HTTP/1.1\r\nHost: example.com\r\n\r\n" % number)
    connection.close()


def nonsense(connection: socket.socket, number: int) -> None:
    """A request that is refused, and its connection with it."""
    connection.sendall(b"GET /%d\r\nHost: example.com\r\n\r\n" % number)
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    connection.close()


MIX = (same, another, another, stored, stored, upload, another, leave, another, nonsense)


def ask(port: int, numbers: itertools.count[int], count: int, failures: list[BaseException]) -> None:
    """Ask ``count`` times, each time in the next way of the mix."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        for way in itertools.islice(itertools.cycle(MIX), count):
            way(connection, next(numbers))
            if connection.fileno() < 0:
                connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.close()
    except BaseException as failure:
        failures.append(failure)
        raise


def test_memory_is_flat_over_hundreds_of_thousands_of_requests(tmp_path: Path) -> None:
    numbers = itertools.count()
    failures: list[BaseException] = []
    sizes: list[int] = []
    with serving(answer) as url, gateway_process(CONFIG.format(url=url), tmp_path) as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as first:
            stored(first, next(numbers))
        for _ in range(ROUNDS):
            threads = [
                threading.Thread(target=ask, args=(port, numbers, REQUESTS_A_ROUND // CLIENTS, failures))
                for _ in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures
            sizes.append(process.rss_bytes())
    print("\nMiB after each round:", *(f"{size / 1024**2:.1f}" for size in sizes))
    assert max(sizes[WARM_UP_ROUNDS:]) - sizes[WARM_UP_ROUNDS - 1] < LIMIT_BYTES
