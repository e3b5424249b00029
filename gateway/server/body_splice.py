"""A request body that leaves for the upstream without passing through this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.server.cycle import Cycle
from gateway.server.incoming_body import IncomingBody
from gateway.server.limits import NEVER
from gateway.server.splice import CAN_SPLICE, MAX_AT_A_TIME, MIN_BYTES, Splice

if TYPE_CHECKING:
    from gateway.server.body_intake import BodyIntake
    from gateway.server.protocol import GatewayProtocol


class BodySplice:
    """The rest of one body on its way; keeps the accounts that would be kept of its pieces.

    ``owner`` hears when it has ended.
    """

    def __init__(self, owner: BodyIntake, connection: GatewayProtocol, cycle: Cycle, body: IncomingBody) -> None:
        self._owner = owner
        self._connection = connection
        self._cycle = cycle
        self._body = body
        self._splice: Splice | None = None

    @staticmethod
    def is_worth_it(connection: GatewayProtocol, cycle: Cycle, body: IncomingBody) -> bool:
        """Whether what is left of a body is large, of known length, and goes to a socket as it is."""
        left = body.left
        return (
            CAN_SPLICE
            and left is not None
            and left >= MIN_BYTES
            and connection.connections.splices < MAX_AT_A_TIME
            and cycle.raw_target() is not None
        )

    def start(self) -> bool:
        """Begin, once nothing of the body waits in this process any more; False as long as something does."""
        target, left = self._cycle.raw_target(), self._body.left
        if target is None or target.get_write_buffer_size() or self._cycle.is_flow_paused or not left:
            return False
        connection = self._connection
        try:
            self._splice = Splice(self, connection.transport, target, left, connection.loop)
        except OSError:
            # No descriptors are left: reading needs none.
            return False
        connection.connections.splices += 1
        self._expect_more()
        return True

    def stop(self) -> None:
        """Move nothing more."""
        if self._splice is not None:
            self._splice.stop()
            self._splice = None
            self._connection.connections.splices -= 1

    def on_moved(self, count: int) -> None:
        self._body.skip(count)
        self._cycle.body_moved(count)
        self._expect_more()

    def on_behind(self, is_behind: bool) -> None:
        connections = self._connection.connections
        if is_behind:
            self._connection.deadline = NEVER
            self._cycle.hold_body(True)
            connections.hang_ups.add(self._connection, self._connection.transport)
        else:
            self._cycle.hold_body(False)
            connections.hang_ups.discard(self._connection)
            self._expect_more()

    def on_spliced(self) -> None:
        self.stop()
        self._owner.on_spliced()

    def on_splice_broken(self) -> None:
        self.stop()
        self._owner.on_splice_broken()

    def _expect_more(self) -> None:
        connection = self._connection
        connection.deadline = self._body.deadline(connection.connections.clock())
