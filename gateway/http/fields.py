"""Small operations on raw header lists: pairs of lower-case name and value, in order, repetition kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

Fields = list[tuple[bytes, bytes]]

_MAY_BE_SECRET = re.compile(rb"auth|cookie|credential|key|passw|secret|session|token")


def get_all(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of ``name``, in order."""
    return [value for key, value in fields if key == name]


def get_first(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of ``name``."""
    for key, value in fields:
        if key == name:
            return value
    return None


def get_joined(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """All values of ``name`` as one list, RFC 9110 section 5.3; None when there is none."""
    values = [value for key, value in fields if key == name]
    if len(values) > 1:
        return b", ".join(values)
    return values[0] if values else None


def without(fields: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> Fields:
    """The fields whose names are not in ``names``."""
    return [field for field in fields if field[0] not in names]


def add_vary(fields: Fields, name: bytes) -> None:
    """Make ``fields`` say that the answer depends on request field ``name``, once."""
    for index, (key, value) in enumerate(fields):
        if key == b"vary":
            members = [member.strip().lower() for member in value.split(b",")]
            if b"*" in members or name.lower() in members:
                return
            if value.strip():
                fields[index] = (key, value + b", " + name)
                return
    fields.append((b"vary", name))


def may_be_secret(name: bytes) -> bool:
    """Whether a request field of this name may tell what only its sender should know, such as a key."""
    return _MAY_BE_SECRET.search(name) is not None


def content_length(fields: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The announced length of the body, or None."""
    value = get_first(fields, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def with_hyphens(names: frozenset[bytes]) -> frozenset[bytes]:
    """``names``, and each as it is read where it arrives as HTTP_X_USER, which X-User does as well as X_User."""
    return names | {name.replace(b"_", b"-") for name in names}
