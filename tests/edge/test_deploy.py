"""The examples of deployment: their tables are valid, their units and manifests say what the gateway needs."""

from __future__ import annotations

import asyncio
import configparser
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.edge.process import Process, environment

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


def test_the_table_of_compose_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://redis:6379/0")
    done = CliRunner().invoke(main, ["check", str(DEPLOY / "routes.toml")])
    assert done.exit_code == 0, done.output
    assert "warning" not in done.output


def test_the_table_of_kubernetes_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = (DEPLOY / "kubernetes" / "gateway.yaml").read_text()
    table = textwrap.dedent(manifest.partition("routes.toml: |\n")[2].partition("\n---")[0])
    monkeypatch.setenv("ADMIN_TOKEN", "secret")
    path = tmp_path / "routes.toml"
    path.write_text(table)
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/gateway.yaml"])
def test_manifests_are_yaml(name: str) -> None:
    yaml: Any = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text()))
    assert all(isinstance(document, dict) for document in documents)
    if name == "compose.yaml":
        assert {"gateway-1", "gateway-2", "redis", "shop"} <= set(documents[0]["services"])
    else:
        assert [document["kind"] for document in documents] == ["ConfigMap", "Deployment", "Service"]


def seconds(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def test_every_way_of_stopping_waits_longer_than_the_drain() -> None:
    drain_s = 30
    for name, pattern, extra_s in [
        ("compose.yaml", r"stop_grace_period: (\w+)", 0),
        ("kubernetes/gateway.yaml", r"terminationGracePeriodSeconds: (\d+)", 5),
        ("gateway.service", r"TimeoutStopSec=(\d+)", 0),
    ]:
        found = re.search(pattern, (DEPLOY / name).read_text())
        assert found is not None
        assert seconds(found[1]) > drain_s + extra_s, name


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


def test_the_unit_starts_what_the_command_line_has() -> None:
    service = unit("gateway.service")["Service"]
    program, command, config = shlex.split(service["ExecStart"])
    assert (Path(program).name, command, config) == ("gateway", "run", "/etc/gateway/routes.toml")
    assert command in main.commands
    assert service["Type"] == "notify-reload"
    assert "ExecReload" not in service, "it would be a second SIGHUP"
    # Twice max_connections and some, as the gateway asks for.
    assert int(service["LimitNOFILE"]) >= 2 * 10_000 + 256
    assert unit("gateway.socket")["Socket"]["ListenStream"]


def test_the_image_runs_the_same_program() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["/opt/gateway/bin/gateway"]' in lines
    assert 'CMD ["run", "/etc/gateway/routes.toml", "--bind", "0.0.0.0:8080"]' in lines
    assert re.search(r"^USER [1-9][0-9]*$", lines, re.MULTILINE)


WITHOUT_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
os.execv(sys.executable, [sys.executable, "-m", "gateway", "run", "--workers", sys.argv[1]])
"""


@pytest.mark.anyio
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_read_only_file_system_is_enough_for_one_worker(tmp_path: Path, workers: str) -> None:
    table = '[server]\nbind = "127.0.0.1:0"\naccess_log = "off"\n[[routes]]\npath = "/"\nrespond = {}\n'
    (tmp_path / "routes.toml").write_text(table)
    # What coverage has in a process writes files too.
    env = {name: value for name, value in environment(tmp_path).items() if not name.startswith("COVERAGE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_FILES, workers),
        cwd=tmp_path,
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    gateway = Process(process, tmp_path)
    if workers == "1":
        await gateway.line("listening on")
        process.terminate()
        assert await gateway.ended() == 0
    else:
        assert await gateway.ended() == 1
        assert gateway.lines[-1].startswith("gateway: several workers need a folder for temporary files: ")
        assert not any("Traceback" in line for line in gateway.lines)
