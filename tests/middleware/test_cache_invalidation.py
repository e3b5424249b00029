from __future__ import annotations

import pytest

from gateway.middleware.cache import Cache
from gateway.middleware.cache_invalidation import CacheInvalidationMiddleware
from gateway.stores.memory import MemoryStore
from tests.middleware.cache_origin import Answer, Clock, Origin, ask, cached, get, is_hit
from tests.support.messages import Fields, call, http_scope

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "status", "fields", "dropped"),
    [
        pytest.param("POST", 200, [], b"/a", id="9111-4.4-target"),
        pytest.param("POST", 303, [(b"Location", b"/b")], b"/b", id="9111-4.4-location"),
        pytest.param("PUT", 204, [(b"content-location", b"b")], b"/b", id="9111-4.4-content-location"),
        pytest.param("POST", 303, [(b"location", b"http://other.example/b")], b"/a", id="9111-4.4-other-origin"),
        pytest.param("POST", 500, [], b"", id="9111-4.4-error"),
        pytest.param("SEARCH", 200, [], b"", id="9111-4.4-safe"),
        pytest.param("GET", 200, [], b"", id="9111-4.4-get"),
    ],
)
async def test_what_unsafe_requests_drop(method: str, status: int, fields: Fields, dropped: bytes) -> None:
    clock = Clock()
    cache = Cache(MemoryStore(clock=clock), clock=clock)
    reading = cached(Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")])), clock, cache=cache)
    writing = CacheInvalidationMiddleware(Origin(clock, Answer(status, fields)), cache=cache)
    for target in (b"/a", b"/b"):
        await get(reading, target)
    sent = await ask(writing, method, b"/a")
    assert sent.status == status and not sent.values(b"cache-status")
    for target in (b"/a", b"/b"):
        gone = target == dropped or (bool(dropped) and target == b"/a")
        assert is_hit(await get(reading, target)) is not gone


async def test_scopes_of_other_types_pass() -> None:
    clock = Clock()
    origin = Origin(clock)
    await call(CacheInvalidationMiddleware(origin, cache=Cache()), {**http_scope(), "type": "lifespan"})
    assert origin.count == 1
