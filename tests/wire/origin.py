"""A server that answers with its name, and hangs or refuses when told to: ``python -m tests.wire.origin A PORT``."""

from __future__ import annotations

import asyncio
import sys


class Origin:
    """``POST /control/ok``, ``/control/hang`` and ``/control/503`` say how it goes on."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.mode = b"ok"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other, each in one write: no client need see half of one when this is killed."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            target = head.split(b" ", 2)[1]
            status = b"200 OK"
            if target.startswith(b"/control/"):
                self.mode = target.removeprefix(b"/control/")
            elif self.mode == b"hang":
                await asyncio.sleep(3600)
            elif self.mode == b"503":
                status = b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(self.name), self.name))


async def _main(name: str, port: int) -> None:
    server = await asyncio.start_server(Origin(name).serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
