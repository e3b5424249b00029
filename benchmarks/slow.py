"""An upstream that takes its time for /slow: ``python -m benchmarks.slow serve PORT SECONDS``."""

from __future__ import annotations

import asyncio
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Slow(asyncio.Protocol):
    """Answers each read, which is a request: at once, or after a while."""

    delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /slow "):
            asyncio.get_running_loop().call_later(self.delay_s, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    Slow.delay_s = float(sys.argv[3])
    asyncio.run(serve(int(sys.argv[2])))
