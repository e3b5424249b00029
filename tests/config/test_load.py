from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from tests.config.support import Table, lines, load, problems, route


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as failure:
        load_config(path, environ={})
    return str(failure.value).replace(f"{path.parent}/", "")


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "routes.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_demo_loads() -> None:
    config = load_config(Path(__file__).parents[2] / "routes.toml", environ={})
    assert [each.name for each in config.routes][:2] == ["welcome", "shop"]
    assert config.path is not None
    assert config.warnings == ()


def test_every_problem_of_a_file_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
[server]
bnd = "127.0.0.1:80"
acess_log = "text"
workers = "two"

[server.limits]
header_timeout = 10

[upstreams.api]
endpoints = ["http://user:secret@example.com", { url = "http://h", wieght = 2 }]
balance = "p3c"

[[routes]]
path = "/a"
upstream = "ap1"

[[routes]]
upstream = "api"
timeout = "5"
cache = { tll = "1s" }

[[routes]]
path = "/b"
""",
    )
    assert error_of(path).splitlines() == [
        'routes.toml:2:1: server.bnd: unknown key (did you mean "bind"?)',
        'routes.toml:3:1: server.acess_log: unknown key (did you mean "access_log"?)',
        'routes.toml:4:11: server.workers: must be a whole number from 1 up, or "auto"',
        "routes.toml:7:18: server.limits.header_timeout: must be a duration with a unit, such as"
        ' "250ms", "10s", "5m" or "1h", not a number',
        "routes.toml:10:14: upstreams.api.endpoints[0]: must not contain credentials",
        'routes.toml:10:68: upstreams.api.endpoints[1].wieght: unknown key (did you mean "weight"?)',
        'routes.toml:11:11: upstreams.api.balance: must be one of "round-robin", "least-requests", "p2c", "random",'
        ' "hash", "first" (did you mean "p2c"?)',
        'routes.toml:15:12: routes[0].upstream: no upstream named "ap1" (did you mean "api"?)',
        "routes.toml:17:1: routes[1].path: is missing",
        'routes.toml:19:11: routes[1].timeout: must be a duration with a unit, such as "250ms", "10s", "5m" or "1h"',
        'routes.toml:20:11: routes[1].cache.tll: unknown key (did you mean "ttl"?)',
        "routes.toml:22:1: routes[2]: needs exactly one of upstream, split, redirect, respond",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = \n", "routes.toml:1:5: Invalid value"),
        ("[a]\nb = 1\nb = 2\n", "routes.toml:3:6: Cannot overwrite a value"),
        ("a = 'x", 'routes.toml:1:7: Expected "\'"'),
        ('x = 1\na = """x\ny', "routes.toml:3:2: Unterminated string"),
        (b"# caf\xe9\n", "routes.toml:1:6: is not UTF-8 here"),
        (b"a = 1\n# \xc3\xa9 \xff\n", "routes.toml:2:5: is not UTF-8 here"),
        ("a = " + "[" * 3000, "routes.toml: is nested too deeply"),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, text: str | bytes, line: str) -> None:
    assert error_of(write(tmp_path, text)) == line


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert error_of(tmp_path / "absent.toml").startswith("absent.toml: no such file; ")
    (tmp_path / "folder").mkdir()
    assert error_of(tmp_path / "folder") == "folder: cannot be read: is a directory"


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf[server]\r\naccess_log = "off"\r\n')
    assert load_config(path, environ={}).server.access_log == "off"


def test_a_mapping_has_no_places() -> None:
    (problem,) = problems(route(upstream="ap1"))
    assert (problem.file, problem.line, problem.column, problem.severity) == (None, None, None, "error")
    assert str(problem) == 'routes[0].upstream: no upstream named "ap1" (did you mean "api"?)'


