"""``gateway run`` as a process of its own, on a free port of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.support.gateway import Answer, Client, Fields, request

ROOT = Path(__file__).parents[2]


class Process:
    """A running gateway: what it printed on standard error, and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self, text: str) -> str:
        """Read lines until one has ``text``."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.lines.append(line.rstrip())
            if text in line:
                return line.rstrip()
        raise AssertionError(f"no line with {text!r} in {self.lines}")

    async def ended(self) -> int:
        """Everything it still prints, and its exit status."""
        assert self.process.stderr is not None
        self.lines += (await self.process.stderr.read()).decode().splitlines()
        return await self.process.wait()

    async def connect(self, *, port: int = 0, tls: ssl.SSLContext | None = None, name: str | None = None) -> Client:
        """A connection, by default to the first address."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port or self.port, ssl=tls, server_hostname=(name or "") if tls is not None else None
        )
        return Client(reader, writer)

    async def get(
        self,
        target: bytes = b"/",
        fields: Fields = (),
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
        host: bytes = b"localhost",
    ) -> Answer:
        """The answer to a GET on a connection of its own."""
        client = await self.connect(port=port, tls=tls, name=name)
        try:
            client.write(request("GET", target, [*fields, (b"Connection", b"close")], host=host))
            return await client.answer()
        finally:
            await client.close()

    async def admin(self, target: bytes) -> Answer:
        """The answer of the admin listener on ``${ADMIN_SOCKET}``."""
        return await self.on_socket(
            "admin.sock", request("GET", target, [(b"Connection", b"close")], host=b"localhost")
        )

    async def on_socket(self, name: str, data: bytes) -> Answer:
        """The answer to ``data`` on a UNIX socket of its folder."""
        client = Client(*await asyncio.open_unix_connection(str(self.folder / name)))
        try:
            client.write(data)
            return await client.answer()
        finally:
            await client.close()

    def workers(self) -> set[int]:
        """The processes that serve."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {int(pid) for pid in text.split()}


def environment(folder: Path) -> dict[str, str]:
    """What a process in ``folder`` gets to know."""
    own = {
        "PYTHONPATH": str(ROOT),
        "ADMIN_SOCKET": str(folder / "admin.sock"),
        "PLAIN_SOCKET": str(folder / "plain.sock"),
    }
    return {**os.environ, **own}


@contextlib.asynccontextmanager
async def gateway_process(
    folder: Path,
    config: str,
    *args: str,
    path: str = "routes.toml",
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> AsyncIterator[Process]:
    """Run ``config`` as routes.toml of ``folder``, or the file at ``path``; with ``wait`` until it is ready.

    It may listen on the sockets that ``${ADMIN_SOCKET}`` and ``${PLAIN_SOCKET}`` name.
    """
    (folder / "routes.toml").write_text(config)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "run", path, *args),
        cwd=folder,
        env=environment(folder) | dict(environ or {}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(process, folder)
    try:
        if wait:
            found = re.search(r"://127\.0\.0\.1:([0-9]+)", await running.line("listening on"))
            assert found is not None
            running.port = int(found[1])
        yield running
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.stderr is not None
        await process.stderr.read()
        await process.wait()
