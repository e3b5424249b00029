"""One line for every exchange that has ended, for people or for machines.

app.add_middleware(AccessLogMiddleware, form="json")

Lines are made by hand and written in batches: 1 us each, where the logging module takes 9.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Literal, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, InternalError
from gateway.exchange import Attempt, Exchange, exchange_of
from gateway.http.fields import get_first
from gateway.http.forwarded import public_scheme
from gateway.ticker import Ticker

Form = Literal["text", "json"]

BATCH_LINES = 64

logger = logging.getLogger("gateway")

# Whatever could end a line, a quoted string or a word, or do something to a terminal.
_UNSAFE = re.compile(r"[^!#-\[\]-~]")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def text_line(exchange: Exchange) -> str:
    """An exchange as words and ``name=value`` pairs; ``-`` is what it does not have.

    Bytes from outside that are not visible ASCII, quotes and backslashes are ``\\xNN``: no client can forge a line.
    """
    method, host, user = exchange.method, exchange.public_host, exchange.user
    target, client, request_id = exchange.target.decode("latin-1"), exchange.client, exchange.request_id
    shown_host = host.decode("latin-1")
    # One look at all of it: clients that need escaping are rare.
    if _UNSAFE.search(f"{method}{shown_host}{target}{user}{client}{request_id}"):
        method, shown_host, target = escaped(method), escaped(shown_host), escaped(target)
        user, client, request_id = escaped(user), escaped(client), escaped(request_id)
    attempts = exchange.attempts
    if attempts:
        last = attempts[-1]
        head_s = last.head_s
        upstream_ms = "-" if head_s is None else f"{head_s * 1000:.1f}"
        way = f"endpoint={_word(last.endpoint)} attempts={len(attempts)} upstream_ms={upstream_ms}"
    else:
        way = "endpoint=- attempts=0 upstream_ms=-"
    error = exchange.error
    return (
        f'{_time(exchange.wall_time)} {client or "-"} "{method} {exchange.scheme}://{shown_host}{target}" '
        f"{exchange.status} {(exchange.finished - exchange.started) * 1000:.1f}ms "
        f"in={exchange.body_bytes_in} out={exchange.body_bytes_out} route={_word(exchange.route)} "
        f"upstream={_word(exchange.upstream)} {way} "
        f"cache={exchange.cache or '-'} id={request_id or '-'} user={user or '-'} {exchange.outcome}"
        f"{'' if error is None else _error_words(error)}"
        f"{_tries_words(attempts) if _went_wrong(attempts) else ''}"
        f"{_pair('decision', exchange.decision) if exchange.decision else ''}"
    )


def json_line(exchange: Exchange) -> str:
    """An exchange as one JSON object on one line of ASCII; absent are members that do not apply."""
    quote = encode_basestring_ascii
    attempts = exchange.attempts
    way = ""
    if attempts:
        last = attempts[-1]
        upstream_ms = "null" if last.head_s is None else f"{last.head_s * 1000:.3f}"
        way = f',"endpoint":{quote(last.endpoint)},"attempts":{len(attempts)},"upstream_ms":{upstream_ms}'
    error = exchange.error
    line = (
        f'{{"time":"{_time(exchange.wall_time)}","client":{quote(exchange.client)},"method":{quote(exchange.method)},'
        f'"scheme":{quote(exchange.scheme)},"host":{quote(exchange.public_host.decode("latin-1"))},'
        f'"target":{quote(exchange.target.decode("latin-1"))},"status":{exchange.status},'
        f'"bytes_in":{exchange.body_bytes_in},"bytes_out":{exchange.body_bytes_out},'
        f'"duration_ms":{(exchange.finished - exchange.started) * 1000:.3f},"route":{quote(exchange.route)},'
        f'"upstream":{quote(exchange.upstream)}{way},"cache":{quote(exchange.cache)},'
        f'"request_id":{quote(exchange.request_id)},"user":{quote(exchange.user)},"outcome":"{exchange.outcome}"'
        f"{'' if error is None else _error_members(error)}"
        f"{_tries_member(attempts) if _went_wrong(attempts) else ''}"
        f"{_decision_member(exchange.decision) if exchange.decision else ''}}}"
    )
    # The one control character that JSON allows unescaped in a string.
    return line.replace("\x7f", "\\u007f") if "\x7f" in line else line


def escaped(text: str) -> str:
    """``text`` as one word of visible ASCII without quotes and backslashes."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(maxsize=4096)
def _word(name: str) -> str:
    """A name from the configuration as one word."""
    return escaped(name) or "-"


@lru_cache(maxsize=256)
def error_name(name: str) -> str:
    """The name of an error class in the log's spelling: ``connect-failed``."""
    return _CAPITAL.sub("-", name).lower()


def _reason(error: GatewayError) -> str:
    # What a defect says may hold anything, and stands in the log with its traceback already.
    return "" if isinstance(error, InternalError) else error.reason


def _error_words(error: GatewayError) -> str:
    name, reason = error_name(type(error).__name__), _reason(error)
    return f" error={name}" + (_pair("reason", reason) if reason else "")


def _pair(name: str, text: str) -> str:
    """A pair whose value has spaces."""
    return f' {name}="{" ".join(escaped(word) for word in text.split(" "))}"'


def _went_wrong(attempts: list[Attempt]) -> bool:
    """Whether ``attempts`` have more to tell than the last one's endpoint and time."""
    return len(attempts) > 1 or (len(attempts) == 1 and attempts[0].failed_s is not None)


