"""Two workers behind one port: death, reload, rolling restart, sums of metrics, drain, and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.edge.process import Process, environment, gateway_process
from tests.support.gateway import Client, request
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SERVER = '[server]\nbind = "127.0.0.1:0"\naccess_log = "off"\nshutdown_timeout = "20s"\n'
ADMIN = '[admin]\nbind = "unix:${ADMIN_SOCKET}"\n'


def table(body: str = "ok", upstream: str = "") -> str:
    proxied = f'[[routes]]\npath = "/proxied"\nupstream = "{upstream}"\n' if upstream else ""
    return f'{SERVER}{ADMIN}[[routes]]\npath = "/"\nrespond = {{ body = "{body}" }}\n{proxied}'


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.02)


def requests_counted(metrics: bytes) -> float:
    found = re.findall(rb"^gateway_requests_total\{[^}]*\} ([0-9.]+)$", metrics, re.MULTILINE)
    return sum(float(value) for value in found)


async def counted(gateway: Process, expected: int) -> bool:
    """Whether so many requests are counted by whichever worker is asked."""
    return {requests_counted((await gateway.admin(b"/metrics")).body) for _ in range(12)} == {expected}


async def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, table(), "--workers", "2") as gateway:
        before = gateway.workers()
        assert len(before) == 2
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        await gateway.line(f"worker {victim} ended with status -9")

        async def replaced() -> bool:
            return len(gateway.workers()) == 2 and victim not in gateway.workers()

        await eventually(replaced)
        for _ in range(20):
            assert (await gateway.get()).body == b"ok"
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert not any("Traceback" in line for line in gateway.lines)


async def test_a_worker_that_replaces_a_dead_one_has_the_table_of_now(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, table("old"), "--workers", "2", "--no-reload") as gateway:
        (tmp_path / "routes.toml").write_text(table("new"))
        victims = gateway.workers()
        gateway.process.send_signal(signal.SIGHUP)
        for _ in victims:
            await gateway.line("reload:")
        os.kill(min(victims), signal.SIGKILL)

        async def replaced() -> bool:
            return len(gateway.workers()) == 2 and min(victims) not in gateway.workers()

        await eventually(replaced)
        assert {(await gateway.get()).body for _ in range(40)} == {b"new"}


async def test_a_stop_in_the_middle_of_a_rolling_restart_is_an_orderly_end(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, table(), "--workers", "2") as gateway:
        before = gateway.workers()
        gateway.process.send_signal(signal.SIGUSR2)

        async def rolling() -> bool:
            return bool(gateway.workers() - before)

        await eventually(rolling)
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert not any("ERROR" in line or "Traceback" in line for line in gateway.lines), gateway.lines


async def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(respond(response(200, body=b"hello"))) as upstream,
        gateway_process(tmp_path, table(upstream=upstream.url), "--workers", "2") as gateway,
    ):
        before = gateway.workers()
        stop = asyncio.Event()
        counts = [0, 0]
        failures: list[str] = []

        async def new_connections() -> None:
            while not stop.is_set():
                try:
                    answer = await gateway.get(b"/proxied")
                    assert (answer.status, answer.body) == (200, b"hello")
                    counts[0] += 1
                except (AssertionError, OSError, asyncio.IncompleteReadError) as error:
                    failures.append(f"new: {error!r}")

        async def kept_connection() -> None:
            client: Client | None = None
            while not stop.is_set():
                try:
                    client = client or await gateway.connect()
                    client.write(request("GET", b"/proxied", host=b"a"))
                    answer = await client.answer()
                    assert (answer.status, answer.body) == (200, b"hello")
                    counts[1] += 1
                    if not answer.keeps_alive:
                        await client.close()
                        client = None
                except (AssertionError, OSError, asyncio.IncompleteReadError) as error:
                    failures.append(f"kept: {error!r}")
                    client = None
            if client is not None:
                await client.close()

        users = [asyncio.create_task(user()) for user in [new_connections] * 3 + [kept_connection] * 3]
        for _ in range(2):
            old = gateway.workers()
            gateway.process.send_signal(signal.SIGUSR2)

            async def rolled(old: set[int] = old) -> bool:
                return len(gateway.workers()) == 2 and not gateway.workers() & old

            await eventually(rolled)
            # The admin address answers for those that go on, whoever is being retired.
            assert (await gateway.admin(b"/ready")).status == 200
        stop.set()
        await asyncio.gather(*users)
        assert not failures, failures[:5]
        assert not gateway.workers() & before
        assert min(counts) > 20
        print(f"{counts[0]} requests on new connections, {counts[1]} on kept ones, none failed")


async def test_ready_stays_200_while_a_retired_worker_finishes(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def held(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
        await go_on.wait()
        await connection.send(b"ended")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(held) as upstream,
        gateway_process(tmp_path, table(upstream=upstream.url), "--workers", "2") as gateway,
    ):
        client = await gateway.connect()
        client.write(request("GET", b"/proxied", host=b"a"))
        answer = await client.head()
        old = gateway.workers()
        gateway.process.send_signal(signal.SIGUSR2)

        async def retired() -> bool:
            # Two new ones, and the old one that is not done.
            return len(gateway.workers() - old) == 2 and len(gateway.workers()) == 3

        await eventually(retired)
        for _ in range(20):
            assert (await gateway.admin(b"/ready")).status == 200
            assert (await gateway.get()).status == 200
        go_on.set()
        await client.finish(answer)
        assert (answer.body, answer.complete) == (b"begunended", True)
        await client.close()

        async def ended() -> bool:
            return len(gateway.workers()) == 2

        await eventually(ended)


async def test_the_admin_listener_adds_up_both_workers(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, table(), "--workers", "2") as gateway:
        for _ in range(100):
            assert (await gateway.get()).status == 200

        # Whichever worker answers knows of the other, up to a second later.
        await eventually(lambda: counted(gateway, 100))
        victim = min(gateway.workers())
        os.kill(victim, signal.SIGKILL)
        await gateway.line(f"worker {victim} ended")
        for _ in range(50):
            assert (await gateway.get()).status == 200

        # What the dead one had counted stays counted.
        await eventually(lambda: counted(gateway, 150))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_draining_is_not_ready_and_refuses_connections(tmp_path: Path, workers: str) -> None:
    go_on = asyncio.Event()

    async def held(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
        await go_on.wait()
        await connection.send(b"ended")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(held) as upstream,
        gateway_process(tmp_path, table(upstream=upstream.url), "--workers", workers) as gateway,
    ):
        # One to each worker, as far as chance has it: none of them may end before the test has looked.
        clients = [await gateway.connect() for _ in range(16)]
        answers = []
        for client in clients:
            client.write(request("GET", b"/proxied", host=b"a"))
            answers.append(await client.head())
        assert (await gateway.admin(b"/ready")).status == 200
        gateway.process.send_signal(signal.SIGTERM)

        async def refused() -> bool:
            try:
                client = await gateway.connect()
            except ConnectionRefusedError:
                return True
            client.leave()
            return False

        await eventually(refused)
        for _ in range(10):
            answer = await gateway.admin(b"/ready")
            assert (answer.status, answer.value(b"retry-after")) == (503, b"1")
            assert (await gateway.admin(b"/live")).status == 200
        go_on.set()
        for client, answer in zip(clients, answers, strict=True):
            await client.finish(answer)
            assert (answer.body, answer.complete) == (b"begunended", True)
            await client.close()
        assert await gateway.ended() == 0
        assert not any("Traceback" in line for line in gateway.lines)


class Notified:
    """What systemd would be told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    async def next(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 4096), 30)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_systemd_is_told(tmp_path: Path, workers: str) -> None:
    with contextlib.closing(Notified(tmp_path)) as notified:
        environ = {"NOTIFY_SOCKET": str(notified.path)}
        async with gateway_process(tmp_path, table(), "--workers", workers, environ=environ) as gateway:
            assert await notified.next() == b"READY=1"
            gateway.process.send_signal(signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", await notified.next())
            assert await notified.next() == b"READY=1"
            gateway.process.send_signal(signal.SIGTERM)
            assert await notified.next() == b"STOPPING=1"
            assert await gateway.ended() == 0


async def test_sockets_of_systemd_take_the_place_of_bind(tmp_path: Path) -> None:
    """Both workers serve a socket that was opened before, and it is open after they have ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (tmp_path / "routes.toml").write_text(table())
        starter = (
            "import os, sys\n"
            f"os.dup2({listener.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'gateway', 'run', '--workers', '2'])\n"
        )
        (tmp_path / "start.py").write_text(starter)
        gateway = await started(tmp_path, listener.fileno())
        try:
            assert str(port) in await gateway.line("listening on")
            gateway.port = port
            assert (await gateway.get()).body == b"ok"
            gateway.process.send_signal(signal.SIGTERM)
            assert await gateway.ended() == 0
        finally:
            if gateway.process.returncode is None:
                gateway.process.kill()
                await gateway.ended()
        (await gateway.connect()).leave()


async def started(folder: Path, fd: int) -> Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "start.py"),
        cwd=folder,
        env=environment(folder),
        pass_fds=[fd],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return Process(process, folder)
