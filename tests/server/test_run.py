"""``gateway run`` as a process: start, live reload, signals, end; and what a reload says of its changes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config.addresses import parse_bind
from gateway.config.load import load_config
from gateway.server.reload import differences, with_overrides

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 20.0

SERVER = '[server]\nbind = "127.0.0.1:0"\n'


def table(body: str, server: str = SERVER) -> str:
    return f'{server}\n[[routes]]\nname = "one"\npath = "/"\nrespond = {{ body = "{body}" }}\n'


class Process:
    """A running ``gateway run`` whose standard error is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stderr, selectors.EVENT_READ)
        self._pending = b""

    def close(self) -> None:
        self._selector.close()

    def wait_for(self, text: str, *, count: int = 1) -> str:
        """The ``count``-th line from here on that has ``text``; those before it are dropped."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            while self.lines:
                line = self.lines.pop(0)
                if text in line:
                    count -= 1
                    if not count:
                        return line
            left = end - time.monotonic()
            assert left > 0, f"no line with {text!r}"
            self._read(left)

    def _read(self, timeout: float) -> None:
        assert self.process.stderr is not None
        if self._selector.select(timeout):
            data = os.read(self.process.stderr.fileno(), 65536)
            assert data, f"the process ended: {self.process.wait(TIMEOUT_S)}, {self.lines}"
            *whole, self._pending = (self._pending + data).split(b"\n")
            self.lines += [line.decode() for line in whole]

    def url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:[0-9]+", self.wait_for("listening on"))
        assert found is not None
        return found[0]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        body: bytes = answer.read()
        return body.decode()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def running(folder: Path, *args: str) -> Iterator[Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", *args],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        run = Process(process)
        try:
            yield run
        finally:
            run.close()
            if process.poll() is None:
                process.terminate()
            assert process.wait(TIMEOUT_S) == 0


def replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def test_changes_take_effect_and_broken_files_do_not(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(table("first"))
    with running(tmp_path) as run:
        url = run.url()
        assert get(url) == "first"
        path.write_text(table("in place"))
        assert run.wait_for("reload:").endswith("reload: route changed: one (respond)")
        assert get(url) == "in place"
        replace(path, table("renamed") + '[[routes]]\nname = "two"\npath = "/two"\nrespond = {}\n')
        assert run.wait_for("reload:").endswith("reload: route added: two")
        assert run.wait_for("reload:").endswith("reload: route changed: one (respond)")
        assert get(url) == "renamed"
        replace(path, table("broken").replace("respond", "respnd"))
        assert 'routes.toml:7:1: routes[0].respnd: unknown key (did you mean "respond"?)' in run.wait_for("respnd")
        assert "is not valid: what ran goes on unchanged" in run.wait_for("reload:")
        assert get(url) == "renamed"
        replace(path, table("mended"))
        assert run.wait_for("reload:").endswith("reload: route removed: two")
        assert get(url) == "mended"


def test_a_table_that_cannot_be_built_leaves_the_running_one(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(table("first"))
    with running(tmp_path) as run:
        url = run.url()
        replace(path, table("second") + 'middleware = ["no.such:Thing"]\n')
        assert "no.such" in run.wait_for("ERROR")
        run.wait_for("what ran goes on unchanged")
        assert get(url) == "first"
        replace(path, table("third"))
        run.wait_for("reload: route changed: one")
        assert get(url) == "third"


def test_without_reload_only_sighup_reads_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(table("first"))
    with running(tmp_path, "--no-reload") as run:
        url = run.url()
        path.write_text(table("second"))
        assert get(url) == "first"
        run.signal(signal.SIGHUP)
        run.wait_for("reload: route changed: one")
        assert get(url) == "second"
        run.signal(signal.SIGHUP)
        run.wait_for("reload: nothing changed")


def test_what_the_command_line_says_outlives_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(table("first", '[server]\nbind = "127.0.0.1:1"\nworkers = 7\n'))
    with running(tmp_path, "other.toml", "--bind", "127.0.0.1:0", "--workers", "1") as run:
        url = run.url()
        path.write_text(table("second", '[server]\nbind = "127.0.0.1:2"\nworkers = 9\n'))
        run.wait_for("reload: route changed: one")
        assert get(url) == "second"
        run.signal(signal.SIGHUP)
        assert "nothing changed" in run.wait_for("reload:")


def test_every_worker_reloads(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(table("first"))
    with running(tmp_path, "--workers", "2") as run:
        url = run.url()
        replace(path, table("second"))
        run.wait_for("reload: route changed: one", count=2)
        assert {get(url) for _ in range(8)} == {"second"}
        run.signal(signal.SIGHUP)
        run.wait_for("reload: nothing changed", count=2)


def test_a_worker_that_starts_late_has_what_the_others_have(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(table("first"))
    with running(tmp_path, "--workers", "2", "--no-reload") as run:
        url = run.url()
        path.write_text(table("second"))
        run.signal(signal.SIGHUP)
        first, second = (worker_of(run.wait_for("reload: route changed: one")) for _ in range(2))
        assert first != second
        for worker in (first, second):
            os.kill(worker, signal.SIGKILL)
            run.wait_for(f"worker {worker} ended")
        assert get(url) == "second"


def worker_of(line: str) -> int:
    found = re.search(r"\[([0-9]+)\]", line)
    assert found is not None
    return int(found[1])


def test_the_admin_listener_is_announced_and_answers(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text(table("x") + '[admin]\nbind = "127.0.0.1:0"\n')
    with running(tmp_path) as run:
        _, _, url = run.wait_for("listening on").partition("admin on ")
        assert get(f"{url}/ready") == "ready\n"
        assert "gateway_requests_total" in get(f"{url}/metrics")


def test_warnings_of_the_file_are_said_at_start(tmp_path: Path) -> None:
    never = '[[routes]]\nname = "never"\npath = "/"\nmethods = ["GET"]\npriority = -1\nrespond = {}\n'
    (tmp_path / "routes.toml").write_text(table("x") + never)
    with running(tmp_path) as run:
        assert "warning: the route 'never' is never taken" in run.wait_for("routes.toml:")
        run.wait_for("listening on")


def test_the_application_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'hello'})\n"
    )
    (tmp_path / "routes.toml").write_text(SERVER + '[[routes]]\npath = "/*"\nupstream = "asgi:hello:app"\n')
    with running(tmp_path) as run:
        assert get(run.url()) == "hello"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "text, complaint",
    [
        (SERVER + '[[routes]]\npath = "/"\nupstream = "asgi:no.such:app"\n', "'no.such' cannot be imported"),
        (table("x") + 'middleware = ["no.such:Thing"]\n', "'no.such:Thing'"),
    ],
)
def test_a_start_that_fails_says_why_in_a_line(tmp_path: Path, text: str, complaint: str, workers: str) -> None:
    (tmp_path / "routes.toml").write_text(text)
    command = [sys.executable, "-m", "gateway", "run", "--workers", workers]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gateway: ")


def test_a_port_in_use_is_a_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "routes.toml").write_text(table("x"))
        command = [sys.executable, "-m", "gateway", "run", "--bind", bind]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"gateway: cannot listen on {bind}: address already in use"]


def test_what_the_server_refuses_itself_carries_the_request_id(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text(table("x", SERVER + 'request_id_header = "X-Trace"\n'))
    with running(tmp_path) as gateway:
        host, _, port = gateway.url().removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 ")
    assert b"\r\nx-trace: %b\r\n" % json.loads(body)["request_id"].encode() in head


def changed(**changes: Any) -> Mapping[str, Any]:
    base: dict[str, Any] = {
        "server": {},
        "upstreams": {"a": {"endpoints": ["http://127.0.0.1:1"]}},
        "routes": [
            {"name": "one", "path": "/one", "upstream": "a"},
            {"name": "two", "path": "/two", "respond": {}},
        ],
    }
    return {**base, **changes}


ONE, TWO = changed()["routes"]


@pytest.mark.parametrize(
    "new, lines",
    [
        (changed(), ["nothing changed"]),
        (changed(routes=[TWO, ONE]), ["routes stand in another order"]),
        (changed(routes=[ONE]), ["route removed: two"]),
        (
            changed(routes=[ONE, TWO, {**TWO, "name": "x", "path": "/x"}, {**TWO, "name": "y", "path": "/y"}]),
            ["routes added: x, y"],
        ),
        (changed(routes=[{**ONE, "timeout": "1s"}, TWO]), ["route changed: one (timeout)"]),
        (changed(defaults={"timeout": "1s"}), ["routes changed: one (timeout), two (timeout)"]),
        (changed(upstreams={"a": {"endpoints": ["http://127.0.0.1:2"]}}), ["upstream changed: a (endpoints)"]),
        (
            changed(routes=[{**ONE, "upstream": "http://127.0.0.1:9"}, TWO]),
            ["upstream added: http://127.0.0.1:9", "route changed: one (upstream)"],
        ),
        (changed(server={"trusted_proxies": ["10.0.0.0/8"]}), ["changed: server.trusted_proxies"]),
        (
            changed(server={"bind": "127.0.0.1:1", "access_log": "off", "via": "x"}),
            ["changed: server.via", "takes effect with the next start only: server.bind, server.access_log"],
        ),
        (
            changed(server={"limits": {"keep_alive": "1s"}}),
            ["takes effect with the next start only: server.limits.keep_alive"],
        ),
        (
            changed(server={"limits": {"max_body": "1MiB"}}),
            ["routes changed: one (max_body), two (max_body)", "changed: server.limits.max_body"],
        ),
        (
            changed(admin={"bind": "127.0.0.1:1"}, cache={"max_size": "1MiB"}),
            ["takes effect with the next start only: admin, cache"],
        ),
    ],
)
def test_a_reload_says_what_changed(new: Mapping[str, Any], lines: list[str]) -> None:
    assert differences(load_config(changed()), load_config(new)) == lines


def test_overrides_stand_in_for_keys_of_the_server() -> None:
    config = load_config(changed(server={"workers": 4, "access_log": "json"}))
    bind = (parse_bind("127.0.0.1:9"),)
    overridden = with_overrides(config, {"bind": bind, "workers": 1})
    assert (overridden.server.bind, overridden.server.workers) == (bind, 1)
    assert overridden.server.access_log == "json"
    assert with_overrides(config, {}) is config