def _tries_words(attempts: list[Attempt]) -> str:
    tries = (f"{attempt.endpoint} {_outcome_of(attempt)} {_seconds_of(attempt) * 1000:.1f}ms" for attempt in attempts)
    return _pair("tries", ", ".join(tries))


def _tries_member(attempts: list[Attempt]) -> str:
    tries = (
        f'{{"endpoint":{encode_basestring_ascii(attempt.endpoint)},"outcome":"{_outcome_of(attempt)}",'
        f'"ms":{_seconds_of(attempt) * 1000:.3f}}}'
        for attempt in attempts
    )
    return f',"tries":[{",".join(tries)}]'


def _decision_member(decision: str) -> str:
    return f',"decision":{encode_basestring_ascii(decision)}'


def _outcome_of(attempt: Attempt) -> str:
    """The status of an answer, the name of a failure, or ``ended`` for one that was given up with its exchange."""
    return str(attempt.status) if attempt.status is not None else error_name(attempt.outcome or "Ended")


def _seconds_of(attempt: Attempt) -> float:
    return attempt.head_s if attempt.head_s is not None else attempt.failed_s or 0.0


def _error_members(error: GatewayError) -> str:
    reason = _reason(error)
    shown = f',"reason":{encode_basestring_ascii(reason)}' if reason else ""
    return f',"error":"{error_name(type(error).__name__)}"{shown}'


@lru_cache(maxsize=4)
def _second(wall_time: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_time))


def _time(wall_time: float) -> str:
    """UTC with milliseconds, RFC 3339."""
    whole = int(wall_time)
    return f"{_second(whole)}.{int((wall_time - whole) * 1000):03d}Z"


class AccessLog:
    """Writes a line for every exchange that it is given to ``stream``, by default standard output.

    Lines go out ``batch`` at a time, at every tick once ``start`` was called, and at the end of the process. A stream
    that cannot be written to costs its lines and no request; ``lost`` counts them.
    """

    def __init__(self, form: Form = "text", stream: TextIO | None = None, *, batch: int = BATCH_LINES) -> None:
        self._line = json_line if form == "json" else text_line
        self._stream = stream if stream is not None else sys.stdout
        self._batch = batch
        self._lines: list[str] = []
        self._stop: Callable[[], None] | None = None
        self.lost = 0
        if batch > 1:
            # A process that dies of an exception still says what it did last.
            atexit.register(self.flush)

    def start(self, ticker: Ticker) -> None:
        """Flush at the ticks of ``ticker`` from now on; needs a running event loop."""
        if self._stop is None:
            self._stop = ticker.add(self._sweep)

    def record(self, exchange: Exchange) -> None:
        """Log an exchange that has ended."""
        lines = self._lines
        lines.append(self._line(exchange))
        if len(lines) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        lines = self._lines
        if not lines:
            return
        self._lines = []
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            if not self.lost:
                logger.warning("the access log cannot be written: %s", error)
            self.lost += len(lines)

    def close(self) -> None:
        """Write what waits and stop; the stream stays open."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        self.flush()
        atexit.unregister(self.flush)

    def _sweep(self, now: float) -> None:
        self.flush()


class AccessLogMiddleware:
    """Logs every request and WebSocket; ``form`` is ``text`` or ``json``, ``stream`` standard output by default.

    Each line is written at once. Inside the gateway the exchange is logged as it is, else one is kept here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        form: Form = "text",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.log = AccessLog(form, stream, batch=1)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        observed = _Observed(_exchange_for(scope, self._clock), receive, send)
        exchange = observed.exchange
        try:
            await self.app(scope, observed.receive, observed.send)
        except BaseException as error:
            observed.end_badly(error)
            raise
        finally:
            exchange.finished = self._clock()
            self.log.record(exchange)


def _exchange_for(scope: Scope, clock: Callable[[], float]) -> Exchange:
    found = exchange_of(scope)
    if found is not None:
        return found
    target: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    if scope["query_string"]:
        target = b"%b?%b" % (target, scope["query_string"])
    exchange = Exchange(scope.get("method", "GET"), target, clock)
    exchange.client = (scope.get("client") or ("unix",))[0]
    exchange.scheme = public_scheme(scope.get("scheme", "http"))
    exchange.public_host = get_first(scope["headers"], b"host") or b""
    exchange.request_id = str((scope.get("state") or {}).get("request_id", ""))
    return exchange


class _Observed:
    """The two ways of one exchange outside the gateway, counted."""

    __slots__ = ("_ended", "_receive", "_send", "exchange")

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self.exchange = exchange
        self._receive = receive
        self._send = send
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.exchange.body_bytes_in += len(message.get("body", b""))
        elif kind == "http.disconnect" and not self._ended:
            self.exchange.outcome = "client-left"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        exchange = self.exchange
        if kind in ("http.response.start", "websocket.http.response.start"):
            exchange.status = message["status"]
        elif kind == "http.response.body":
            exchange.body_bytes_out += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        elif kind == "websocket.accept":
            exchange.status = 101
        elif kind == "websocket.close" and not exchange.status:
            exchange.status = 403
        await self._send(message)

    def end_badly(self, error: BaseException) -> None:
        """The application raised: after the head that cuts the answer short, before it the server says 500."""
        exchange = self.exchange
        if isinstance(error, GatewayError):
            exchange.error = error
        exchange.outcome = "aborted" if exchange.status or not isinstance(error, Exception) else "failed"
        exchange.status = exchange.status or 500
