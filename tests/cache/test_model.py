"""Random conversations: whatever the cache does has to be something that RFC 9111 allows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from starlette.types import Receive, Scope, Send

from gateway.http.dates import http_date
from gateway.middleware.cache import CacheMiddleware
from tests.cache.reference import Allowed, Reference, Stored, current_age, may_store, validators
from tests.middleware.cache_origin import HOST, Clock
from tests.support.messages import Sent, call, http_scope

SECONDS = st.sampled_from(["0", "1", "5", "60"])
LONGER = st.sampled_from([0, 1, 2, 4, 5, 6, 30, 60, 61, 500, 4000])
VALUES = st.sampled_from([None, "1", "2"])


@st.composite
def cache_controls(draw: st.DrawFn) -> str:
    """Directives of an answer, in any combination, each at most once."""
    timed = draw(st.lists(st.sampled_from(["max-age", "s-maxage", "stale-if-error"]), unique=True, max_size=2))
    plain = ["public", "private", "no-store", "no-cache", "must-revalidate", "proxy-revalidate", "x"]
    # Prohibitions are rare, or nothing would ever be stored.
    flags = draw(st.one_of(st.just([]), st.lists(st.sampled_from(plain), unique=True, max_size=2)))
    return ", ".join([*(f"{name}={draw(SECONDS)}" for name in timed), *flags])


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """What the upstream says; dates are seconds from the moment at which it does."""
    return {
        "status": draw(st.sampled_from([200, 200, 200, 200, 404, 204, 302, 500, 503])),
        "cache-control": draw(cache_controls()),
        "etag": draw(st.sampled_from([None, '"a"', '"a"', '"b"'])),
        "last-modified": draw(st.sampled_from([None, None, -30, -4000])),
        "expires": draw(st.sampled_from([None, None, -5, 0, 5, 60])),
        "date": draw(st.sampled_from([0, 0, 0, -5, 5, None])),
        "age": draw(st.sampled_from([None, None, "0", "3", "60"])),
        "vary": draw(st.sampled_from([None, None, "A", "a, B", "*"])),
        "set-cookie": draw(st.sampled_from([None, None, None, None, "x=y"])),
        "takes_s": draw(st.sampled_from([0, 0, 1, 6])),
    }


@st.composite
def requests(draw: st.DrawFn) -> dict[str, str]:
    """The fields of a request."""
    directives = ["no-cache", "no-store", "max-stale", "only-if-cached"]
    timed = [f"{name}={{}}" for name in ("max-age", "min-fresh", "max-stale")]
    value = draw(st.one_of(st.none(), st.none(), st.sampled_from([*directives, *timed])))
    found = {
        "a": draw(VALUES),
        "b": draw(VALUES),
        "authorization": draw(st.sampled_from([None, None, None, "Basic eA=="])),
        "cache-control": value.format(draw(SECONDS)) if value is not None else None,
        # Several, so that the condition of a client is never taken for one of the cache.
        "if-none-match": draw(st.sampled_from([None, None, '"a", "c"', '"a", "b"'])),
    }
    return {name: text for name, text in found.items() if text is not None}


class Conversations(RuleBasedStateMachine):
    """One cache, its reference, and the clock of both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.cache = CacheMiddleware(self._upstream, clock=self.clock)
        self.references = {b"/x": Reference(), b"/y": Reference()}
        self.count = 0
        self.answer: dict[str, Any] = {}
        self.said: tuple[int, dict[str, str]] = (0, {})
        self.seen: list[dict[str, str]] = []

    @initialize()
    def begin(self) -> None:
        """Nothing is stored."""

    def teardown(self) -> None:
        self.loop.run_until_complete(self.cache.aclose())
        self.loop.close()

    async def _upstream(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(asked)
        self.clock.now += self.answer["takes_s"]
        headers = {}
        for name in ("cache-control", "etag", "age", "vary", "set-cookie"):
            if self.answer[name]:
                headers[name] = self.answer[name]
        for name in ("last-modified", "expires", "date"):
            if self.answer[name] is not None:
                headers[name] = http_date(self.clock.now + self.answer[name]).decode()
        if self.answer["last-modified"] is not None:
            # Versions are a state of the resource, not of the moment.
            headers["last-modified"] = http_date(1_600_000_000 + self.answer["last-modified"]).decode()
        status = self.answer["status"]
        if status == 200 and scope["method"] == "GET" and self._holds(asked, headers):
            status = 304
        self.said = (status, headers)
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        body = b"" if status in (204, 304) else b"%d" % self.count
        await send({"type": "http.response.body", "body": body})

    def _holds(self, asked: dict[str, str], headers: dict[str, str]) -> bool:
        if "if-none-match" in asked:
            return "etag" in headers and headers["etag"] in asked["if-none-match"]
        return asked.get("if-modified-since", "-") == headers.get("last-modified")

    def _send(self, method: str, target: bytes, request: dict[str, str]) -> Sent:
        self.count += 1
        self.seen = []
        fields = [(name.encode(), value.encode()) for name, value in request.items()]
        return self.loop.run_until_complete(call(self.cache, http_scope(method, target, [HOST, *fields])))

    @rule(seconds=LONGER)
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(path=st.sampled_from([b"/x", b"/y"]), request=requests(), answer=answers())
    def get(self, path: bytes, request: dict[str, str], answer: dict[str, Any]) -> None:
        reference, began = self.references[path], self.clock.now
        allowed = reference.allowed(request, began)
        self.answer = answer
        sent = self._send("GET", path, request)
        if not self.seen:
            self._check_own_answer(sent, request, allowed, began)
            return
        self._learn(reference, request, self._which_were_validated(allowed), sent, began)

    def _check_own_answer(self, sent: Sent, request: dict[str, str], allowed: list[Allowed], now: float) -> None:
        """Without the upstream: a stored answer, or 504."""
        if sent.status == 504:
            assert any(action.action == "refuse" for action in allowed), (allowed, request)
            return
        given = [action.stored for action in allowed if action.action == "answer" and action.stored is not None]
        assert given, (allowed, request, sent.headers)
        holds = [self._client_holds(request, stored) for stored in given]
        ages = [b"%d" % current_age(stored, now) for stored in given]
        results = [
            (304, b"", age) if held else (stored.status, stored.body, age)
            for stored, held, age in zip(given, holds, ages, strict=True)
        ]
        result = (sent.status, sent.body, sent.values(b"age")[0])
        assert result in results, (result, results)
        if len(set(results)) == len(results):
            given[results.index(result)].certain = True

    def _client_holds(self, request: dict[str, str], stored: Stored) -> bool:
        condition = request.get("if-none-match")
        return condition is not None and stored.status == 200 and stored.headers.get("etag", "-") in condition

    def _which_were_validated(self, allowed: list[Allowed]) -> list[Stored]:
        """The stored answers with whose validators the upstream was asked; none when that was not about any."""
        asking = [action.stored for action in allowed if action.action == "ask"]
        assert asking, allowed
        sent = {name: value for name, value in self.seen[0].items() if name.startswith("if-")}
        found = [stored for stored in asking if stored is not None and validators(stored) == sent]
        assert found or None in asking, (sent, [validators(stored) for stored in asking if stored is not None])
        return found

    def _learn(
        self, reference: Reference, request: dict[str, str], validated: list[Stored], sent: Sent, began: float
    ) -> None:
        """What the upstream's answer means for what is stored, and whether the client got the right thing."""
        status, headers = self.said
        if validated and status == 304:
            meant = [old for old in validated if (sent.status, sent.body) in ((old.status, old.body), (304, b""))]
            assert meant, (sent.status, sent.body, validated)
            for old in meant:
                reference.confirm(old, request, headers, (began, self.clock.now), surely=len(meant) == 1)
            return
        standing = reference.standing_for_error(request, status, self.clock.now)
        if any((sent.status, sent.body) in ((old.status, old.body), (304, b"")) for old in standing):
            return
        if sent.status == 304:
            assert status in (200, 304) and headers.get("etag", "-") in request["if-none-match"]
        else:
            assert sent.status == status
            assert sent.body == (b"" if status == 204 else b"%d" % self.count)
        if may_store("GET", request, status, headers):
            body = b"" if status == 204 else b"%d" % self.count
            reference.store(Stored(request, status, headers, body, began, self.clock.now))
        else:
            reference.doubt(request)

    @rule(path=st.sampled_from([b"/x", b"/y"]), request=requests())
    def head_of_what_is_stored(self, path: bytes, request: dict[str, str]) -> None:
        request = {**request, "cache-control": "only-if-cached"}
        allowed = self.references[path].allowed(request, self.clock.now)
        sent = self._send("HEAD", path, request)
        assert not self.seen and sent.body == b""
        statuses = {504 if action.stored is None else action.stored.status for action in allowed}
        assert sent.status in statuses | ({304} if "if-none-match" in request else set())

    @rule(path=st.sampled_from([b"/x", b"/y"]), status=st.sampled_from([200, 201, 204, 302, 400, 500]))
    def change(self, path: bytes, status: int) -> None:
        self.answer = {name: None for name in ("cache-control", "etag", "age", "vary", "set-cookie")}
        self.answer |= {"status": status, "last-modified": None, "expires": None, "date": 0, "takes_s": 0}
        assert self._send("POST", path, {}).status == status
        if status < 400:
            self.references[path].invalidate()


TestConversations = pytest.mark.timeout(300)(Conversations.TestCase)
TestConversations.settings = settings(max_examples=100, stateful_step_count=30)
