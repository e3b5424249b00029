"""A start that cannot be is one clear line and exit status 1, with one worker and with several, never a traceback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.edge.process import gateway_process

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SERVER = '[server]\nbind = "127.0.0.1:0"\n'
ROUTE = '[[routes]]\npath = "/"\n'
OK = ROUTE + "respond = {}\n"


@dataclass(frozen=True)
class BadStart:
    config: str
    complaint: str
    path: str = "routes.toml"


def tls(cert: str, key: str, more: str = "") -> str:
    return f'{SERVER}[server.tls]\ncertificates = [{{ cert = "{cert}", key = "{key}" }}]\n{more}{OK}'


BAD_STARTS = {
    "no such host to listen on": BadStart(
        '[server]\nbind = "no-such-host.invalid:80"\n' + OK, "cannot listen on no-such-host.invalid:80"
    ),
    "an address that is not here": BadStart('[server]\nbind = "192.0.2.1:0"\n' + OK, "cannot listen on 192.0.2.1:0"),
    "a folder that does not exist": BadStart(
        '[server]\nbind = "unix:/no/such/folder/gw.sock"\n' + OK, "cannot listen on unix:/no/such/folder/gw.sock"
    ),
    "a missing file": BadStart(SERVER + OK, "no-such.toml: no such file", path="no-such.toml"),
    "no TOML": BadStart("[server\n", "routes.toml:1"),
    "an unknown key": BadStart(SERVER + "wrokers = 2\n" + OK, "routes.toml:3:1: server.wrokers: unknown key"),
    "an unknown upstream": BadStart(SERVER + ROUTE + 'upstream = "shop"\n', 'no upstream named "shop"'),
    "a missing certificate": BadStart(tls("no.pem", "good.key"), 'no.pem": no such file'),
    "a missing key": BadStart(tls("good.pem", "no.key"), 'no.key": no such file'),
    "a certificate that is none": BadStart(tls("junk", "good.key"), "no usable certificate"),
    "a key that is none": BadStart(tls("good.pem", "junk"), "no usable private key"),
    "the key of another certificate": BadStart(tls("good.pem", "other.key"), 'other.key" is not the key of '),
    "an authority that is none": BadStart(
        tls("good.pem", "good.key", 'client_auth = "require"\nclient_ca = "junk"\n'), 'junk" has no usable certificate'
    ),
    "client certificates without an authority": BadStart(
        tls("good.pem", "good.key", 'client_auth = "require"\n'), "client_ca"
    ),
    "a middleware that cannot be imported": BadStart(SERVER + OK + 'middleware = ["no_such:Thing"]\n', "no_such:Thing"),
    "a middleware that its module does not have": BadStart(
        SERVER + OK + 'middleware = ["apps:Missing"]\n', "apps:Missing"
    ),
    "a middleware whose module fails": BadStart(SERVER + OK + 'middleware = ["fails:Thing"]\n', "fails:Thing"),
    "a middleware that refuses its arguments": BadStart(
        SERVER + OK + 'middleware = [{ use = "apps:Picky", args = { a = 1 } }]\n', "apps:Picky"
    ),
    "an application that cannot be imported": BadStart(SERVER + ROUTE + 'upstream = "asgi:no_such:app"\n', "no_such"),
    "an application that its module does not have": BadStart(
        SERVER + ROUTE + 'upstream = "asgi:apps:missing"\n', "apps"
    ),
    "an application whose module fails": BadStart(SERVER + ROUTE + 'upstream = "asgi:fails:app"\n', "fails"),
    "an application that says its start failed": BadStart(
        SERVER + ROUTE + 'upstream = "asgi:apps:refusing"\n', "the database is away"
    ),
    "an application that raises at its start": BadStart(SERVER + ROUTE + 'upstream = "asgi:apps:raising"\n', "apps"),
}

APPS = """
async def refusing(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is away"})

async def raising(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "half way"})
        raise ValueError("at its start")

class Picky:
    def __init__(self, app):
        self.app = app
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    for name in ("good", "other"):
        made = authority.issue_cert("localhost")
        made.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        made.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    (tmp_path / "junk").write_text("junk\n")
    (tmp_path / "apps.py").write_text(APPS)
    (tmp_path / "fails.py").write_text('raise RuntimeError("not today")\n')
    return tmp_path


@contextlib.contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def complaint_of(folder: Path, config: str, *args: str, path: str = "routes.toml") -> list[str]:
    async with gateway_process(folder, config, *args, path=path, wait=False) as gateway:
        assert await gateway.ended() == 1, gateway.lines
    assert not any("Traceback" in line for line in gateway.lines), gateway.lines
    assert not any("listening on" in line for line in gateway.lines)
    assert len(gateway.lines) <= 3, gateway.lines
    return gateway.lines


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("start", BAD_STARTS.values(), ids=BAD_STARTS.keys())
async def test_a_bad_start_is_a_clear_line(folder: Path, start: BadStart, workers: str) -> None:
    lines = await complaint_of(folder, start.config, "--workers", workers, path=start.path)
    assert any(start.complaint in line for line in lines), lines


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("place", ["main", "admin", "redirect"])
async def test_a_port_in_use_is_a_clear_line(folder: Path, place: str, workers: str) -> None:
    with taken() as port:
        config = {
            "main": f'[server]\nbind = "127.0.0.1:{port}"\n' + OK,
            "admin": f'{SERVER}[admin]\nbind = "127.0.0.1:{port}"\n{OK}',
            "redirect": tls("good.pem", "good.key", f'redirect_from = "127.0.0.1:{port}"\n'),
        }[place]
        lines = await complaint_of(folder, config, "--workers", workers)
    assert lines == [f"gateway: cannot listen on 127.0.0.1:{port}: address already in use"]
