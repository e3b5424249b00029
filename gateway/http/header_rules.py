"""Rules that set, add and remove header fields, compiled; values may be templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.http.fields import Fields

Field = tuple[bytes, bytes]

_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = bytes(code for code in range(32) if code != 9) + b"\x7f"

Part = bytes | str
"""Literal bytes, or the name of what stands there."""


class HeaderRules:
    """What happens to the fields of a message: first ``remove``, then ``set``, then ``add``.

    ``set`` replaces every field of the name or adds it. In requests ``{name}`` in a value stands for what the request
    gives to the name; braces around anything but an identifier are literal, and in responses all are. Raises ValueError
    for a name that is no token and for a value with control characters.
    """

    __slots__ = ("_added", "_constant", "_literal", "_replaced", "names")

    def __init__(
        self,
        *,
        set: Mapping[str, str] | None = None,
        add: Mapping[str, str] | None = None,
        remove: Sequence[str] = (),
    ) -> None:
        set, add = set or {}, add or {}
        self._replaced = frozenset([_field_name(name) for name in (*set, *remove)])
        added = [*set.items(), *add.items()]
        self._literal: Fields = [(_field_name(name), _literal(value)) for name, value in added]
        self._added = [(_field_name(name), _parts(value)) for name, value in added]
        self.names = frozenset(part for _, parts in self._added for part in parts if isinstance(part, str))
        """What the templates ask for; empty when every value is constant."""
        self._constant = not self.names

    def __bool__(self) -> bool:
        return bool(self._replaced or self._literal)

    def apply_request(self, fields: Iterable[Field], names: Mapping[str, bytes]) -> Fields:
        """The fields of a request after the rules, in a new list.

        Of what ``names`` gives, control bytes and surrounding white space are left out: no value of a client's may end
        a line or begin another field. A name that is missing gives nothing.
        """
        if self._constant:
            return self.apply_response(fields)
        kept = [field for field in fields if field[0] not in self._replaced]
        kept += [(name, _render(parts, names)) for name, parts in self._added]
        return kept

    def apply_response(self, fields: Iterable[Field]) -> Fields:
        """The fields of a response after the rules, in a new list; values are taken literally."""
        kept = [field for field in fields if field[0] not in self._replaced]
        kept += self._literal
        return kept


def _field_name(name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    return name.lower().encode("ascii")


def _literal(value: str) -> bytes:
    encoded = value.encode("latin-1")
    if _clean(encoded) != encoded:
        raise ValueError(f"not a header value: {value!r}")
    return encoded


def _parts(template: str) -> tuple[Part, ...]:
    pieces = _NAME.split(template)
    return tuple(
        piece if index % 2 else piece.encode("latin-1") for index, piece in enumerate(pieces) if piece or index % 2
    )


def _render(parts: tuple[Part, ...], names: Mapping[str, bytes]) -> bytes:
    return _clean(b"".join([part if isinstance(part, bytes) else names.get(part, b"") for part in parts]))


def _clean(value: bytes) -> bytes:
    return value.translate(None, _CONTROLS).strip(b" \t")
