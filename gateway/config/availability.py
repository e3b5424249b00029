"""Keys of the contract that are not built yet: one table, one line deleted when a feature lands.

A key is listed with the values that leave it off, which are accepted; any other is refused as not available yet.
``*`` is any name or index; what is said of a route holds for [defaults] too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.problems import KeyPath, Report

NOT_YET: dict[str, tuple[object, ...]] = {
    "upstreams.*.http2": (False,),
}


def refuse_unavailable(tables: Mapping[str, Any], report: Report) -> None:
    """``tables``: what is valid of the file, by its top-level keys; [defaults] as validated, not yet merged."""
    for key, off in NOT_YET.items():
        keys = [key]
        if key.startswith("routes.*."):
            keys.append("defaults." + key.removeprefix("routes.*."))
        for pattern in keys:
            for path, value in _find(tables, tuple(pattern.split(".")), ()):
                if value not in off:
                    report.error(path, "is not available yet", "key")


def _find(node: Any, pattern: tuple[str, ...], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Paths that match ``pattern``, with their values; only what the file itself says."""
    if not pattern:
        yield path, node
    elif node is None:
        return
    elif pattern[0] == "*":
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for name, item in items:
            yield from _find(item, pattern[1:], (*path, name))
    elif isinstance(node, Mapping):
        if pattern[0] in node:
            yield from _find(node[pattern[0]], pattern[1:], (*path, pattern[0]))
    elif pattern[0] in node.model_fields_set:
        yield from _find(getattr(node, pattern[0]), pattern[1:], (*path, pattern[0]))
