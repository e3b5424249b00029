"""The steps of one exchange with an upstream."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from starlette.types import Receive, Scope, Send

from gateway.errors import BodyTooLarge, CapacityError, UpstreamError, UpstreamTimeout
from gateway.exchange import BEGUN_KEY, WHOLE_FOLLOWS, Attempt, Exchange, Message, ResponseRule, exchange_of
from gateway.http.fields import Fields, get_first
from gateway.http.hop_by_hop import inbound_fields
from gateway.proxy.attempts import Attempts
from gateway.proxy.client_watch import ClientWatch
from gateway.proxy.outbound import Outbound
from gateway.proxy.relay import interim_relay, relay
from gateway.proxy.request_body import BodySource, RequestBody, has_body
from gateway.proxy.retry import NO_RETRY, RetryPolicy
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.http1_connect import ATTEMPT_DELAY_S, Patience
from gateway.upstream.messages import InboundResponse, OutboundRequest
from gateway.upstream.pool import Upstream

# What ``answer_rules`` look at: most answers have none of it.
_RULED = frozenset([b"location", b"content-location", b"refresh", b"set-cookie"])


class Begun(Protocol):
    """A first attempt that was begun on the short way; times are monotonic seconds."""

    deadline: float
    """When the route's time to the response head is over."""
    is_sent: bool
    """Whether the attempt was made."""
    was_stale: bool
    """Whether it met a connection that the upstream had closed, and so counts for nothing."""
    is_taken: bool
    """Whether somebody has taken it over already, or it was let go."""

    def take(self) -> Endpoint:
        """The endpoint that was chosen, counted in flight: from now on it is to be released."""
        ...

    async def outcome(self) -> InboundResponse | None:
        """The response; None when the attempt counts for nothing. Raises what happened in its place."""


