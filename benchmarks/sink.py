"""An upstream for uploads: ``python -m benchmarks.sink serve PORT``.

It answers when it has all of a body. nginx's short answers do not wait for it, and a proxy that then stops the upload,
as it may, would be measured with a part of the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUFFER = memoryview(bytearray(256 * 1024))
"""Where all connections read to: nobody looks at it twice."""


class Sink(asyncio.BufferedProtocol):
    """Reads bodies with a Content-Length; heads have to come in one piece."""

    def __init__(self) -> None:
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if not self._left:
            head, _, rest = bytes(BUFFER[:nbytes]).partition(b"\r\n\r\n")
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._left, nbytes = int(length or 0), len(rest)
        self._left -= nbytes
        if not self._left:
            self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Answer until told to stop."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(int(sys.argv[2])))


if __name__ == "__main__":
    main()
