"""What is worth remembering: what comes again.

Most of what a gateway meets comes once: targets, traces, validators. Memos that kept it would push out what they are
for, and throwing thousands of such things away at once, or having the garbage collector look through them, holds every
client up: 2 ms and 15 ms have been seen.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

_PLACES = 8192
"""A power of two. A thing counts as met until another comes to its place: as many new ones leave a third of them."""
_TAG_BITS = 16


class Recent:
    """Knows what was met lately, by a few bits of hashes: nothing that anybody sent can be found in it."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags = array("H", bytes(_PLACES * _TAG_BITS // 8))

    def has_met(self, thing: Hashable) -> bool:
        """Whether ``thing`` was asked about lately; from now on it was. One of 65,536 new things counts as met."""
        found = hash(thing)
        place = found & (_PLACES - 1)
        tag = found >> 16 & 0xFFFF
        if self._tags[place] == tag:
            return True
        self._tags[place] = tag
        return False
