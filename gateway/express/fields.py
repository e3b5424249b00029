"""What becomes of a field of a response on the short way, asked once for each field and remembered."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.exchange import SCOPE_KEY, Exchange, Message, ResponseRule, Scope
from gateway.http.coded_answer import CODING_NAMES, CodingRule
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields, is_plain_connection
from gateway.recent import Recent

Field = tuple[bytes, bytes]

HAS_LENGTH, HAS_DATE, COMPRESSIBLE, NOT_PLAIN, CODING, HAS_VARY, REFERS = 1, 2, 4, 8, 16, 32, 64
"""What a field says about its response. HAS_VARY: that it holds what the rules would have added to Vary; REFERS: that
under a mount prefix only the layers know what becomes of it."""

MAX_REMEMBERED = 1024
MAX_REMEMBERED_BYTES = 1024
# What they become depends on where the client thinks it is.
_REFERENCES = frozenset([b"location", b"content-location", b"refresh"])

Verdict = tuple[int, bytes, Field | None]
"""What a field says about its response, its line for the client, and the field itself; nothing of it when dropped."""

_DROPPED: Verdict = 0, b"", None
_WORK: Verdict = NOT_PLAIN, b"", None


_OF_NO_RULE = b"\x80"
"""A value that no configuration can have a rule set."""

_Kind = int
# Any value is passed on; none is; only the layers can tell; or the value decides.
_ANY, _DROP, _LONG, _HOP, _COOKIE, _LENGTH, _DATE, _TYPE, _CODING, _VARY, _DROP_TRANSFORMABLE = range(1, 12)
# What is said by those of which any value is passed on.
_PASSED_ON = {_ANY: 0, _CODING: CODING}
_KINDS = {b"set-cookie": _COOKIE, b"content-length": _LENGTH, b"date": _DATE, b"content-type": _TYPE}


class PlainFields(dict[Field, Verdict]):
    """What becomes of a field of an upstream's response.

    Dropped are ``hidden`` fields, those of the hop, and ``own``, which the gateway adds itself. ``recent`` may be
    that of other routes too.
    """

    def __init__(
        self,
        *,
        hidden: frozenset[bytes],
        own: frozenset[bytes],
        answer_rules: tuple[ResponseRule, ...],
        response_rules: tuple[ResponseRule, ...],
        coding_rule: CodingRule | None,
        recent: Recent,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self._own = own
        self._answer_rules = answer_rules
        self._response_rules = response_rules
        self._coding_rule = coding_rule
        # Rules look at names.
        self._by_name: dict[bytes, _Kind] = {}
        self._recent = recent

    def __missing__(self, field: Field) -> Verdict:
        name, value = field
        flags = _PASSED_ON.get(self._by_name.get(name, 0))
        if flags is not None:
            # Most answers have a field whose value nobody has seen, such as a validator.
            verdict: Verdict = flags, b"%b: %b\r\n" % field, field
            if len(value) <= MAX_REMEMBERED_BYTES and self._recent.has_met(field):
                self._remember(field, verdict)
            return verdict
        try:
            kind = self._by_name.get(name) or self._learn(name)
            verdict = self._judge(kind, field)
        except Exception:
            # A rule fails on it: the layers do as well, and answer that.
            return _WORK
        # What is one client's alone is not to be kept; nor is much of what anybody may have had reflected.
        if kind != _COOKIE and len(value) <= MAX_REMEMBERED_BYTES:
            self._remember(field, verdict)
        return verdict

    def leaves_alone(self, names: Iterable[bytes]) -> bool:
        """Whether the route's rules neither change nor drop fields of these names."""
        return are_left_alone(names, self._response_rules)

    def added(self, scheme: str) -> Fields:
        """What the route's rules add to a response with none of the names that they look at."""
        return after_rules(self._response_rules, [], scheme)

    def _remember(self, field: Field, verdict: Verdict) -> None:
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[field] = verdict

    def _judge(self, kind: _Kind, field: Field) -> Verdict:
        if kind in _PASSED_ON:
            return _PASSED_ON[kind], b"%b: %b\r\n" % field, field
        if kind == _DROP:
            return _DROPPED
        if kind == _LONG:
            return _WORK
        value, flags = field[1], 0
        if kind == _DROP_TRANSFORMABLE:
            # The rules of the route drop it, but not before it has been seen whether the body may be coded.
            return _WORK if b"no-transform" in value.lower() else _DROPPED
        if kind == _HOP:
            return _DROPPED if is_plain_connection(value) else _WORK
        if kind == _COOKIE:
            flags = REFERS
            (field,) = after_rules(self._answer_rules, [field], "https")
        elif kind == _LENGTH:
            flags = HAS_LENGTH | CODING
        elif kind == _DATE:
            flags = HAS_DATE
        elif kind == _VARY:
            added = self.added("https")
            merged = after_rules(self._response_rules, [field], "https")
            if merged == added:
                return _DROPPED
            flags = CODING if self._coding_rule is not None else 0
            if merged != [field, *added]:
                if merged[1:] != [other for other in added if other[0] != b"vary"]:
                    return _WORK
                field, flags = merged[0], HAS_VARY
        elif self._coding_rule is not None:
            flags = CODING | COMPRESSIBLE if self._coding_rule.is_compressible(value) else CODING
        return flags, b"%b: %b\r\n" % field, field

    def _learn(self, name: bytes) -> _Kind:
        """What becomes of fields of a name whatever their value is; remembered."""
        if len(self._by_name) >= MAX_REMEMBERED:
            self._by_name.clear()
        kind = self._by_name[name] = self._kind(name)
        return kind

    def _kind(self, name: bytes) -> _Kind:
        field = (name, _OF_NO_RULE)
        if name == b"connection":
            return _HOP
        if name in self._own or not inbound_fields([field], drop=self.hidden):
            return _DROP
        if name == b"vary" and any(added[0] == name for added in self.added("https")):
            return _VARY
        after, added = after_rules(self._response_rules, [field], "https"), self.added("https")
        if after == added and name not in _KINDS and name != b"content-encoding":
            return _DROP_TRANSFORMABLE if name == b"cache-control" and self._coding_rule is not None else _DROP
        if name in _REFERENCES or after != [field, *added]:
            return _LONG
        if name == b"content-encoding" and self._coding_rule is not None:
            return _LONG
        return _KINDS.get(name, _CODING if self._coding_rule is not None and name in CODING_NAMES else _ANY)


def are_left_alone(names: Iterable[bytes], rules: Iterable[ResponseRule]) -> bool:
    """Whether ``rules`` neither change nor drop fields of these names, which come into a head after they were asked."""
    fields = [(name, _OF_NO_RULE) for name in names]
    return after_rules(rules, fields, "https")[: len(fields)] == fields


def lines_of(fields: Fields) -> bytes:
    """Fields as they stand in a head."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def after_rules(rules: Iterable[ResponseRule], fields: Fields, scheme: str) -> Fields:
    """``fields`` after ``rules``, none of which looks at more of an exchange than its scheme."""
    exchange = Exchange("GET", b"/")
    exchange.scheme = scheme
    scope: Scope = {SCOPE_KEY: exchange, "headers": []}
    message: Message = {"type": "http.response.start", "status": 200, "headers": list(fields)}
    for rule in rules:
        rule(scope, message)
    found: Fields = message["headers"]
    return found
