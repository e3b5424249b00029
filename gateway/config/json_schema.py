"""The JSON Schema of routes.toml, draft 2020-12, for editors: what each key takes, with its description and default.

It says what a value may look like; what only several keys together can tell is left to ``gateway check``.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gateway.config.document import Document
from gateway.config.routes import Policies
from gateway.config.table import FROM_ENVIRONMENT, Switch, Table


def json_schema() -> dict[str, Any]:
    """A new dict each time, ready for ``json.dumps``."""
    schema = Document.model_json_schema(schema_generator=_Generator)
    tables = {table.__name__: table for table in _subclasses(Table)}
    _annotate(schema, tables, _docstrings(tables.values()))
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "routes.toml"}


class _Generator(GenerateJsonSchema):
    """Admits ``${NAME}`` wherever something else than free text is wanted; knows no null, as TOML."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        # Loaded values are no TOML: the defaults are added afterwards, in the spelling of the file.
        return self.generate_inner(schema["schema"])

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_reference(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _or_reference(super().float_schema(schema))

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return _or_reference(super().bool_schema(schema))

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return _or_reference(super().literal_schema(schema))


def _or_reference(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, dict(FROM_ENVIRONMENT)]}


def _annotate(node: Any, tables: Mapping[str, type[Table]], docstrings: Mapping[tuple[str, str], str]) -> None:
    """Add description and default to every key of every table below ``node``."""
    if isinstance(node, list):
        for item in node:
            _annotate(item, tables, docstrings)
    if not isinstance(node, dict):
        return
    table = tables.get(node.get("title", "")) if "properties" in node else None
    if table is not None:
        node["description"] = inspect.cleandoc(table.__doc__ or "")
        defaults = _defaults(table)
        for name, field in table.model_fields.items():
            key = field.alias or name
            value = node["properties"][key]
            value.pop("title", None)
            value["description"] = docstrings[table.__name__, name]
            if key in defaults:
                value["default"] = defaults[key]
    for item in node.values():
        _annotate(item, tables, docstrings)


def _defaults(table: type[Table]) -> dict[str, Any]:
    """As TOML has them. An absent key, an empty list or string, and a table that shows its own are left out."""
    shown = table.model_construct().model_dump(mode="json", by_alias=True)
    defaults = {}
    for name, field in table.model_fields.items():
        key = field.alias or name
        switch = next((part for part in field.metadata if isinstance(part, Switch)), None)
        if switch is not None and (switch.on or field.default is None):
            defaults[key] = field.default is not None
        elif isinstance(shown.get(key), bool | int | float | str | list) and shown[key] not in ("", []):
            defaults[key] = shown[key]
    # Filled in from server.limits when it is absent, which no default of its own could say.
    if issubclass(table, Policies):
        del defaults["max_body"]
    return defaults


def _docstrings(tables: Iterable[type[Table]]) -> dict[tuple[str, str], str]:
    """What stands below the attributes of tables, by class and attribute; a base class lends its own."""
    tables = list(tables)
    written = {}
    for module in {table.__module__ for table in tables}:
        for node in ast.parse(inspect.getsource(sys.modules[module])).body:
            if isinstance(node, ast.ClassDef):
                written.update({(node.name, attribute): text for attribute, text in _documented(node)})
    found = {}
    for table in tables:
        for name in table.model_fields:
            owners = [base.__name__ for base in table.__mro__ if (base.__name__, name) in written]
            found[table.__name__, name] = written[owners[0], name]
    return found


def _documented(table: ast.ClassDef) -> list[tuple[str, str]]:
    documented = []
    for attribute, below in zip(table.body, table.body[1:], strict=False):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                documented.append((attribute.target.id, inspect.cleandoc(text)))
    return documented


def _subclasses(table: type[Table]) -> list[type[Table]]:
    return [each for below in table.__subclasses__() for each in (below, *_subclasses(below))]
