"""The commands as a user calls them: what they print where, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import main

VALID = """
[upstreams.shop]
endpoints = ["http://127.0.0.1:9001"]

[[routes]]
name = "shop"
path = "/shop/*"
upstream = "shop"
cache = true
"""

SECRETS = """
[admin]
bind = "127.0.0.1:9180"
token = "s3cret-admin"

[cache]
store = "redis://user:s3cret-redis@127.0.0.1:6379/0"

[[routes]]
name = "guarded"
path = "/*"
upstream = "http://127.0.0.1:9001"
cache = true
auth = { api_key = { keys = { ada = "s3cret-key" } } }
request_headers = { set = { Authorization = "Basic s3cret-header" } }
rate_limit = { rate = "10/s", store = "redis://:s3cret-limit@127.0.0.1/1" }
middleware = [{ use = "starlette.middleware.sessions:SessionMiddleware", args = { secret_key = "s3cret-session" } }]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    return Runner(tmp_path)


class Runner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("routes.toml", VALID)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def __call__(self, *args: str) -> Result:
        result = CliRunner().invoke(main, args, prog_name="gateway")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result


def test_a_valid_file_is_reported_in_one_line(run: Runner) -> None:
    result = run("check")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "routes.toml: valid, 1 route, 1 upstream\n", "")


def test_every_problem_has_its_place(run: Runner) -> None:
    run.write("routes.toml", VALID.replace('upstream = "shop"', 'upstream = "shpo"\ncompres = true'))
    result = run("check")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        'routes.toml:8:12: routes[0].upstream: no upstream named "shpo" (did you mean "shop"?)',
        'routes.toml:9:1: routes[0].compres: unknown key (did you mean "compress"?)',
        "routes.toml: 2 problems",
    ]


def test_a_warning_is_no_error(run: Runner) -> None:
    shadowed = '[[routes]]\nname = "never"\npath = "/shop/*"\nmethods = ["GET"]\npriority = -1\nupstream = "shop"\n'
    run.write("routes.toml", VALID + shadowed)
    result = run("check")
    assert result.exit_code == 0
    assert "1 warning" in result.stdout
    assert "routes[1]: warning: the route 'never' is never taken" in result.stderr


