"""What was met lately, and what was not."""

from __future__ import annotations

from gateway.recent import Recent


def test_a_thing_is_known_when_it_comes_again() -> None:
    recent = Recent()
    for number in range(1000):
        recent.has_met(number)
        assert recent.has_met(number)


def test_hardly_anything_new_is_taken_for_known() -> None:
    recent = Recent()
    assert sum(recent.has_met(b"%d" % number) for number in range(10_000)) < 10


def test_what_came_long_ago_is_forgotten_and_nothing_grows() -> None:
    recent = Recent()
    for number in range(1000):
        recent.has_met(("early", number))
    size = len(recent._tags)
    for number in range(20 * size):
        recent.has_met(("late", number))
    assert sum(recent.has_met(("early", number)) for number in range(1000)) < 50
    assert len(recent._tags) == size
