"""Where keys and values stand in a TOML text: key path -> line and column, both counted from 1 in characters."""

from __future__ import annotations

import tomllib

import tree_sitter
import tree_sitter_toml

from gateway.config.problems import KeyPath, Spot

_HEADERS = ("table", "table_array_element")
_KEYS = ("bare_key", "quoted_key", "dotted_key")


class Positions:
    """Positions of every key and value of a text that tomllib has accepted."""

    def __init__(self, text: str) -> None:
        source = text.encode()
        self._lines = source.split(b"\n")
        self._keys: dict[KeyPath, tree_sitter.Point] = {}
        self._values: dict[KeyPath, tree_sitter.Point] = {}
        # Arrays of tables that [[...]] has begun, and the index of their last element.
        self._last: dict[KeyPath, int] = {}
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
        self._document(parser.parse(source).root_node)

    def locate(self, path: KeyPath, spot: Spot = "value") -> tuple[int, int]:
        """Line and column of what stands at ``path``; of the nearest table around it where nothing does."""
        for length in range(len(path), 0, -1):
            part = path[:length]
            known = self._keys if spot == "key" and length == len(path) else self._values
            point = known.get(part) or self._values.get(part)
            if point is not None:
                before = self._lines[point.row][: point.column]
                return point.row + 1, len(before.decode(errors="replace")) + 1
        return 1, 1

    def _document(self, root: tree_sitter.Node) -> None:
        for node in root.named_children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in _HEADERS:
                path = self._header(node)
                for child in node.named_children:
                    if child.type == "pair":
                        self._pair(child, path)

    def _header(self, node: tree_sitter.Node) -> KeyPath:
        """The path that ``[a.b]`` or ``[[a.b]]`` opens; inside an array of tables it is that of its last element."""
        segments = _segments(next(child for child in node.named_children if child.type in _KEYS))
        path: KeyPath = ()
        for index, (name, key) in enumerate(segments):
            path = (*path, name)
            self._keys.setdefault(path, key.start_point)
            self._values.setdefault(path, node.start_point)
            if node.type == "table_array_element" and index == len(segments) - 1:
                self._last[path] = self._last.get(path, -1) + 1
            if path in self._last:
                path = (*path, self._last[path])
        self._keys[path] = self._values[path] = node.start_point
        return path

    def _pair(self, node: tree_sitter.Node, table: KeyPath) -> None:
        named = [child for child in node.named_children if child.type != "comment"]
        path = table
        for name, key in _segments(named[0]):
            path = (*path, name)
            self._keys.setdefault(path, key.start_point)
            # Until the value itself takes the whole path: a.b = 1 also makes the table a.
            self._values.setdefault(path, key.start_point)
        if len(named) > 1:
            self._value(named[1], path)

    def _value(self, node: tree_sitter.Node, path: KeyPath) -> None:
        self._values[path] = node.start_point
        if node.type == "array":
            for index, item in enumerate(child for child in node.named_children if child.type != "comment"):
                self._keys[(*path, index)] = item.start_point
                self._value(item, (*path, index))
        elif node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(child, path)


def _segments(node: tree_sitter.Node) -> list[tuple[str, tree_sitter.Node]]:
    """The names of a key, dotted or not, each with its node."""
    if node.type == "dotted_key":
        return [segment for child in node.named_children if child.type in _KEYS for segment in _segments(child)]
    text = (node.text or b"").decode()
    if node.type == "quoted_key":
        text = tomllib.loads(f"key = {text}")["key"]
    return [(text, node)]