class ProxyHandler:
    """Sends a request to an upstream and relays the answer.

    1 take the body, within its limit   2 choose an endpoint   3 build the request   4 send it, up to the response head
    5 on failure ask the retry policy and go back to 2   6 relay head and body   7 let go of the endpoint

    ``timeout_s`` is the time to the response head, all attempts and queueing included; ``idle_timeout_s`` the longest
    silence inside a response body; ``max_body`` and ``buffer_bytes`` in bytes, ``max_body`` None for no limit. Raises
    the errors of ``gateway.errors`` for whoever answers them. ``hidden`` fields of answers are dropped, and
    ``answer_rules`` applied to what is left.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        outbound: Outbound,
        client_watch: ClientWatch,
        timeout_s: float = 30.0,
        idle_timeout_s: float = 60.0,
        max_body: int | None = None,
        buffer_bytes: int = 0,
        retry: RetryPolicy = NO_RETRY,
        hidden: frozenset[bytes] = frozenset(),
        answer_rules: tuple[ResponseRule, ...] = (),
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream = upstream
        self._outbound = outbound
        self._client_watch = client_watch
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_body = max_body
        self._buffer_bytes = buffer_bytes
        self._retry = retry
        self._hidden = hidden
        self._answer_rules = answer_rules
        self._rng = rng or random.Random()
        self._clock = clock
        self._is_sticky = upstream.settings.sticky is not None
        self._passes = "connect" in retry.on
        """Whether another endpoint may be asked while it takes long to connect to one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope) or Exchange(scope["method"], scope["raw_path"], self._clock)
        exchange.upstream = self.upstream.settings.name
        headers = scope["headers"]
        carries_body, length = has_body(headers, scope["http_version"])
        if length is not None and self._max_body is not None and length > self._max_body:
            raise BodyTooLarge(f"the request announces {length} bytes, more than {self._max_body}")
        # :: Step 1
        source: BodySource | None = (scope.get("extensions") or {}).get("gateway.body") if carries_body else None
        body = RequestBody(
            receive,
            length=length,
            max_bytes=self._max_body,
            replay_bytes=self._retry.max_body,
            clock=self._clock,
            # Whoever has put itself before the server's receive() wants to see the body.
            source=source if source is not None and source.receive == receive else None,
        )
        holds_back = carries_body and get_first(headers, b"expect") is not None
        has_left = None if source is None else source.has_left
        with self._client_watch.watch(body, holds_back=holds_back, has_left=has_left):
            try:
                if self._buffer_bytes and carries_body:
                    await body.fill(self._buffer_bytes)
                endpoint, response = await self._attempts(scope, exchange, body, carries_body)
            finally:
                exchange.body_bytes_in = body.received_bytes
            # :: Step 6
            try:
                if self._is_sticky:
                    self._stick(scope, exchange, endpoint)
                fields = self.public_fields(scope, response.status_code, response.raw_fields)
                if not response.request_complete:
                    # An early answer: the rest of the upload is not wanted, so the connection cannot be used again.
                    fields.append((b"connection", b"close"))
                start: Message = {"type": "http.response.start", "status": response.status_code, "headers": fields}
                whole = response.whole
                if whole is not None:
                    start[WHOLE_FOLLOWS] = True
                    await send(start)
                    await send({"type": "http.response.body", "body": whole})
                else:
                    await relay(start, response.stream, send)
            except UpstreamError as error:
                self.upstream.record(endpoint, ok=False, error=error.reason)
                raise
            finally:
                # :: Step 7
                exchange.body_bytes_in = body.received_bytes
                if response.whole is None:
                    response.stream.close()
                    self.upstream.release(endpoint)

    async def _attempts(
        self, scope: Scope, exchange: Exchange, body: RequestBody, carries_body: bool
    ) -> tuple[Endpoint, InboundResponse]:
        """The endpoint that answered, still held unless the answer is whole, and its answer."""
        upstream = self.upstream
        fields = self._outbound.fields(scope, exchange)
        begun: Begun | None = scope.get(BEGUN_KEY)
        if begun is not None and begun.is_taken:
            # A layer asks again, or after the client has left: what was begun is over.
            begun = None
        deadline = self._clock() + self._timeout_s if begun is None else begun.deadline
        attempts = Attempts(self._retry, upstream, exchange.method, body)
        exchange.decision = upstream.decision
        try:
            while True:
                # :: Step 2; what was begun is looked at whatever the time is: it holds a place
                remaining_s = self._remaining_s(deadline, body) if begun is None else deadline - self._clock()
                endpoint = upstream.try_acquire(scope, attempts.tried) if begun is None else begun.take()
                if endpoint is None:
                    if attempts.holds_a_place:
                        break
                    endpoint = await upstream.acquire(scope, attempts.tried, remaining_s)
                if attempts.unsent is not None:
                    attempts.spend_on(endpoint)
                try:
                    if endpoint in attempts.tried:
                        await attempts.pause(self._rng)
                    outgoing = await _at_hand(body) if carries_body else None
                    # :: Step 3
                    request = self._request(scope, exchange, outgoing, endpoint, fields, remaining_s, attempts.tried)
                    # :: Step 4
                    response = await self._attempt(exchange, endpoint, request, begun)
                except UpstreamError as error:
                    # :: Step 5
                    if not attempts.after_error(endpoint, error):
                        raise
                except BaseException:
                    upstream.release(endpoint)
                    raise
                else:
                    # :: Step 5
                    if not attempts.after_answer(endpoint, response):
                        break
                begun = None
        except (CapacityError, UpstreamError):
            # The upstream's last answer, when there was one, is better than the gateway's own.
            if attempts.last is None:
                raise
        except BaseException:
            attempts.drop()
            raise
        finally:
            attempts.end()
        assert attempts.last is not None
        return attempts.last

    async def _attempt(
        self, exchange: Exchange, endpoint: Endpoint, request: OutboundRequest, begun: Begun | None
    ) -> InboundResponse:
        """Send a request, or wait for what became of one that was begun; what happened is written down."""
        response: InboundResponse | None = None
        attempt = exchange.attempts[-1] if begun is not None and begun.is_sent else None
        try:
            if attempt is not None and begun is not None:
                response = await begun.outcome()
            if response is None:
                if begun is not None and begun.was_stale:
                    request.extensions["fresh"] = True
                attempt = Attempt(endpoint.label, self._clock())
                exchange.attempts.append(attempt)
                answer = await endpoint.transport.handle_async_request(request)
                assert isinstance(answer, InboundResponse)
                response = answer
        except UpstreamError as error:
            assert attempt is not None
            attempt.outcome = type(error).__name__
            attempt.failed_s = self._clock() - attempt.started
            raise
        assert attempt is not None
        attempt.head_s = self._clock() - attempt.started
        attempt.status = response.status_code
        attempt.connect_s = response.connect_s
        attempt.outcome = "ok"
        return response

    def _request(
        self,
        scope: Scope,
        exchange: Exchange,
        body: bytes | RequestBody | None,
        endpoint: Endpoint,
        fields: Fields,
        remaining_s: float,
        tried: Collection[Endpoint],
    ) -> OutboundRequest:
        """One attempt's request to one endpoint."""
        head_s = remaining_s
        if 0 < self._retry.attempt_timeout_s < head_s:
            head_s = self._retry.attempt_timeout_s
        connect_s = endpoint.connect_timeout_s
        upstream = self.upstream
        passes = self._passes and upstream.has_choice and upstream.has_another(endpoint, tried)
        return OutboundRequest(
            scope["method"].encode("ascii"),
            endpoint.url,
            self._outbound.fields_for(endpoint, fields),
            body,
            {
                "target": self._outbound.target_for(endpoint, scope, exchange.params),
                "timeout": {
                    "connect": connect_s if connect_s < head_s else head_s,
                    "patience": Patience(ATTEMPT_DELAY_S, partial(upstream.has_another, endpoint, tried))
                    if passes
                    else None,
                    "head": head_s,
                    "read": self._idle_timeout_s,
                    "write": self._idle_timeout_s,
                },
                "on_interim": interim_relay(scope, self._hidden),
                "scheme": exchange.scheme,
                "client": (exchange.client, 0),
            },
        )

    def _remaining_s(self, deadline: float, body: RequestBody) -> float:
        """Seconds to the deadline; the time spent waiting for the client's body does not count."""
        remaining = deadline + body.waited_s - self._clock()
        if remaining <= 0:
            raise UpstreamTimeout(f"no answer within {self._timeout_s:g} s")
        return remaining

    def public_fields(self, scope: Scope, status: int, fields: Fields) -> Fields:
        """What the client sees of an answer's fields: without those of the hop, references and cookies made public."""
        fields = inbound_fields(fields, drop=self._hidden)
        if status == 204:
            # RFC 9110 section 8.6
            fields = [field for field in fields if field[0] != b"content-length"]
        for field in fields:
            if field[0] in _RULED:
                head: Message = {"type": "http.response.start", "status": status, "headers": fields}
                for rule in self._answer_rules:
                    rule(scope, head)
                ruled: Fields = head["headers"]
                return ruled
        return fields

    def _stick(self, scope: Scope, exchange: Exchange, endpoint: Endpoint) -> None:
        cookie = self.upstream.sticky_cookie(scope, endpoint, secure=exchange.scheme == "https")
        if cookie is not None:
            exchange.response_fields.append((b"set-cookie", cookie))


async def _at_hand(body: RequestBody) -> bytes | RequestBody:
    """The whole body where it is there already and may go with the head in one write; else the body as a stream."""
    whole = await body.at_hand() if body.length is not None else None
    return body if whole is None else whole
