from __future__ import annotations

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cache_status import forward_status, hit_status, item, own_status


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(hit_status(b"gw", 60.9), b"gw; hit; ttl=60", id="2.1-hit"),
        pytest.param(hit_status(b"gw", -5), b"gw; hit; ttl=-5", id="2.5-stale"),
        pytest.param(forward_status(b"gw", "uri-miss"), b"gw; fwd=uri-miss", id="2.2-forwarded"),
        pytest.param(
            forward_status(b"gw", "stale", status=304, stored=True, ttl_s=9),
            b"gw; fwd=stale; fwd-status=304; stored; ttl=9",
            id="2.3-validated",
        ),
        pytest.param(forward_status(b"gw", "uri-miss", collapsed=True), b"gw; fwd=uri-miss; collapsed", id="2.6"),
        pytest.param(forward_status(b"gw", "miss", key='a"b'), b'gw; fwd=miss; key="a\\"b"', id="2.7-key"),
        pytest.param(forward_status(b"gw", "miss", detail="vary *"), b'gw; fwd=miss; detail="vary *"', id="2.8-string"),
        pytest.param(own_status(b"gw", "only-if-cached"), b"gw; detail=only-if-cached", id="2.8-token"),
    ],
)
def test_values(value: bytes, expected: bytes) -> None:
    assert value == expected


@given(st.text(min_size=1))
def test_any_name_makes_a_structured_field(name: str) -> None:
    parsed = http_sf.parse(forward_status(item(name), "miss", key=name, detail=name), tltype="list")
    assert len(parsed) == 1  # type: ignore[arg-type]
