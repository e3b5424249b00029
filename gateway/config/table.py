"""What all tables of the file share: frozen, strict, no unknown keys; and the shapes a value may take in TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, core_schema

from gateway.config.environ import EnvironmentString
from gateway.config.problems import suggestion

JsonSchema = dict[str, Any]
K = TypeVar("K")
V = TypeVar("V")

FROM_ENVIRONMENT: JsonSchema = {"type": "string", "pattern": r"\$\{", "description": "From the environment: ${NAME}."}
"""What the JSON Schema admits beside a value that is no free string."""


class Table(BaseModel):
    """A table of routes.toml: attributes are its keys, values are immutable and compare by value."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class FrozenDict(dict[K, V]):
    """A dict that cannot change and can be hashed."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("configuration is immutable")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> FrozenDict[K, V]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[K, V]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        keys, values = get_args(source) or (Any, Any)
        inner = core_schema.dict_schema(handler.generate_schema(keys), handler.generate_schema(values))
        return core_schema.no_info_after_validator_function(cls, inner)


class Parsed:
    """A value that ``parse`` makes from what TOML has; ``parse`` raises ValueError in words for the user.

    ``show`` gives it back as TOML has it, for JSON output and for the defaults in the JSON Schema.
    """

    def __init__(
        self, parse: Callable[[Any], Any], schema: JsonSchema, *, show: Callable[[Any], Any] | None = None
    ) -> None:
        self.parse = parse
        self.schema = schema
        self.show = show

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = None
        if self.show is not None:
            shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.no_info_plain_validator_function(self.parse, serialization=shown)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        if self.schema.get("type") == "string" and "pattern" not in self.schema and "enum" not in self.schema:
            return dict(self.schema)
        return {"anyOf": [dict(self.schema), FROM_ENVIRONMENT]}


class Switch:
    """``false`` or a table (None or the model); with ``on``, ``true`` as well: the table with its defaults.

    One annotation instead of a union, so that a mistake inside the table is the only one reported.
    """

    def __init__(self, *, on: bool) -> None:
        self.on = on

    def unpack(self, value: Any) -> Any:
        if isinstance(value, EnvironmentString):
            value = _as_bool(value)
        if value is False:
            return None
        if value is True and self.on:
            return {}
        if isinstance(value, dict | BaseModel):
            return value
        raise ValueError("must be true, false or a table" if self.on else "must be false or a table")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.unpack, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchema:
        flag: JsonSchema = {"type": "boolean"} if self.on else {"const": False}
        return {"anyOf": [flag, handler(schema["schema"]), FROM_ENVIRONMENT]}


class EmptyIsOff:
    """A table whose absence is written as ``{}``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_none_if_empty, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchema:
        return handler(schema["schema"])


class Shorthand:
    """A string that stands for a table with only ``key``."""

    def __init__(self, key: str) -> None:
        self.key = key

    def unpack(self, value: Any) -> Any:
        if isinstance(value, str):
            return {self.key: value}
        if isinstance(value, dict | BaseModel):
            return value
        raise ValueError(f"must be a string or a table, not {kind_of(value)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.unpack, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [{"type": "string"}, handler(schema["schema"])]}


class WordOrTable:
    """One of a few words, or a table."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def choose(self, value: Any, validate: Callable[[Any], Any]) -> Any:
        if isinstance(value, str) and value in self.words:
            return str(value)
        if isinstance(value, dict | BaseModel):
            return validate(value)
        words = ", ".join(f'"{word}"' for word in self.words)
        near = suggestion(value, self.words) if isinstance(value, str) else ""
        raise ValueError(f"must be {words} or a table{near}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        model = next(member for member in get_args(source) if isinstance(member, type))
        return core_schema.no_info_wrap_validator_function(
            self.choose,
            handler.generate_schema(model),
            serialization=core_schema.plain_serializer_function_ser_schema(_dump),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [{"enum": list(self.words)}, handler(schema["schema"])]}


class OneOrMany:
    """A single value in place of a list of one."""

    def unpack(self, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.unpack, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchema:
        many = handler(schema["schema"])
        return {"anyOf": [many["items"], many]}


def kind_of(value: Any) -> str:
    """What TOML calls the type of a value, with an article."""
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "a date or time" if type(value).__module__ == "datetime" else f"a {type(value).__name__}"


# In this order: a boolean is an int to Python.
_KINDS: tuple[tuple[type | UnionType, str], ...] = (
    (bool, "a boolean"),
    (str, "a string"),
    (int | float, "a number"),
    (dict, "a table"),
    (tuple | list, "a list"),
    (type(None), "nothing"),
)


def _dump(value: Any) -> Any:
    return value.model_dump(by_alias=True, exclude_none=True) if isinstance(value, BaseModel) else value


def _none_if_empty(value: Any) -> Any:
    return None if value == {} else value


def _as_bool(value: Any) -> Any:
    if isinstance(value, EnvironmentString):
        return {"true": True, "false": False}.get(value, value)
    return value


def _as_int(value: Any) -> Any:
    if isinstance(value, EnvironmentString) and re.fullmatch("[+-]?[0-9]{1,18}", value):
        return int(value)
    return value


def _as_float(value: Any) -> Any:
    if isinstance(value, EnvironmentString) and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", value):
        number = float(value)
        return number if math.isfinite(number) else value
    return value


def _fit(value: int) -> int:
    # TOML's own range: the parser of Python takes any number.
    if not -(2**63) <= value < 2**63:
        raise ValueError("must fit into 64 bits")
    return value


int_from_environment = BeforeValidator(_as_int)

Flag = Annotated[bool, BeforeValidator(_as_bool)]
Integer = Annotated[int, AfterValidator(_fit), int_from_environment]
Count = Annotated[int, Field(ge=0), int_from_environment]
PositiveCount = Annotated[int, Field(ge=1), int_from_environment]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_as_float)]
