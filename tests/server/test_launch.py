"""The service as a process: addresses, signals, workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
import websockets

from tests.server.serving import Client, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    # The service has a loop of its own.
    return "asyncio"


class Service:
    """A running service: what it printed, and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = ""

    async def line(self, beginning: str) -> str:
        """Read lines until one begins so."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.lines.append(line.rstrip())
            if line.startswith(beginning):
                return line.rstrip()
        raise AssertionError(f"no line {beginning!r} in {self.lines}")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def get(self, path: str) -> str:
        client = await self.connect()
        client.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await client.rest()
        await client.close()
        return answer.partition(b"\r\n\r\n")[2].decode()

    async def ended(self) -> int:
        """Everything it still prints, and its exit status."""
        assert self.process.stdout is not None
        self.lines += (await self.process.stdout.read()).decode().splitlines()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def running(workers: int, bind: str = "127.0.0.1:0", *options: str, wait: bool = True) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.server.service", str(workers), bind, *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    service = Service(process)
    try:
        if wait:
            service.address = (await service.line("ready")).split()[1]
        yield service
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            assert process.stdout is not None
            await process.stdout.read()
            await process.wait()


async def test_sigterm_drains_and_ends_cleanly() -> None:
    async with running(1, "127.0.0.1:0", "patient") as service:
        idle, busy = await service.connect(), await service.connect()
        busy.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await busy.head()
        service.process.send_signal(signal.SIGTERM)
        assert await idle.rest() == b""
        assert b"ended" in await busy.rest()
        with pytest.raises(ConnectionRefusedError):
            await service.connect()
        assert await service.ended() == 0
        assert [line for line in service.lines if "over" in line] == ["beside over", "lifespan over", "over"]
        assert not any("Traceback" in line for line in service.lines)
        await idle.close()
        await busy.close()


async def test_what_does_not_end_in_time_is_cut() -> None:
    async with running(1) as service:
        client = await service.connect()
        client.write(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        service.process.send_signal(signal.SIGTERM)
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert await service.ended() == 0
        await client.close()


async def test_second_signal_cuts_at_once() -> None:
    async with running(1, "127.0.0.1:0", "patient") as service:
        idle, client = await service.connect(), await service.connect()
        client.write(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        service.process.send_signal(signal.SIGINT)
        assert await idle.rest() == b""
        service.process.send_signal(signal.SIGINT)
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert await service.ended() == 0
        await client.close()
        await idle.close()


async def test_websockets_are_told_1001() -> None:
    async with running(1) as service, websockets.connect(f"ws://127.0.0.1:{service.port}/") as client:
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1001
        assert await service.ended() == 0


async def test_sighup_reloads() -> None:
    async with running(1) as service:
        service.process.send_signal(signal.SIGHUP)
        await service.line("reloaded")
        assert await service.get("/reloads") == "1"


async def test_port_in_use_is_one_line_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(1, f"127.0.0.1:{port}", wait=False) as service:
            assert await service.ended() == 1
    assert f"failed: cannot listen on 127.0.0.1:{port}: address already in use" in service.lines
    assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize("workers", [1, 2])
async def test_application_that_does_not_start_ends_the_service(workers: int) -> None:
    async with running(workers, "127.0.0.1:0", "fails", wait=False) as service:
        assert await service.ended() == 1
    assert any("it fails" in line for line in service.lines)
    assert any(line.startswith("failed: ") for line in service.lines)


async def test_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    async with running(1, f"unix:{path}") as service:
        assert service.address == f"unix:{path}"
        client = Client(*await asyncio.open_unix_connection(str(path)))
        client.write(b"GET /pid HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.rest()).endswith(str(service.process.pid).encode())
        await client.close()
        side = Client(*await asyncio.open_unix_connection(f"{path}.side"))
        side.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await side.rest()).endswith(b"\r\n\r\nside")
        await side.close()
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
    assert not path.exists()


def write_certificate(folder: Path) -> str:
    """A new certificate in ``folder``, as PEM."""
    made = trustme.CA().issue_cert("localhost")
    made.private_key_pem.write_to_path(str(folder / "a.key"))
    made.cert_chain_pems[0].write_to_path(str(folder / "a.pem"))
    return (folder / "a.pem").read_text()


async def test_certificates_are_swapped_when_their_files_change(tmp_path: Path) -> None:
    first = write_certificate(tmp_path)
    async with running(1, "127.0.0.1:0", "tls", str(tmp_path)) as service:
        assert service.address.startswith("https://")

        async def shown() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", service.port))

        assert ssl.PEM_cert_to_DER_cert(await shown()) == ssl.PEM_cert_to_DER_cert(first)
        # The watch begins when the service is ready: the files may change more than once before it sees one.
        for _ in range(200):
            last = write_certificate(tmp_path)
            await asyncio.sleep(0.3)
            if ssl.PEM_cert_to_DER_cert(await shown()) == ssl.PEM_cert_to_DER_cert(last):
                break
        else:
            raise AssertionError("the old certificate stays")


async def test_workers_share_the_port_the_pseudonym_and_the_signals() -> None:
    async with running(2) as service:
        pids = set()
        for _ in range(200):
            pids.add(await service.get("/pid"))
            if len(pids) == 2:
                break
        assert str(service.process.pid) not in pids
        assert len({await service.get("/via") for _ in range(8)}) == 1
        service.process.send_signal(signal.SIGHUP)
        reloaded = {(await service.line("reloaded")).split()[1] for _ in range(2)}
        assert pids <= reloaded
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
        assert service.lines[-1] == "over"


async def test_dead_worker_is_replaced() -> None:
    async with running(2) as service:
        victim = int(await service.get("/pid"))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{victim}").exists())
        for _ in range(20):
            assert int(await service.get("/pid")) != victim


async def test_sigusr2_replaces_the_workers_without_losing_a_request() -> None:
    async with running(2) as service:
        service.process.send_signal(signal.SIGHUP)
        old = {(await service.line("reloaded")).split()[1] for _ in range(2)}
        service.process.send_signal(signal.SIGUSR2)
        answers = []
        for _ in range(20_000):
            answers.append(await service.get("/pid"))
            if len(set(answers) - old) == 2 and not set(answers[-20:]) & old:
                break
            await asyncio.sleep(0.005)
        assert all(answers)
        assert len(set(answers) - old) == 2


async def test_workers_end_with_their_supervisor() -> None:
    async with running(2) as service:
        service.process.send_signal(signal.SIGHUP)
        pids = [(await service.line("reloaded")).split()[1] for _ in range(2)]
        service.process.kill()
        await until(lambda: not any(_is_alive(pid) for pid in pids))


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
