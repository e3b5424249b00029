"""The request body of one exchange on its way from the connection to its cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.server.body_splice import BodySplice
from gateway.server.incoming_body import IncomingBody
from gateway.server.limits import HIGH_WATER_BYTES, NEVER

if TYPE_CHECKING:
    from gateway.server.cycle import Cycle
    from gateway.server.protocol import GatewayProtocol


class BodyIntake:
    """Hands a body on as it comes, no faster than it is taken, and has the kernel move what is large.

    It is the ``body`` of its connection as long as the body is incomplete.
    """

    __slots__ = ("_body", "_connection", "_cycle", "_splice")

    def __init__(self, connection: GatewayProtocol, cycle: Cycle) -> None:
        connections = connection.connections
        now = connections.clock()
        self._connection = connection
        self._cycle = cycle
        self._body = body = IncomingBody(connection.head, connections.limits, now)
        self._splice: BodySplice | None = None
        """What moves the body while nothing is read."""
        if not cycle.must_continue:
            # One that waits for 100 (Continue) owes nothing yet.
            connection.deadline = body.deadline(now)

    def feed(self, data: bytes) -> bytes:
        """Hand the body in ``data`` to the exchange; what follows its end. Raises BadRequest for bad chunks."""
        connection, cycle, body = self._connection, self._cycle, self._body
        cycle.must_continue = False
        piece, rest = body.feed(data)
        if piece:
            cycle.add_body(piece)
        if body.complete:
            connection.body = None
            connection.deadline = NEVER
            cycle.end_body()
        else:
            connection.deadline = body.deadline(connection.connections.clock())
        if cycle.queued_bytes > HIGH_WATER_BYTES or cycle.is_flow_paused:
            connection.pause_reading()
        elif not body.complete and BodySplice.is_worth_it(connection, cycle, body):
            # What has just been written leaves when the event loop turns.
            connection.pause_reading()
            connection.loop.call_soon(self._begin_splice)
        return rest

    @property
    def is_moved(self) -> bool:
        """Whether the kernel reads in the place of the connection."""
        return self._splice is not None

    def expect_again(self) -> None:
        """The client is asked to send only now."""
        now = self._connection.connections.clock()
        self._body.restart(now)
        self._connection.deadline = self._body.deadline(now)

    def resume(self, paused_at: float) -> None:
        """Something is read again for the first time since ``paused_at``."""
        now = self._connection.connections.clock()
        self._body.forgive(now - paused_at)
        self._connection.deadline = self._body.deadline(now)

    def stop(self) -> None:
        """Have nothing more moved by the kernel."""
        if self._splice is not None:
            self._splice.stop()
            self._splice = None

    # The kernel's way.

    def _begin_splice(self) -> None:
        """Have the rest of a body moved by the kernel, if everything before it has left."""
        connection = self._connection
        if connection.body is not self or not connection.is_read_paused or self._splice is not None:
            return
        connection.connections.hang_ups.discard(connection)
        self._splice = splice = BodySplice(self, connection, self._cycle, self._body)
        if not splice.start():
            self._splice = None
            connection.body_taken(self._cycle)

    def on_spliced(self) -> None:
        """The last byte of the body has been moved."""
        connection = self._connection
        self._splice = connection.body = None
        connection.deadline = NEVER
        connection.resume_reading()
        self._cycle.end_body()

    def on_splice_broken(self) -> None:
        """One of the two sockets has ended: its transport finds out how."""
        self._splice = None
        self._connection.resume_reading()