def test_a_mapping_is_not_changed_and_may_hold_tuples() -> None:
    table = route(methods=("GET",), name="${N}")
    config = load(table, N="n")
    assert config.routes[0].methods == ("GET",)
    assert table["routes"][0]["name"] == "${N}"


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"route": []}, 'route: unknown key (did you mean "routes"?)'),
        ({"server": 5}, "server: must be a table, not a number"),
        ({"routes": {"path": "/"}}, "routes: must be a list of tables: write [[routes]], not a table"),
        ({"routes": ["x"]}, "routes[0]: must be a table, not a string"),
        ({"upstreams": []}, "upstreams: must be a table, not a list"),
        ({"upstreams": {"a:b": {"endpoints": ["http://h"]}}}, 'upstreams."a:b": a name has letters, digits'),
        ({"cache": None}, "cache: must be a table, not nothing"),
        ({"defaults": {"path": "/"}}, "defaults.path: unknown key"),
    ],
)
def test_tables_have_their_form(table: dict[str, object], line: str) -> None:
    assert lines(table)[0].startswith(line)


def test_equal_files_make_equal_configurations(tmp_path: Path) -> None:
    one, other = load(route(cache=True)), Config.from_mapping(route(cache=True))
    assert one == other
    assert hash(one) == hash(other)
    assert one.routes[0] == other.routes[0]
    assert load(route(cache={"ttl": "1s"})) != one


def test_a_loaded_configuration_cannot_change() -> None:
    config = load(route(request_headers={"set": {"X-A": "1"}}))
    with pytest.raises(ValueError, match="frozen"):
        config.routes[0].timeout = 1.0
    with pytest.raises(TypeError, match="immutable"):
        config.routes[0].request_headers.set["X-A"] = "2"
    with pytest.raises(TypeError, match="immutable"):
        config.upstreams.clear()
    with pytest.raises(AttributeError):
        config.server = None  # type: ignore[misc, assignment]


def test_further_warnings_are_placed_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path, '[[routes]]\npath = "/"\nrespond = {}\n')
    config = load_config(path, environ={}, extra_warnings=lambda config: [(("routes", 0, "path"), "is never chosen")])
    assert [str(warning) for warning in config.warnings] == [f"{path}:2:8: routes[0].path: is never chosen"]
    assert config.warnings[0].severity == "warning"


def test_a_mistake_inside_a_table_hides_none_beside_it() -> None:
    table = route(
        upstream="api",
        request_headers={"set": {"X A": "1", "X-B": "{nope}"}, "ad": {}},
        mirror={"upstream": "apo", "share": 7},
    )
    table["server"] = {"tls": {"certificates": [{"cert": "no.pem", "key": "no.key"}], "min_version": "1.1"}}

    assert {problem.key for problem in problems(table)} == {
        'routes[0].request_headers.set."X A"',
        "routes[0].request_headers.set.X-B",
        "routes[0].request_headers.ad",
        "routes[0].mirror.upstream",
        "routes[0].mirror.share",
        "server.tls.min_version",
        "server.tls.certificates[0].cert",
        "server.tls.certificates[0].key",
    }


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"upstreams": {"a": {"endpoints": ["http://a"], "balance": "hsh", "hash_on": "path"}}}, "upstreams.a.balance"),
        ({"admin": {"bind": "0.0.0.0:9180", "token": 5}}, "admin.token"),
        (
            {
                "defaults": {"auth": {"basik": {}}},
                "routes": [{"path": "/", "respond": {}, "rate_limit": {"key": "user"}}],
            },
            "defaults.auth.basik",
        ),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_said(table: Table, key: str) -> None:
    assert key in [problem.key for problem in problems(table)]
    assert len(problems(table)) == 1


def test_warnings_stand_beside_errors(tmp_path: Path) -> None:
    found = problems({"routes": [{"path": "/", "respond": {}, "timeout": "1s"}, {"path": "/b"}]})
    assert [(problem.key, problem.severity) for problem in found] == [
        ("routes[0].timeout", "warning"),
        ("routes[1]", "error"),
    ]


def test_a_valid_file_pays_for_no_parser_of_positions_and_no_tls(tmp_path: Path) -> None:
    path = write(tmp_path, '[[routes]]\npath = "/"\nrespond = {}\n')
    code = (
        "import sys; from gateway.config.load import load_config; load_config(sys.argv[1]);"
        "print({'tree_sitter', 'cryptography', 'httpx', 'uvicorn', 'starlette'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
