"""What the names of a request's fields decide, whatever the values are: common combinations are judged once."""

from __future__ import annotations

from operator import itemgetter

from gateway.http.fields import Fields
from gateway.http.hop_by_hop import admitted_fields, is_plain_connection
from gateway.recent import Recent

_MAX_REMEMBERED = 512
_MAX_REMEMBERED_BYTES = 1024
# Their values have to be looked at by whoever lets requests in.
_JUDGED_BY_VALUE = frozenset([b"expect", b"via"])

_name = itemgetter(0)


class Section:
    """Fields of certain names, in their order: where Host stands, and which of them may be read behind the door."""

    __slots__ = ("host_at", "kept", "names")

    def __init__(self, names: tuple[bytes, ...], drop: frozenset[bytes]) -> None:
        self.host_at = names.index(b"host")
        fields = [(name, b"close" if name == b"connection" else b"%d" % index) for index, name in enumerate(names)]
        kept = admitted_fields(fields, drop=drop)
        self.kept = [field in kept for field in fields]
        """Whether a field, by its place, is kept, as ``itertools.compress`` takes it."""
        self.names = tuple([name for name, _ in kept])
        """Of those that are kept."""


class CommonSections:
    """Combinations of names that have come before; ``drop`` as for ``admitted_fields``. Bounded."""

    __slots__ = ("_drop", "_known", "_recent")

    def __init__(self, drop: frozenset[bytes]) -> None:
        self._drop = drop
        self._known: dict[tuple[bytes, ...], tuple[Section | None, int]] = {}
        self._recent = Recent()

    def find(self, fields: Fields) -> Section | None:
        """The section that ``fields`` make; None where they have to be looked at one by one."""
        names = tuple(map(_name, fields))
        section, connection_at = self._known.get(names) or self._learn(names)
        if connection_at >= 0 and not is_plain_connection(fields[connection_at][1]):
            return None
        return section

    def _learn(self, names: tuple[bytes, ...]) -> tuple[Section | None, int]:
        """The section, if it can be one, and where Connection stands in it, -1 for nowhere."""
        if sum(map(len, names)) > _MAX_REMEMBERED_BYTES or not self._recent.has_met(names):
            return None, -1
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        known: tuple[Section | None, int] = None, -1
        is_simple = names.count(b"host") == 1 and names.count(b"connection") <= 1
        if is_simple and _JUDGED_BY_VALUE.isdisjoint(names):
            known = Section(names, self._drop), names.index(b"connection") if b"connection" in names else -1
        self._known[names] = known
        return known
