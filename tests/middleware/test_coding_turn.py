from __future__ import annotations

import asyncio

from gateway.middleware.coding_turn import HOLD_US, SHORT_HOLD_US, SHORT_US, CodingTurn


def test_what_is_taken_is_taken_until_the_loop_turns() -> None:
    async def run() -> None:
        turn = CodingTurn()
        assert turn.takes(HOLD_US * 0.6)
        assert not turn.takes(HOLD_US * 0.6)
        assert turn.takes(HOLD_US * 0.4)
        assert not turn.takes(HOLD_US * 0.3)
        await asyncio.sleep(0)
        assert turn.takes(HOLD_US)
        await asyncio.sleep(0)
        assert not turn.takes(HOLD_US + 1)
        assert turn.takes(HOLD_US)

    asyncio.run(run())


def test_short_bodies_may_take_longer_together() -> None:
    async def run() -> None:
        turn = CodingTurn()
        for _ in range(int(SHORT_HOLD_US / SHORT_US)):
            assert turn.takes(SHORT_US)
        assert not turn.takes(1)
        await asyncio.sleep(0)
        assert turn.takes(HOLD_US)
        assert not turn.takes(SHORT_US + 1)
        assert turn.takes(SHORT_US)

    asyncio.run(run())


def test_pieces_of_streams_have_no_more_time_for_being_short() -> None:
    async def run() -> None:
        turn = CodingTurn()
        for _ in range(int(HOLD_US / SHORT_US)):
            assert turn.takes(SHORT_US, is_whole=False)
        assert not turn.takes(SHORT_US, is_whole=False)
        assert turn.takes(SHORT_US)

    asyncio.run(run())


def test_a_loop_that_ended_in_between_holds_nothing_back() -> None:
    async def run(turn: CodingTurn) -> bool:
        return turn.takes(HOLD_US)

    turn = CodingTurn()
    assert asyncio.run(run(turn))
    assert asyncio.run(run(turn))
