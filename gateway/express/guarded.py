"""The lane of a route that asks about the client's address, or sheds load: questions that take no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.exchange import Admitted
from gateway.middleware.access import AccessMiddleware
from gateway.middleware.overload import OverloadMiddleware

if TYPE_CHECKING:
    from gateway.express.table import Express, ExpressClient, Lane, Way


class GuardedLane:
    """``lane``, for those whom the route's own layers would let pass; the others are refused by these."""

    def __init__(self, lane: Lane, *, access: AccessMiddleware | None, overload: OverloadMiddleware | None) -> None:
        self.name = lane.name
        self._lane = lane
        self._access = access
        self._overload = overload

    def begin(self, express: Express, admitted: Admitted, target: bytes, way: Way, client: ExpressClient) -> bool:
        """Go on as ``lane`` does; False for whom a layer would refuse."""
        if self._access is not None:
            is_admitted = admitted.notes.get(self)
            if is_admitted is None:
                is_admitted = admitted.notes[self] = self._access.admits(admitted.identity.client)
            if not is_admitted:
                return False
        if self._overload is not None and self._overload.overload(arriving=1):
            return False
        return self._lane.begin(express, admitted, target, way, client)
