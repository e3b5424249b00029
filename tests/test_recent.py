"""What was met lately, and what was not."""

from __future__ import annotations

from gateway.recent import Recent


def test_a_thing_is_known_when_it_comes_again() -> None:
    recent = Recent()
    assert not recent.has_met(b"a")
    assert recent.has_met(b"a")
    assert not recent.has_met(b"b")
    assert recent.has_met(b"a")


def test_what_came_long_ago_is_forgotten_and_nothing_grows() -> None:
    recent = Recent()
    recent.has_met("first")
    size = len(recent._hashes)
    for number in range(20 * size):
        recent.has_met(number)
    assert not recent.has_met("first")
    assert len(recent._hashes) == size


def test_nothing_of_the_things_themselves_is_kept() -> None:
    recent = Recent()
    recent.has_met(b"Cookie: secret")
    assert {type(kept) for kept in recent._hashes} == {int}
