"""Durations ("250ms", "10s", "5m", "1h") as float seconds, sizes ("512B", "64KiB", "10MiB", "1GiB") as int bytes."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from gateway.config.table import Parsed, kind_of

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")


def parse_duration(value: Any) -> float:
    """Seconds. Raises ValueError for what is no duration with a unit."""
    match = _DURATION.fullmatch(_text(value, 'a duration with a unit, such as "250ms", "10s", "5m" or "1h"'))
    if match is None:
        raise ValueError('must be a duration with a unit, such as "250ms", "10s", "5m" or "1h"')
    # Decimal, so that "0.1s" and "100ms" are the same float.
    return float(Decimal(match[1]) * _SECONDS[match[2]])


def parse_positive_duration(value: Any) -> float:
    """Seconds, more than zero."""
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


def parse_size(value: Any) -> int:
    """Bytes. Raises ValueError for what is no size with a unit."""
    match = _SIZE.fullmatch(_text(value, 'a size with a unit, such as "512B", "64KiB", "10MiB" or "1GiB"'))
    if match is None:
        raise ValueError('must be a size with a unit, such as "512B", "64KiB", "10MiB" or "1GiB"')
    return int(match[1]) * _BYTES[match[2]]


def parse_positive_size(value: Any) -> int:
    """Bytes, more than zero."""
    size = parse_size(value)
    if size == 0:
        raise ValueError("must be more than 0")
    return size


def format_duration(seconds: float) -> str:
    """The shortest spelling that parses to the same value."""
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        count = exact / _SECONDS[unit]
        if exact and count == count.to_integral_value():
            return f"{int(count)}{unit}"
    return f"{exact:f}s" if exact else "0s"


def format_size(size: int) -> str:
    """The largest unit that divides ``size``."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _text(value: Any, wanted: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be {wanted}, not {kind_of(value)}")
    return value


DURATION_SCHEMA = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$", "examples": ["250ms", "10s", "5m"]}
SIZE_SCHEMA = {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$", "examples": ["512B", "64KiB", "10MiB"]}

Duration = Annotated[float, Parsed(parse_duration, DURATION_SCHEMA, show=format_duration)]
PositiveDuration = Annotated[float, Parsed(parse_positive_duration, DURATION_SCHEMA, show=format_duration)]
Size = Annotated[int, Parsed(parse_size, SIZE_SCHEMA, show=format_size)]
PositiveSize = Annotated[int, Parsed(parse_positive_size, SIZE_SCHEMA, show=format_size)]
