"""Loads configurations in tests, and a validator for the JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.config.problems import ConfigError, Problem

Table = dict[str, Any]


def load(table: Mapping[str, Any], **environ: str) -> Config:
    return load_config(table, environ=environ)


def problems(table: Mapping[str, Any], **environ: str) -> tuple[Problem, ...]:
    """What is wrong with a configuration that must not load."""
    with pytest.raises(ConfigError) as failure:
        load_config(table, environ=environ)
    assert str(failure.value) == "\n".join(str(problem) for problem in failure.value.problems)
    return failure.value.problems


def lines(table: Mapping[str, Any], **environ: str) -> list[str]:
    return [str(problem) for problem in problems(table, **environ)]


def route(**keys: Any) -> Table:
    """A configuration of one route, which answers by itself unless ``keys`` name another action."""
    table: Table = {"path": "/", **keys}
    if not {"upstream", "split", "redirect", "respond"} & keys.keys():
        table["respond"] = {}
    return {"upstreams": {"api": {"endpoints": ["http://127.0.0.1:9001"]}}, "routes": [table]}


def upstream(**keys: Any) -> Table:
    """A configuration of one upstream."""
    return {"upstreams": {"api": {"endpoints": ["http://127.0.0.1:9001"], **keys}}}


def at(config: Any, path: str) -> Any:
    """The value at a dotted path; numbers are indices."""
    for part in path.split("."):
        if isinstance(config, Mapping):
            config = config[part]
        elif isinstance(config, tuple):
            config = config[int(part)]
        else:
            config = getattr(config, part)
    return config


_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int}


def violations(value: Any, schema: Table, root: Table, path: str = "$") -> list[str]:
    """Where ``value`` breaks ``schema``: the keywords of draft 2020-12 that the schema of routes.toml uses."""
    unknown = schema.keys() - _KEYWORDS
    assert not unknown, f"this validator does not know {unknown}"
    if "$ref" in schema:
        return violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    if "anyOf" in schema:
        branches = [violations(value, branch, root, path) for branch in schema["anyOf"]]
        return [] if not all(branches) else [f"{path}: no branch takes it", *branches[-1]]
    found = []
    if "type" in schema and not any(_is(value, name) for name in _as_list(schema["type"])):
        return [f"{path}: is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: is none of {schema['enum']}")
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        found.append(f"{path}: is not {schema['const']}")
    if isinstance(value, str):
        found += [f"{path}: pattern"] if not re.search(schema.get("pattern", ""), value) else []
        found += [f"{path}: too short"] if len(value) < schema.get("minLength", 0) else []
    elif isinstance(value, list):
        found += [f"{path}: too few"] if len(value) < schema.get("minItems", 0) else []
        for index, item in enumerate(value):
            found += violations(item, schema.get("items", {}), root, f"{path}[{index}]")
    elif isinstance(value, dict):
        found += _object_violations(value, schema, root, path)
    elif isinstance(value, int | float):
        found += [f"{path}: too small"] if value < schema.get("minimum", value) else []
        found += [f"{path}: too large"] if value > schema.get("maximum", value) else []
    return found


_KEYWORDS = frozenset(
    (
        *("$schema", "$defs", "$ref", "title", "description", "default", "examples", "type", "enum", "const", "anyOf"),
        *("pattern", "minLength", "minimum", "maximum", "format", "writeOnly", "items", "minItems", "properties"),
        *("required", "additionalProperties", "propertyNames", "minProperties"),
    )
)


def _object_violations(value: Table, schema: Table, root: Table, path: str) -> list[str]:
    known = schema.get("properties", {})
    found = [f"{path}.{key}: is missing" for key in schema.get("required", ()) if key not in value]
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            found += violations(item, known[key], root, f"{path}.{key}")
        elif isinstance(others, dict):
            found += violations(item, others, root, f"{path}.{key}")
        elif not others:
            found.append(f"{path}.{key}: is unknown")
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{path}: too few keys")
    return found


def _is(value: Any, name: str) -> bool:
    if name == "boolean":
        return isinstance(value, bool)
    return isinstance(value, _TYPES[name]) and not isinstance(value, bool)


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
