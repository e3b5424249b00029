"""``${NAME}`` and ``${NAME:-default}`` in the strings of a configuration; ``$${`` is a literal ``${``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.config.problems import KeyPath, Report

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class EnvironmentString(str):
    """A string that was one reference and nothing else: it may also fill a number or a boolean."""

    __slots__ = ()


def expand(value: Any, environ: Mapping[str, str], report: Report, path: KeyPath = ()) -> Any:
    """A copy of parsed TOML with references replaced; arrays become tuples.

    As in a shell, ``:-`` stands in for an unset and for an empty variable. A reference to an unset one without a
    default is reported, and nothing more is said about that value.
    """
    if isinstance(value, str):
        return _expand_string(value, environ, report, path) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: expand(item, environ, report, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(expand(item, environ, report, (*path, index)) for index, item in enumerate(value))
    return value


def _expand_string(text: str, environ: Mapping[str, str], report: Report, path: KeyPath) -> str:
    complaints: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if match[0] == "$${":
            return "${"
        if name is None:
            complaints.append("${ without a name and a closing brace; write $${ for a literal ${")
            return ""
        found = environ.get(name)
        if default is not None:
            return found or default
        if found is None:
            complaints.append(f"the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            return ""
        return found

    expanded = _REFERENCE.sub(replace, text)
    if complaints:
        for complaint in complaints:
            report.error(path, complaint)
        report.close(path)
        return text
    whole = _REFERENCE.fullmatch(text)
    return EnvironmentString(expanded) if whole is not None and whole[1] is not None else expanded
