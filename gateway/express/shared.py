"""The lane of a route that scripts of other origins may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.exchange import Admitted
from gateway.http.fields import Fields
from gateway.middleware.cors import CorsRule

if TYPE_CHECKING:
    from gateway.express.table import Express, ExpressClient, Lane, Passing, Way

_MAX_LANES = 64
"""Each remembers fields on its own, and a rule may allow any number of origins."""


class SharedLane:
    """A lane for each thing that an answer may say to the script that asked: ``make`` makes one for these fields.

    So nobody can get, nor a cache behind the gateway be given, what was put together for another origin.
    """

    def __init__(self, name: str, rule: CorsRule, make: Callable[[Fields], Lane | None]) -> None:
        self.name = name
        self._rule = rule
        self._make = make
        self._lanes: dict[tuple[tuple[bytes, bytes], ...], Lane | None] = {}

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Go on as the lane for the origin that the request names, if any."""
        lane: Lane | None = admitted.notes.get(self)
        if lane is None:
            lane = self._lane(self._rule.granted({"headers": admitted.fields}))
            admitted.note(self, lane)
        return lane is not None and lane.begin(express, admitted, target, way, client, passing)

    def _lane(self, granted: Fields) -> Lane | None:
        key = tuple(granted)
        if key not in self._lanes:
            if len(self._lanes) >= _MAX_LANES:
                self._lanes.clear()
            self._lanes[key] = self._make(granted)
        return self._lanes[key]
