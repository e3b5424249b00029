"""How requests are shared between upstreams by weight."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from starlette.types import Receive, Scope, Send

from gateway.proxy.split import SplitHandler


class Side:
    """An application with a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


OLD, NEW = Side("old"), Side("new")


def share(split: SplitHandler, clients: int = 20_000) -> dict[str, float]:
    chosen = Counter(split.choose({"number": number}).name for number in range(clients))  # type: ignore[attr-defined]
    return {name: count / clients for name, count in chosen.items()}


def client_key(scope: Scope) -> bytes:
    return b"client %d" % scope["number"]


@pytest.mark.parametrize("key", [None, client_key], ids=["random", "by-client"])
def test_each_side_gets_its_weight(key: object) -> None:
    split = SplitHandler([(OLD, 95), (NEW, 5)], key=key, rng=random.Random(7))  # type: ignore[arg-type]
    assert share(split) == pytest.approx({"old": 0.95, "new": 0.05}, abs=0.01)


def test_a_client_keeps_its_side() -> None:
    split = SplitHandler([(OLD, 50), (NEW, 50)], key=client_key)
    assert len({split.choose({"number": 42}) for _ in range(50)}) == 1


def test_a_larger_share_moves_only_the_clients_of_that_share() -> None:
    before = SplitHandler([(OLD, 90), (NEW, 10)], key=client_key)
    after = SplitHandler([(OLD, 80), (NEW, 20)], key=client_key)
    moved = [n for n in range(10_000) if before.choose({"number": n}) is not after.choose({"number": n})]
    assert len(moved) / 10_000 == pytest.approx(0.10, abs=0.01)


def test_a_weight_of_zero_gets_nothing() -> None:
    assert share(SplitHandler([(OLD, 1), (NEW, 0)]), 100) == {"old": 1.0}


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        SplitHandler([(OLD, 0)])
