"""One client that asks for / again and again: python -m tests.edge.steady PORT SECONDS. Prints what it saw as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main(port: int, seconds: float) -> None:
    times: list[float] = []
    failures = 0
    connection: socket.socket | None = None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), 10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(REQUEST)
            answer = connection.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(answer[:100])
        except OSError:
            failures += 1
            connection = None
            continue
        times.append(time.perf_counter() - started)
        time.sleep(0.001)
    if connection is not None:
        connection.close()
    times.sort()
    at = {f"p{share}_ms": round(times[len(times) * share // 100] * 1000, 3) for share in (50, 99)} if times else {}
    print(json.dumps({"count": len(times), "failures": failures, **at}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
