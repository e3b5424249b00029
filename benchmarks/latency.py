"""Percentiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the sorted ``values`` do not exceed; 0 when there are none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 and p99.9."""
    ordered = sorted(values)
    return percentile(ordered, 0.5), percentile(ordered, 0.99), percentile(ordered, 0.999)
