"""A piece of the file against its table: every error in words, and what is valid of it none the less."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import KeyPath, Report, Spot, quoted, suggestion
from gateway.config.table import Table, kind_of

T = TypeVar("T", bound=Table)

_WANTED = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "finite_number": "a finite number",
}


def validate(table: type[T], data: Any, path: KeyPath, report: Report, folder: Path) -> tuple[T | None, frozenset[str]]:
    """The model made of what is valid, and the keys of which something had to be left out.

    The model is None where a key that it needs is missing or wrong. Every error is in ``report``. Paths of files are
    relative to ``folder``.
    """
    if not isinstance(data, dict):
        report.error(path, f"must be a table, not {kind_of(data)}")
        return None, frozenset()
    context = {"folder": folder}
    try:
        return table.model_validate(data, context=context), frozenset()
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    broken = frozenset(str(error["loc"][0]) for error in errors if error["loc"])
    for error in errors:
        _report(error, table, data, path, report)
    # As little as possible is left out, so that what else is wrong is found at once and not after the first repair.
    for rest in (_without(data, [error["loc"] for error in errors]), {k: data[k] for k in data.keys() - broken}):
        with contextlib.suppress(ValidationError):
            return table.model_validate(rest, context=context), broken
    return None, broken


def _without(data: Mapping[str, Any], locations: list[KeyPath]) -> dict[str, Any]:
    """A copy without what stands at ``locations``; a list goes as a whole, and so does a table that lacks something."""
    kept = {}
    for key, value in data.items():
        below = [location[1:] for location in locations if location[:1] == (key,)]
        if not below:
            kept[key] = value
        elif isinstance(value, Mapping) and all(location and location[0] in value for location in below):
            kept[key] = _without(value, below)
    return kept


def _report(error: ErrorDetails, table: type[Table], data: Any, path: KeyPath, report: Report) -> None:
    location = error["loc"]
    kind = error["type"]
    if kind == "missing":
        report.error((*path, *_existing(data, location[:-1]), location[-1]), "is missing")
        return
    if kind == "too_short" and error["input"]:
        # It is not empty: each item is wrong, and has been reported itself.
        return
    place = (*path, *_existing(data, location))
    spot: Spot = "key" if kind == "extra_forbidden" or location[-1:] == ("[key]",) else "value"
    if kind == "extra_forbidden":
        message = "unknown key" + suggestion(str(location[-1]), _keys_at(table, location[:-1]))
    else:
        message = _message(error)
    report.error(place, message, spot)


def _existing(data: Any, location: KeyPath) -> KeyPath:
    """The part of a location that the file has: shorthands and keys of mappings add parts of their own."""
    for index, part in enumerate(location):
        in_list = isinstance(data, tuple) and isinstance(part, int) and part < len(data)
        if not in_list and not (isinstance(data, Mapping) and part in data):
            return location[:index]
        data = data[part]
    return location


def _message(error: ErrorDetails) -> str:
    kind, value, details = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(details["error"])
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}" + ("" if kind == "finite_number" else f", not {kind_of(value)}")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", details["expected"]) or [details["expected"]]
        shown = ", ".join(quoted(name) if "'" in details["expected"] else name for name in known)
        return f"must be one of {shown}{suggestion(value, known) if isinstance(value, str) else ''}"
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = details.get("ge", details.get("le"))
        return f"must be at {'least' if 'ge' in details else 'most'} {limit:g}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return "has characters that are not allowed here"
    return error["msg"].lower()


def _keys_at(table: type[Table], location: KeyPath) -> list[str]:
    """The keys of the tables that stand at a location below ``table``."""
    tables = [table]
    for part in location:
        below = []
        for candidate in tables:
            for name, field in candidate.model_fields.items():
                if (field.alias or name) == part:
                    below += list(_tables(field.annotation))
        # An index or the key of a mapping leads to no other table than the field did.
        tables = below or tables
    return [field.alias or name for candidate in tables for name, field in candidate.model_fields.items()]


def _tables(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)
