"""Codes answers in what the client takes, and decodes what it does not take.

app.add_middleware(CompressionMiddleware, min_size=512)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BadUpstreamResponse, ResponseBroken
from gateway.exchange import TAGS_AS_GIVEN, WHOLE_FOLLOWS
from gateway.http.coded_answer import CodingRule, Plan, fields_of_coded, with_strong_tags
from gateway.http.coding import (
    CODINGS,
    BoundedDecoder,
    DecodingError,
    Encoder,
    Level,
    TooMuchDecoded,
    code_whole,
    coding_us,
    make_encoder,
    short_coder,
)
from gateway.http.fields import Fields
from gateway.http.negotiation import IDENTITY
from gateway.middleware.asgi3 import asgi3
from gateway.middleware.coding_threads import coding_threads
from gateway.middleware.coding_turn import CodingTurn
from gateway.middleware.decoding import PacedSteps

COMPRESSIBLE_TYPES = (
    "text/*",
    "application/atom+xml",
    "application/geo+json",
    "application/graphql-response+json",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/problem+json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "image/x-icon",
)

# A piece of a stream takes longer than as much of a whole body: it is flushed, and the tables of its encoder have left
# the processor's cache for those of other streams.
_PIECE_FACTOR = 4
_MAX_DECODED_BYTES = 64 * 1024 * 1024
_MAX_DECODED_RATIO = 100.0


class CompressionMiddleware:
    """Codes response bodies, RFC 9110 sections 8.4 and 12.5.3.

    ``codings`` in order of preference among what the client weighs equally. ``min_size`` in bytes applies where the
    length is known. ``types`` are media types, ``text/*`` standing for a whole tree. Bodies stream: each message leaves
    at once, flushed. What would take too much of a ``turn`` of the event loop is coded in a thread.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        codings: Sequence[str] = CODINGS,
        min_size: int = 1024,
        types: Sequence[str] = COMPRESSIBLE_TYPES,
        level: Level = "fast",
        turn: CodingTurn | None = None,
    ) -> None:
        unknown = sorted(set(codings) - set(CODINGS))
        if unknown:
            raise ValueError(f"unknown codings: {', '.join(unknown)}; known are {', '.join(CODINGS)}")
        self.app = app
        self.rule = CodingRule(codings=codings, min_size=min_size, types=types)
        self.level = level
        self._turn = turn or CodingTurn()
        self._costs_us = {coding: coding_us(coding, level) for coding in codings}
        self._short_coders = {coding: short_coder(coding, level) for coding in codings}

    # A plain function: there is nothing to do after the application, and a coroutine would cost 0.5 us.
    @asgi3
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        headers = scope["headers"]
        for name, value in headers:
            if name == b"if-none-match" and b"W/" in value and TAGS_AS_GIVEN not in scope:
                scope = {**scope, "headers": with_strong_tags(headers)}
                break
        return self.app(scope, receive, _Response(self, scope["method"] == "HEAD", headers, send).send)

    def whole_answer(
        self, status: int, fields: Fields, body: bytes, request: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Fields, bytes] | None:
        """A whole answer to a GET with the fields ``request``, as it goes out; None where it has to be waited for."""
        plan = self.rule.plan(status, fields, request)
        if plan is None:
            return fields, body
        if plan.applied:
            return None
        coding = plan.coding
        if coding == IDENTITY or len(body) < self.rule.min_size:
            return plan.fields, body
        coded = self.coded_now(coding, body)
        return None if coded is None else (fields_of_coded(plan.fields, coding, len(coded)), coded)

    def coded_now(self, coding: str, body: bytes) -> bytes | None:
        """A whole body in ``coding``; None where that would hold the event loop too long."""
        call_us, byte_us = self._costs_us[coding]
        return self._short_coders[coding](body) if self._turn.takes(call_us + byte_us * len(body)) else None

    def takes_piece(self, coding: str, size: int) -> bool:
        """Whether a piece of so many bytes may be coded before the event loop turns."""
        call_us, byte_us = self._costs_us[coding]
        return self._turn.takes(call_us + byte_us * size * _PIECE_FACTOR, is_whole=False)


class _Response:
    """The answer of one request: decided at its head, then coded at once or piece by piece."""

    __slots__ = ("_decoder", "_encoder", "_head", "_is_head", "_plan", "_policy", "_request", "_send")

    def __init__(
        self, policy: CompressionMiddleware, is_head: bool, request: Sequence[tuple[bytes, bytes]], send: Send
    ) -> None:
        self._policy = policy
        self._is_head = is_head
        self._request = request
        self._send = send
        self._plan: Plan | None = None
        """What is to be done with the body; None when nothing is."""
        self._encoder: Encoder | None = None
        self._decoder: BoundedDecoder | None = None
        self._head: Message | None = None
        """Waits for what the length may be."""

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on; a plain function, for most answers are not coded and need no coroutine of their own."""
        kind = message["type"]
        if kind == "http.response.start":
            fields = message.get("headers", ())
            plan = self._policy.rule.plan(message["status"], fields, self._request, is_head=self._is_head)
            if plan is not None:
                message = self._begin(plan, message)
                if self._head is not None:
                    return _nothing()
        elif kind == "http.response.body" and self._plan is not None:
            return self._send_coded(self._plan, message)
        return self._send(message)

    def _begin(self, plan: Plan, message: Message) -> Message:
        """The head as it goes out."""
        message = {**message, "headers": plan.fields}
        if plan.coding == IDENTITY and not plan.applied:
            return message
        self._plan = plan
        if message.get(WHOLE_FOLLOWS) and plan.coding != IDENTITY:
            self._head = message
        else:
            message["headers"] = fields_of_coded(plan.fields, plan.coding)
        return message

    async def _send_coded(self, plan: Plan, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if plan.applied:
            await self._send_decoded(plan, message, body, more)
            return
        if self._head is not None and not more and len(body) < self._policy.rule.min_size:
            # Nobody had said how long it is.
            await self._send(self._head)
            await self._send(message)
            return
        await self._send_piece(plan, message, body, more)

    async def _send_decoded(self, plan: Plan, message: Message, body: bytes, more: bool) -> None:
        if self._decoder is None:
            self._decoder = BoundedDecoder([*plan.applied], max_bytes=_MAX_DECODED_BYTES, max_ratio=_MAX_DECODED_RATIO)
        steps = PacedSteps(self._decoder, body)
        piece = await self._next(self._decoder, steps, more)
        while piece is not None:
            following = await self._next(self._decoder, steps, more)
            await self._send_piece(plan, message, piece, more or following is not None)
            if following is None:
                return
            piece = following
        await self._send_piece(plan, message, b"", more)

    async def _send_piece(self, plan: Plan, message: Message, body: bytes, more: bool) -> None:
        """Send a piece of the plain body, coded; the head first where it waits for what its length may be."""
        if plan.coding != IDENTITY:
            body = await self._coded(plan, body, more)
        if self._head is not None:
            head, self._head = self._head, None
            head["headers"] = fields_of_coded(plan.fields, plan.coding, None if more else len(body))
            await self._send(head)
        if body or not more:
            await self._send({**message, "body": body, "more_body": more})

    async def _coded(self, plan: Plan, body: bytes, more: bool) -> bytes:
        policy = self._policy
        if self._encoder is None and not more:
            # All of it is here.
            coded = policy.coded_now(plan.coding, body)
            return await _in_thread(code_whole, plan.coding, policy.level, body) if coded is None else coded
        if self._encoder is None:
            self._encoder = make_encoder(plan.coding, policy.level, plan.length)
        if policy.takes_piece(plan.coding, len(body)):
            return self._encode(self._encoder, body, more)
        return await _in_thread(self._encode, self._encoder, body, more)

    @staticmethod
    def _encode(encoder: Encoder, body: bytes, more: bool) -> bytes:
        coded = encoder.encode(body) if body else b""
        if not more:
            return coded + encoder.finish()
        return coded + encoder.flush() if body else coded

    async def _next(self, decoder: BoundedDecoder, steps: PacedSteps, more: bool) -> bytes | None:
        """The next decoded piece of a message, None after the last.

        Raises ResponseBroken, or BadUpstreamResponse while the head is still here and can be another.
        """
        failure = ResponseBroken if self._head is None else BadUpstreamResponse
        try:
            piece = await steps.next()
        except (DecodingError, TooMuchDecoded) as error:
            raise failure(f"the response body cannot be decoded: {error}") from error
        if piece is None and not more and not decoder.complete:
            raise failure("the coded response body ends too early")
        return piece


async def _nothing() -> None:
    """The head waits for its body, which comes with the next message."""


async def _in_thread(code: Callable[..., bytes], *arguments: object) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(coding_threads(), code, *arguments)
