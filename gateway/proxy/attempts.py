"""The attempts of one exchange: who has had it, what came of that, and whether there is another."""

from __future__ import annotations

import asyncio
import random

from gateway.errors import ConnectPending, UpstreamError
from gateway.http.fields import get_first
from gateway.proxy.request_body import RequestBody
from gateway.proxy.retry import RetryPolicy
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.messages import InboundResponse
from gateway.upstream.outlier import FAILURE_STATUSES
from gateway.upstream.pool import Upstream


class Attempts:
    """Counts attempts, and holds the answer that the client gets unless a better one comes.

    ``after_error`` and ``after_answer`` take each attempt's outcome and the place that its endpoint held; only the
    endpoint of the last answer stays held, and that while its body is still to come.
    """

    __slots__ = (
        "_body",
        "_count",
        "_method",
        "_passed",
        "_policy",
        "_retry_after",
        "_spent",
        "_upstream",
        "last",
        "tried",
        "unsent",
    )

    def __init__(self, policy: RetryPolicy, upstream: Upstream, method: str, body: RequestBody) -> None:
        self._policy = policy
        self._upstream = upstream
        self._method = method
        self._body = body
        self._count = 0
        self._spent = 0
        """Retries that are on the upstream's budget."""
        self._retry_after: bytes | None = None
        self._passed: list[Endpoint] = []
        """Those of ``tried`` that have not failed: there was no waiting for a connection to them."""
        self.tried: list[Endpoint] = []
        self.last: tuple[Endpoint, InboundResponse] | None = None
        self.unsent: UpstreamError | None = None
        """The last failure, when nothing had been sent."""

    @property
    def holds_a_place(self) -> bool:
        """Whether the last answer keeps its endpoint: to wait for another place could be to wait for that one."""
        return self.last is not None and self.last[1].whole is None

    def spend_on(self, endpoint: Endpoint) -> None:
        """Count what was never sent as a retry where ``endpoint`` had it before. Raises that failure if none is left.

        Any other endpoint may have it, whatever count and budget say: it has burdened nobody.
        """
        unsent, self.unsent = self.unsent, None
        has_failed = endpoint in self.tried and endpoint not in self._passed
        if unsent is not None and has_failed and not self._take():
            self._upstream.release(endpoint)
            raise unsent

    async def pause(self, rng: random.Random) -> None:
        """Spare an endpoint that has failed."""
        await asyncio.sleep(self._policy.delay_s(self._count, rng, self._retry_after))

    def after_error(self, endpoint: Endpoint, error: UpstreamError) -> bool:
        """Whether there is another attempt after ``error``."""
        again = self._policy.allows_error(error, self._method) and self._body.rewind(was_sent=error.request_sent)
        # While the place is held: this request is one of those that the budget is a share of.
        if again and error.request_sent:
            again = self._take()
        if isinstance(error, ConnectPending):
            self._upstream.release_after(endpoint, error.outcome)
            self._passed.append(endpoint)
        else:
            self._upstream.release(endpoint)
            self._upstream.record(endpoint, ok=False, error=error.reason)
            # Whoever took too long to connect is better than whoever failed.
            self.tried = [other for other in self.tried if other not in self._passed]
            self._passed.clear()
        if again:
            self.unsent = None if error.request_sent else error
            self.tried.append(endpoint)
        return again

    def after_answer(self, endpoint: Endpoint, response: InboundResponse) -> bool:
        """Whether there is another attempt after ``response``."""
        policy, status = self._policy, response.status_code
        again = status in policy.on and policy.allows_status(status, self._method)
        # An upload that still runs beside its answer gives its pieces to this endpoint, and to no other.
        again = again and (response.request_complete or response.whole is not None)
        again = again and self._body.rewind(was_sent=True) and self._take()
        if self.last is not None:
            self.drop()
        self.last = endpoint, response
        if response.whole is not None:
            self._upstream.release(endpoint)
        self._upstream.record(endpoint, ok=status not in FAILURE_STATUSES)
        if again:
            self._retry_after = get_first(response.raw_fields, b"retry-after")
            self.tried.append(endpoint)
        return again

    def drop(self) -> None:
        """Let go of an answer that nobody will read."""
        if self.last is not None and self.last[1].whole is None:
            endpoint, response = self.last
            response.stream.close()
            self._upstream.release(endpoint)

    def end(self) -> None:
        """Give back what was taken from the upstream's budget."""
        for _ in range(self._spent):
            self._upstream.retry_budget.give_back()

    def _take(self) -> bool:
        """Whether there may be another retry; it counts."""
        self._count += 1
        if self._count >= self._policy.attempts or not self._upstream.retry_budget.try_spend():
            return False
        self._spent += 1
        return True
