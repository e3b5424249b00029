"""What the documentation shows is true: tables load, code runs, commands print what stands below them."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from gateway import Gateway
from gateway.cli import main
from gateway.config.load import load_config
from gateway.config.server import ServerConfig
from gateway.exchange import Attempt, Exchange
from gateway.middleware.access_log import json_line, text_line
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("routing", "caching", "embedding", "operations")),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def cases(language: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in OWN
        for number, text in enumerate(blocks(page, language), 1)
    ]


def test_the_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import generate, sys; sys.stdout.write(generate.reference())"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "configuration.md").read_text(), "run: make docs"


@pytest.mark.parametrize("text", cases("toml"))
def test_every_table_is_valid(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "x")
    table = tomllib.loads(text)
    table.setdefault("routes", [{"path": "/", "respond": {}}])
    load_config(table)


@pytest.mark.parametrize("text", cases("python"))
def test_every_piece_of_python_compiles_and_its_imports_exist(text: str) -> None:
    tree = ast.parse(text)
    compile(text, "documentation", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [node for node in imports if not isinstance(node, ast.ImportFrom) or node.module != "mine"]
    exec(compile(ast.Module(body=list(ours), type_ignores=[]), "documentation", "exec"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name)
def test_commands_print_what_stands_below_them(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routes.toml").write_text(blocks(page, "toml")[0])
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = session.partition("\n")
            program, *args = shlex.split(command)
            assert program == "gateway"
            assert CliRunner().invoke(main, args).output == expected, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if fragment:
            assert fragment in anchors(found), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"".join(c for c in h.lower() if c.isalnum() or c in " -_").replace(" ", "-") for h in headings}


def test_the_readme_names_only_targets_and_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?! )", readme)) <= targets
    assert set(re.findall(r"\bgateway ([a-z]+)\b", " ".join(re.findall(r"`([^`]+)`|^ {4}(.*)$", readme)[0]))) <= set(
        main.commands
    )


def test_the_readme_opens_with_what_it_is_and_the_commands_that_run_and_test_it() -> None:
    text = (ROOT / "README.md").read_text()
    order = ["A reverse proxy", "make run", "make test", "```toml", "## What happens to a request", "docs/"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.anyio
async def test_the_application_of_the_readme_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routes.toml").write_text('[[routes]]\npath = "/hello"\nrespond = { body = "hello" }\n')
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(ROOT / "README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), names)
    transport = httpx.ASGITransport(names["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/api/hello")).text == "hello"
    # It starts with its first request, and writes its access log where the test's output was until it is closed.
    (gateway,) = [route.app for route in names["app"].routes if isinstance(getattr(route, "app", None), Gateway)]
    await gateway.aclose()


def test_operations_names_every_field_of_the_access_log() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    exchange = Exchange("GET", b"/a")
    exchange.decision = "1 of 2 available: http://127.0.0.1:2 ejected"
    exchange.attempts += [Attempt("http://127.0.0.1:1", 0.0), Attempt("http://127.0.0.1:3", 0.0)]
    from gateway.errors import BadRequest

    exchange.error = BadRequest("why")
    for field in json.loads(json_line(exchange)):
        assert f"`{field}`" in page, field
    for name in re.findall(r" ([a-z_]+)=", text_line(exchange)):
        assert f"`{name}=`" in page, name


def test_operations_names_every_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    names = [family.name for family in Metrics().families()]
    gateway = Path(ROOT / "gateway" / "runtime.py").read_text()
    names += [f"gateway_{name}" for name in re.findall(r'Gauge\(\s*"([a-z_]+)"', gateway)]
    for name in names:
        assert f"`{name}" in page, name


def test_operations_names_what_a_reload_does_not_change() -> None:
    from gateway.server.reload import _AT_START

    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(ServerConfig.model_fields) >= _AT_START
    for key in _AT_START:
        assert f"`{key}`" in page or f"`[server.{key}]`" in page, key


def test_every_middleware_that_embedding_names_exists_and_none_is_left_out() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    named = dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", page, re.MULTILINE))
    for module, name in named.items():
        assert hasattr(importlib.import_module(f"gateway.middleware.{module}"), name)
    sources = {path.stem: path.read_text() for path in (ROOT / "gateway" / "middleware").glob("*.py")}
    # Those of the gateway itself, or a part of another one.
    internal = {"ExchangeMiddleware", "PreflightMiddleware"}
    assert {name for text in sources.values() for name in re.findall(r"^class (\w+Middleware)\b", text, re.M)} == {
        *named.values(),
        *internal,
    }


@pytest.mark.parametrize(
    "text", [text for text in blocks(ROOT / "docs" / "embedding.md", "python") if "def test_" in text]
)
def test_the_tests_shown_pass(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routes.toml").write_text('[[routes]]\npath = "/"\nrespond = { body = "hello" }\n')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(text, "embedding.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        asyncio.run(test())
