"""What is worth remembering: what comes again.

Most of what a gateway meets comes once: targets, traces, validators. Memos that kept it would push out what they are
for, and throwing thousands of such things away at once, or having the garbage collector look through them, holds every
client up: 2 ms and 15 ms have been seen.
"""

from __future__ import annotations

from collections.abc import Hashable

_PLACES = 1024
"""A power of two. Of what comes in between, so much may be new before something counts as new again."""


class Recent:
    """Knows what was met lately, by a few bits of hashes: nothing that anybody sent can be found in it."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags = bytearray(_PLACES)

    def has_met(self, thing: Hashable) -> bool:
        """Whether ``thing`` was asked about lately; from now on it was. One of 256 new things counts as met."""
        found = hash(thing)
        place = found & (_PLACES - 1)
        tag = found >> 16 & 255
        if self._tags[place] == tag:
            return True
        self._tags[place] = tag
        return False
