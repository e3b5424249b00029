"""The conditions of routes: patterns that can be read, and no two routes that claim the same requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.config.extras import missing_extra
from gateway.config.merge import Entry
from gateway.config.problems import KeyPath, Report, quoted
from gateway.config.templates import PathNames
from gateway.patterns import HostPattern, PathPattern, decode_segment, parse_host, parse_path


class Conditions:
    """The parsed patterns of the routes, each parsed once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._claimed: dict[tuple[Any, ...], Entry] = {}

    def check(self, entry: Entry) -> PathNames:
        """Report patterns that cannot be read and conditions that are taken; the names of the route's paths."""
        paths = self._paths(entry)
        hosts = self._hosts(entry)
        self._when(entry)
        if len(paths) == len(entry.route.path):
            self._check_prefix(entry, paths)
            if len(hosts) == len(entry.route.host) and not entry.broken & _CONDITION_KEYS:
                self._claim(entry, hosts or [None], paths)
        names = [frozenset(path.names) for path in paths]
        return PathNames(frozenset.intersection(*names), frozenset.union(*names)) if names else _NO_NAMES

    def _paths(self, entry: Entry) -> list[PathPattern]:
        parsed = []
        for index, text in enumerate(entry.route.path):
            where = _item(entry, "path", index)
            if text.startswith("~") and (missing := missing_extra("regex")):
                self._report.error(where, f"a regular expression {missing}")
                continue
            try:
                parsed.append(parse_path(text))
            except ValueError as error:
                self._report.error(where, str(error))
        return parsed

    def _hosts(self, entry: Entry) -> list[HostPattern]:
        parsed = []
        for index, text in enumerate(entry.route.host):
            try:
                parsed.append(parse_host(text))
            except ValueError as error:
                self._report.error(_item(entry, "host", index), str(error))
        return parsed

    def _when(self, entry: Entry) -> None:
        for kind in ("header", "query", "cookie"):
            for name, condition in getattr(entry.route.when, kind).items():
                if condition.startswith("~") and (complaint := _regex_complaint(condition[1:])):
                    self._report.error(entry.where("when", kind, name), complaint)

    def _check_prefix(self, entry: Entry, paths: list[PathPattern]) -> None:
        prefix = entry.route.strip_prefix
        if not prefix:
            return
        segments = _segments(prefix[1:].split("/"))
        for text, path in zip(entry.route.path, paths, strict=True):
            if _segments(path.literal_segments)[: len(segments)] != segments:
                message = f"{quoted(prefix)} does not lead the path {quoted(text)}"
                if "strip_prefix" in entry.inherited:
                    message += f" of the route {quoted(entry.route.name)}"
                self._report.error(entry.where("strip_prefix"), message)

    def _claim(self, entry: Entry, hosts: list[HostPattern] | list[None], paths: list[PathPattern]) -> None:
        """Each host with each path is a condition of its own: what a list says could be several routes."""
        route = entry.route
        when = route.when
        headers = frozenset((name.lower(), condition) for name, condition in when.header.items())
        methods = frozenset(route.methods).union(["HEAD"] if "GET" in route.methods else [])
        further = (methods, headers, when.query, when.cookie, frozenset(when.client), route.priority)
        for host in hosts:
            for path in paths:
                other = self._claimed.setdefault((host, path, *further), entry)
                if other is not entry:
                    message = f"the routes {quoted(other.route.name)} and {quoted(route.name)} have the same conditions"
                    self._report.error(entry.where("path"), f"{message} and priority")
                    return


_NO_NAMES = PathNames(frozenset(), frozenset())
_CONDITION_KEYS = frozenset(["host", "path", "methods", "when", "priority"])


def _item(entry: Entry, key: str, index: int) -> KeyPath:
    """A single pattern is mostly written without a list."""
    return entry.where(key, index) if len(getattr(entry.route, key)) > 1 else entry.where(key)


def _segments(raw: Iterable[str]) -> tuple[bytes, ...]:
    """Decoded as the table decodes them: one segment may be spelt with more or fewer percent escapes."""
    return tuple(decode_segment(segment.encode()) for segment in raw)


def _regex_complaint(expression: str) -> str:
    missing = missing_extra("regex")
    if missing:
        return f"a regular expression {missing}"
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        return f"not a regular expression: {reason.decode() if isinstance(reason, bytes) else reason}"
    return ""