def test_the_environment_names_the_file(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write("other.toml", VALID)
    monkeypatch.setenv("GATEWAY_CONFIG", "other.toml")
    assert run("check").stdout.startswith("other.toml: valid")
    assert run("check", "routes.toml").stdout.startswith("routes.toml: valid")
    assert run("explain", "/shop/").exit_code == 0


@pytest.mark.parametrize(
    "args, complaint",
    [
        pytest.param(["check", "none.toml"], "none.toml: no such file", id="missing file"),
        pytest.param(["check", "."], ".: cannot be read: is a directory", id="directory"),
        pytest.param(["run", "none.toml"], "none.toml: no such file", id="run without a file"),
        pytest.param(["routes", "none.toml"], "none.toml: no such file", id="routes without a file"),
        pytest.param(["explain", "/", "--config", "none.toml"], "none.toml: no such file", id="explain without a file"),
        pytest.param(["check", "broken.toml"], "broken.toml:1:5: ", id="no TOML"),
        pytest.param(["check", "latin.toml"], "latin.toml:1:6: is not UTF-8 here", id="no UTF-8"),
    ],
)
def test_an_unusable_file_is_one_line_and_exit_1(run: Runner, args: list[str], complaint: str) -> None:
    run.write("broken.toml", "a = ")
    (run.folder / "latin.toml").write_bytes(b'a = "\xe9"')
    result = run(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(complaint)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_one_line(run: Runner) -> None:
    run.write("routes.toml", VALID).chmod(0)
    assert run("check").stderr == "routes.toml: cannot be read: permission denied\n"


@pytest.mark.parametrize(
    "args, complaint",
    [
        (["chek"], "No such command 'chek'"),
        (["check", "--verbose"], "No such option '--verbose'"),
        (["check", "a", "b"], "Got unexpected extra argument (b)"),
        (["explain"], "Missing argument 'URL'"),
        (["explain", "ftp://host/"], "not a URL such as"),
        (["explain", "http://[::1/"], "not a URL such as"),
        (["explain", "http://"], "not a URL such as"),
        (["explain", "http://user:s3cret@host/"], "a URL with credentials"),
        (["explain", "/", "-H", "no colon"], "a field is not of the form"),
        (["explain", "/", "-H", "Authorization s3cret"], "a field is not of the form"),
        (["explain", "/", "-H", "X: a\nb"], "the field 'X' is not of the form"),
        (["explain", "/", "-X", "GET /"], "'GET /' is no method"),
        (["explain", "/", "--client", "example.com"], "'example.com' is no address"),
        (["explain", "/", "--format", "yaml"], "Invalid value for '--format'"),
        (["run", "--bind", "8080"], "--bind: must be an address with a port"),
        (["run", "--workers", "0"], "--workers: must be a whole number from 1 up"),
        (["run", "--workers", "two"], "--workers: must be a whole number from 1 up"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(run: Runner, args: list[str], complaint: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert complaint in result.stderr
    assert "--help" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize(
    "args, expected",
    [
        (["--version"], f"gateway, version {__version__}\n"),
        (["--help"], "Exit status:"),
        *(
            (["-h" if command == "run" else "--help", command][::-1], "Usage: gateway " + command)
            for command in main.commands
        ),
    ],
)
def test_help_and_version(run: Runner, args: list[str], expected: str) -> None:
    result = run(*args)
    assert result.exit_code == 0
    assert expected in result.stdout


def test_no_command_shows_the_help(run: Runner) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: gateway" in result.stderr


def test_the_table_is_plain_and_unfolded_off_a_terminal(run: Runner) -> None:
    long = "/" + "/".join(f"segment-{number}" for number in range(40))
    run.write("routes.toml", VALID + f'[[routes]]\nname = "long"\npath = "{long}"\nupstream = "shop"\n')
    result = run("routes")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["route", "methods", "host", "path", "action", "policies"]
    assert long in result.stdout
    assert "cache" in next(row for row in rows if row.startswith("shop "))
    assert all(row == row.rstrip() for row in rows)


def test_the_table_has_the_matching_order_and_the_upstreams(run: Runner) -> None:
    run.write("routes.toml", VALID + '[[routes]]\nname = "first"\npath = "/shop/a"\nrespond = { status = 204 }\n')
    entries = json.loads(run("routes", "--format", "json").stdout)
    assert [entry["name"] for entry in entries] == ["first", "shop"]
    assert entries[1]["upstreams"]["shop"]["endpoints"][0]["url"] == "http://127.0.0.1:9001"
    assert entries[1]["policies"] == {"cache": True, "compress": True, "retry": True, "websocket": True}
    assert entries[0]["policies"] == {}


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("command", [["check"], ["routes"], ["explain", "/x", "--config"]])
def test_secrets_never_show(run: Runner, command: list[str], output: str) -> None:
    path = str(run.write("secrets.toml", SECRETS))
    args = [*command, path] if command == ["check"] else [*command, path, "--format", output]
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert "s3cret" not in result.output


def test_explain_takes_options_before_and_after_the_url(run: Runner) -> None:
    assert run("explain", "-X", "post", "http://a.example/shop/x", "-H", "A: b").exit_code == 0
    assert run("explain", "/nowhere").exit_code == 1


def test_explain_speaks_json(run: Runner) -> None:
    answer = json.loads(run("explain", "/shop/x", "--format", "json").stdout)
    assert answer["route"] == "shop"
    assert answer["targets"] == [{"upstream": "shop", "url": "http://127.0.0.1:9001/shop/x", "note": ""}]


def test_the_schema_is_a_json_schema(run: Runner) -> None:
    schema = json.loads(run("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "routes" in schema["properties"]


def test_python_m_gateway_is_the_same_program(run: Runner) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "none.toml"],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("none.toml: no such file")


def test_a_reader_that_leaves_is_no_traceback(run: Runner) -> None:
    done = subprocess.run(
        f"{sys.executable} -m gateway schema | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""
