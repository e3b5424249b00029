from __future__ import annotations

import pytest

from gateway.config.problems import ConfigError, KeyPath, Problem, Report, key_text, quoted, suggestion


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("r.toml", 3, 5, "routes[2].upstream", "is wrong"), "r.toml:3:5: routes[2].upstream: is wrong"),
        (Problem("r.toml", 3, 5, "", "is wrong"), "r.toml:3:5: is wrong"),
        (Problem("r.toml", None, None, "", "no such file"), "r.toml: no such file"),
        (Problem(None, None, None, "server.bind", "is wrong"), "server.bind: is wrong"),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("routes", 2, "upstream"), "routes[2].upstream"),
        (("upstreams", "a b", "x-y"), 'upstreams."a b".x-y'),
        (("a", 'q"\n', 0, 1), 'a."q\\"\\n"[0][1]'),
        (("",), '""'),
    ],
)
def test_key_paths_are_written_as_in_toml(path: KeyPath, text: str) -> None:
    assert key_text(path) == text


def test_quoted_values_stay_on_one_line() -> None:
    assert quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'


def test_a_close_name_is_suggested_whatever_its_case() -> None:
    assert suggestion("ap1", ["api", "shop"]) == ' (did you mean "api"?)'
    assert suggestion("get", ["GET", "PUT"]) == ' (did you mean "GET"?)'
    assert suggestion("xyz", ["api", "shop"]) == ""


def test_problems_come_in_the_order_of_the_file_and_once_each() -> None:
    report = Report()
    report.warning(("b",), "late")
    report.error(("a",), "early")
    report.error(("a",), "early")
    where: dict[KeyPath, tuple[int, int]] = {("a",): (1, 1), ("b",): (2, 1)}
    found = report.problems("f", lambda: lambda path, spot: where[path])
    assert [(problem.key, problem.line, problem.severity) for problem in found] == [
        ("a", 1, "error"),
        ("b", 2, "warning"),
    ]


def test_nothing_is_placed_when_nothing_is_wrong() -> None:
    def place() -> object:
        raise AssertionError("the file was parsed for nothing")

    assert Report().problems("f", place) == ()  # type: ignore[arg-type]


def test_below_a_closed_path_nothing_more_is_said() -> None:
    report = Report()
    report.error(("a", "b"), "first")
    report.close(("a", "b"))
    report.error(("a", "b", 0), "second")
    report.error(("a",), "third")
    assert [problem.message for problem in report.problems()] == ["first", "third"]


def test_the_error_prints_every_problem() -> None:
    error = ConfigError([Problem(None, None, None, "a", "x"), Problem(None, None, None, "b", "y")])
    assert str(error) == "a: x\nb: y"
    assert len(error.problems) == 2
