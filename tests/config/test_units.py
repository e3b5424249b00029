from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_positive_duration,
    parse_positive_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("250ms", 0.25), ("10s", 10.0), ("5m", 300.0), ("1h", 3600.0), ("1.5s", 1.5), ("0.1s", 0.1)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["10", "", "s", "10 s", "-1s", "+1s", "1e3s", "1h30m", "10S", "1d", "\u0661s", "1s\n", ".5s"]
)
def test_what_is_no_duration_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be a duration with a unit"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "kind"), [(10, "a number"), (1.5, "a number"), (True, "a boolean"), (None, "nothing"), ({}, "a table")]
)
def test_bare_values_are_no_durations_and_no_sizes(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=f"must be a duration with a unit, .*, not {kind}"):
        parse_duration(value)
    with pytest.raises(ValueError, match=f"must be a size with a unit, .*, not {kind}"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("64KiB", 65536), ("10MiB", 10 * 1024**2), ("1GiB", 1024**3)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["10", "64KB", "64kib", "1.5MiB", "-1B", "1 GiB", "1TiB", "B", ""])
def test_what_is_no_size_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be a size with a unit"):
        parse_size(value)


def test_zero_is_refused_where_it_would_mean_nothing() -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        parse_positive_duration("0ms")
    with pytest.raises(ValueError, match="more than 0"):
        parse_positive_size("0KiB")
    assert parse_positive_duration("1ms") == 0.001
    assert parse_positive_size("1B") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.25, "250ms"), (90.0, "90s"), (120.0, "2m"), (7200.0, "2h"), (0.0005, "0.0005s")],
)
def test_durations_are_shown_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h"]))
def test_a_duration_survives_being_shown(count: int, unit: str) -> None:
    seconds = parse_duration(f"{count}{unit}")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.decimals(0, 10**6, places=6), st.sampled_from(["ms", "s", "m"]))
def test_a_duration_with_decimals_survives_being_shown(count: object, unit: str) -> None:
    seconds = parse_duration(f"{count:f}{unit}")
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.integers(0, 10**9), st.sampled_from(["B", "KiB", "MiB", "GiB"]))
def test_a_size_survives_being_shown(count: int, unit: str) -> None:
    size = parse_size(f"{count}{unit}")
    assert parse_size(format_size(size)) == size
