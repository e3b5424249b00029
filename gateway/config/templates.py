"""Names in templates, and which of them a route has."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from gateway.config.problems import suggestion

HEADER_NAMES = frozenset(["client_ip", "host", "scheme", "request_id", "route"])
REDIRECT_NAMES = frozenset(["host", "scheme"])

_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class PathNames:
    """Names that every path of a route has, and those that only some have."""

    all: frozenset[str]
    some: frozenset[str]


def names_in(template: str) -> tuple[str, ...]:
    """The names of a template, in order; braces around anything but an identifier are literal."""
    return tuple(_NAME.findall(template))


def template_complaints(template: str, names: PathNames, documented: Collection[str]) -> list[str]:
    """What is wrong with the names of a template."""
    known = names.all.union(documented)
    complaints = []
    for name in dict.fromkeys(names_in(template)):
        if name in known:
            continue
        if name in names.some:
            complaints.append(f"{{{name}}} is not in every path of the route")
        else:
            complaints.append(_unknown(name, known))
    return complaints


def _unknown(name: str, known: Collection[str]) -> str:
    if name == "rest":
        return 'unknown name {rest}; give the tail of the path this name: "/.../{rest*}"'
    near = suggestion(name, known)
    listed = ", ".join(f"{{{each}}}" for each in sorted(known))
    return f"unknown name {{{name}}}{near}" + ("" if near or not listed else f"; known here: {listed}")
