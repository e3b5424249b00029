"""What importing a part of the gateway brings along, and which way imports go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIDDLEWARES = sorted(path.stem for path in (ROOT / "gateway" / "middleware").glob("[a-z]*.py"))


def loaded_by(code: str, suspects: list[str]) -> list[str]:
    """Which modules of ``suspects`` a fresh interpreter has loaded after ``code``."""
    check = f"{code}\nimport sys\nprint(*[name for name in {suspects!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2].split()


def test_no_middleware_loads_client_server_or_configuration() -> None:
    # One at a time in one interpreter: the first that does it is named by what is loaded after it.
    code = "\n".join(
        ["import importlib, sys", *(f"importlib.import_module('gateway.middleware.{name}')" for name in MIDDLEWARES)]
    )
    suspects = ["httpx", "uvicorn", "pydantic", "redis", "gateway.config", "gateway.router", "gateway.proxy"]
    assert loaded_by(code, suspects) == []


@pytest.mark.parametrize("module", ["gateway", "gateway.cli", "gateway.errors", "gateway.http.caching"])
def test_a_small_part_stays_small(module: str) -> None:
    assert loaded_by(f"import {module}", ["httpx", "uvicorn", "starlette.applications", "pydantic", "asyncio"]) == []


@pytest.mark.parametrize("command", ["['check']", "['explain', '/users/', '-X', 'GET']", "['routes']"])
def test_questions_about_a_file_load_neither_client_nor_server(command: str) -> None:
    code = f"from gateway.cli import main\nmain({command}, standalone_mode=False)"
    if "explain" in command:
        code = f"try:\n    from gateway.cli import main; main({command})\nexcept SystemExit: pass"
    suspects = ["httpx", "uvicorn", "starlette.applications", "cryptography", "prometheus_client", "websockets"]
    suspects += ["tree_sitter", "throttled"]
    assert loaded_by(code, suspects if "routes" in command else [*suspects, "rich"]) == []


def test_run_loads_nothing_that_the_table_does_not_use(tmp_path: Path) -> None:
    # What is loaded shows on standard error, until the signal ends it.
    table = '[server]\nbind = "127.0.0.1:0"\n[[routes]]\npath = "/*"\nupstream = "http://127.0.0.1:9"\n'
    (tmp_path / "routes.toml").write_text(table)
    command = [sys.executable, "-X", "importtime", "-m", "gateway", "run", str(tmp_path / "routes.toml")]
    loaded = set()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("import time:"):
                loaded.add(line.rpartition("|")[2].strip())
            elif "listening on" in line:
                process.terminate()
    assert process.returncode == 0
    assert {"gateway.app", "httpx", "uvicorn"} <= loaded
    assert not loaded & {
        *("rich", "pygments", "cryptography", "tree_sitter", "prometheus_client"),
        *("redis", "dns", "joserfc", "pwdlib", "argon2", "re2", "h2", "throttled"),
        *("gateway.stores.redis", "gateway.explain", "gateway.describe", "gateway.config.json_schema"),
    }


def test_run_leaves_the_command_line_of_httpx_to_be_imported() -> None:
    code = "from gateway.cli import import_httpx; import_httpx(); import sys; assert 'httpx._main' not in sys.modules"
    assert loaded_by(f"{code}\nimport httpx._main", ["httpx._main"]) == ["httpx._main"]


def test_the_names_of_the_package_are_lazy() -> None:
    assert loaded_by("import gateway", ["gateway.app", "gateway.config.load"]) == []
    assert loaded_by("import gateway; gateway.load_config", ["gateway.config.load", "gateway.app"]) == [
        "gateway.config.load"
    ]
    assert loaded_by("from gateway import Gateway", ["gateway.app", "uvicorn"]) == ["gateway.app"]


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import gateway

    with pytest.raises(AttributeError, match="no attribute 'Gatway'"):
        _ = gateway.Gatway


def test_imports_go_down_only() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
