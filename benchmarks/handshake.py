"""What TLS alone costs the server of one connection: OpenSSL between two buffers, without sockets or an event loop.

    python -m benchmarks.handshake
    python -m benchmarks.handshake --seconds 5

The floor of ``tls-cold``: handshake, a request, an answer and the end of a connection with the gateway's own settings,
in microseconds of the server's side. What the client does in between is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.site import make_certificate
from gateway.server.tls import Certificate, Tls, TlsSettings

STEPS = ("hello", "finish", "request", "answer", "close")
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 180\r\nConnection: close\r\n\r\n" + b"x" * 180
READ_BYTES = 16 * 1024


class Side:
    """One end of a connection whose other end takes and gives bytes by hand."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        name = None if is_server else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, is_server, name, session)

    def do(self, step: Callable[[ssl.SSLObject], object], received: bytes) -> bytes:
        """What it sends when it takes a step after ``received``."""
        self.incoming.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            step(self.tls)
        return self.outgoing.read()


def connection(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[list[float], ssl.SSLSession | None]:
    """The seconds of each step of the server, and the session that the client may resume."""
    ours: list[float] = []

    def serve(step: Callable[[ssl.SSLObject], object], received: bytes) -> bytes:
        began = time.perf_counter()
        sent = there.do(step, received)
        ours.append(time.perf_counter() - began)
        return sent

    here = Side(client, session)
    hello = here.do(ssl.SSLObject.do_handshake, b"")
    there = Side(server)
    flight = serve(ssl.SSLObject.do_handshake, hello)
    tickets = serve(ssl.SSLObject.do_handshake, here.do(ssl.SSLObject.do_handshake, flight))
    request = here.do(lambda tls: tls.write(REQUEST), tickets)
    serve(lambda tls: tls.read(READ_BYTES), request)
    answer = serve(lambda tls: tls.write(ANSWER), b"")
    here.do(lambda tls: tls.read(READ_BYTES), answer)
    serve(ssl.SSLObject.unwrap, b"")
    return ours, here.tls.session


def measure(server: ssl.SSLContext, client: ssl.SSLContext, seconds: float, *, resumed: bool) -> list[float]:
    """Microseconds of each step: the lower quartile of many connections, for other work on the machine only adds."""
    session = connection(server, client)[1] if resumed else None
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        found.append(connection(server, client, session)[0])
    return [sorted(step)[len(found) // 4] * 1e6 for step in zip(*found, strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handshake", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (default %(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        made = make_certificate(Path(folder))
        server = Tls(TlsSettings([Certificate(str(made.chain), str(made.key))])).context
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    print(f"{ssl.OPENSSL_VERSION}; microseconds\n{'':10}" + "".join(f"{step:>9}" for step in (*STEPS, "sum")))
    for name, resumed in (("full", False), ("resumed", True)):
        steps = measure(server, client, options.seconds, resumed=resumed)
        print(f"{name:10}" + "".join(f"{step:9.0f}" for step in (*steps, sum(steps))))


if __name__ == "__main__":
    main()
