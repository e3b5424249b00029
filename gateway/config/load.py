"""Load a configuration: a file or a mapping -> Config, or ConfigError with every problem at once."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config.availability import refuse_unavailable
from gateway.config.checks import check
from gateway.config.document import Config
from gateway.config.environ import expand
from gateway.config.files import os_reason
from gateway.config.merge import draft, merge
from gateway.config.problems import ConfigError, KeyPath, Place, Problem, Report
from gateway.config.table import FrozenDict

Warnings = Callable[[Config], Iterable[tuple[KeyPath, str]]]
"""Finds what deserves a warning in a valid configuration: key paths, with routes by their index, and messages."""


def load_config(
    source: str | Path | Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    extra_warnings: Warnings | None = None,
) -> Config:
    """The configuration in a file, or in a mapping of the same form.

    ``environ`` stands in for the environment of the process. Paths in a file are relative to its folder, those in a
    mapping to the working directory. Raises ConfigError.

        config = load_config("routes.toml")
        config.routes[0].timeout                     # seconds
    """
    text = _Text.of_mapping(source) if isinstance(source, Mapping) else _Text.of_file(Path(source))
    report = Report()
    config = _configure(text, os.environ if environ is None else environ, report)
    if not report.has_errors and extra_warnings is not None:
        for path, message in extra_warnings(config):
            report.warning(path, message)
    problems = report.problems(text.file, text.place)
    if report.has_errors:
        raise ConfigError(problems)
    return replace(config, warnings=problems)


def _configure(text: _Text, environ: Mapping[str, str], report: Report) -> Config:
    """The configuration as far as it is valid; it is to be used only if ``report`` has no error."""
    try:
        data = expand(text.data, environ, report)
    except RecursionError:
        raise ConfigError([Problem(text.file, None, None, "", "is nested too deeply")]) from None
    found = draft(data, report, text.folder)
    upstreams, entries = merge(found)
    check(found, entries, report)
    refuse_unavailable(found.tables(), report)
    return Config(
        server=found.server,
        admin=found.admin,
        cache=found.cache,
        upstreams=FrozenDict(upstreams),
        routes=tuple(entry.route for entry in entries),
        path=text.path,
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """Parsed TOML and where it came from."""

    data: Mapping[str, Any]
    folder: Path
    path: Path | None = None
    content: str = ""

    @property
    def file(self) -> str | None:
        return None if self.path is None else str(self.path)

    @property
    def place(self) -> Callable[[], Place] | None:
        return None if self.path is None else functools.partial(_places, self.content)

    @classmethod
    def of_mapping(cls, data: Mapping[str, Any]) -> _Text:
        return cls(data, Path.cwd())

    @classmethod
    def of_file(cls, path: Path) -> _Text:
        content = _read(path)
        try:
            data = tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([_syntax_problem(path, content, str(error))]) from None
        except RecursionError:
            raise ConfigError([Problem(str(path), None, None, "", "is nested too deeply")]) from None
        return cls(data, path.absolute().parent, path, content)


def _places(content: str) -> Place:
    # Imported only when there is something to place: a valid file does not pay for the parser.
    from gateway.config.positions import Positions

    return Positions(content).locate


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        remedy = "name another with the CONFIG argument, or set GATEWAY_CONFIG"
        raise ConfigError([Problem(str(path), None, None, "", f"no such file; {remedy}")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), None, None, "", f"cannot be read: {os_reason(error)}")]) from None
    try:
        # Editors on Windows begin a file with a byte order mark, which tomllib refuses.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8-sig")
        line, column = good.count("\n") + 1, len(good) - good.rfind("\n")
        raise ConfigError([Problem(str(path), line, column, "", "is not UTF-8 here")]) from None


def _syntax_problem(path: Path, content: str, message: str) -> Problem:
    """tomllib says where in its message, for which only newer versions have attributes."""
    match = re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", message, re.DOTALL)
    if match is not None:
        return Problem(str(path), int(match[2]), int(match[3]), "", match[1])
    lines = content.split("\n")
    return Problem(str(path), len(lines), len(lines[-1]) + 1, "", message.removesuffix(" (at end of document)"))
