"""A problem of a configuration, its place, and the error that carries all of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of tables and zero-based indices of arrays, from the root."""

Severity = Literal["error", "warning"]
Spot = Literal["key", "value"]
Place = Callable[[KeyPath, Spot], tuple[int, int]]
"""Line and column of a key or its value, both from 1."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; ``file``, ``line`` and ``column`` are None where there is no file."""

    file: str | None
    line: int | None
    column: int | None
    key: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = [str(part) for part in (self.file, self.line, self.column) if part is not None]
        head = ":".join(place) + ": " if place else ""
        return f"{head}{self.key}: {self.message}" if self.key else f"{head}{self.message}"


class ConfigError(ValueError):
    """The configuration cannot be used. ``problems`` has all errors and warnings, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def at(cls, key: str, message: str) -> ConfigError:
        """What is found only when objects are made of a configuration: where it stood in the file is forgotten."""
        return cls([Problem(None, None, None, key, message)])


class Report:
    """Collects problems by key path, at most one of a kind for each path."""

    def __init__(self) -> None:
        self._found: dict[tuple[KeyPath, str], tuple[Spot, Severity]] = {}
        self._closed: set[KeyPath] = set()

    @property
    def has_errors(self) -> bool:
        return any(severity == "error" for _, severity in self._found.values())

    def error(self, path: KeyPath, message: str, spot: Spot = "value") -> None:
        self._add(path, message, spot, "error")

    def warning(self, path: KeyPath, message: str, spot: Spot = "value") -> None:
        self._add(path, message, spot, "warning")

    def close(self, path: KeyPath) -> None:
        """Take no further problem at or below ``path``: what follows from a known one would only distract."""
        self._closed.add(path)

    def _add(self, path: KeyPath, message: str, spot: Spot, severity: Severity) -> None:
        if self._closed and any(path[:length] in self._closed for length in range(len(path) + 1)):
            return
        self._found.setdefault((path, message), (spot, severity))

    def problems(self, file: str | None = None, place: Callable[[], Place] | None = None) -> tuple[Problem, ...]:
        """All of them, in the order of the file. ``place`` is called only if there is something to place."""
        if not self._found:
            return ()
        locate = place() if place is not None else None
        listed = []
        for (path, message), (spot, severity) in self._found.items():
            line, column = locate(path, spot) if locate is not None else (None, None)
            listed.append(Problem(file, line, column, key_text(path), message, severity))
        listed.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
        return tuple(listed)


def key_text(path: KeyPath) -> str:
    """``("routes", 2, "upstream")`` as ``routes[2].upstream``; keys that TOML would quote are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if _BARE_KEY.fullmatch(part) else quoted(part)
            text += f".{shown}" if text else shown
    return text


def quoted(value: str) -> str:
    """A value of the file as a message shows it: in double quotes, on one line."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in escaped) + '"'


def suggestion(value: str, known: Iterable[str]) -> str:
    """`` (did you mean "api"?)`` if a known name is close to ``value``, else nothing."""
    by_folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), by_folded, n=1, cutoff=0.6)
    return f" (did you mean {quoted(by_folded[close[0]])}?)" if close else ""
