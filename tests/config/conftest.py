"""Fixtures of the configuration's tests."""

from __future__ import annotations

import pytest

from gateway.config import availability


@pytest.fixture
def everything_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract as it will be: keys are judged by their values, whether or not their feature is built."""
    monkeypatch.setattr(availability, "NOT_YET", {})
