from __future__ import annotations

import pytest

from gateway.config.positions import Positions
from gateway.config.problems import KeyPath, Spot

TEXT = """\
# comment
top = 1
a.b . "c d" = [1, { x = 1, y.z = "q" }, \"\"\"m
ulti\"\"\", 3]
  [server] # comment
  bind = [
    # the first
    "é", "x",
    "y",
  ]
'quoted' = 2
"esc\\u0041ped" = 3
[[routes]]
name = 'n'
[routes.when]
header = { A = "1", "ü ü" = "2" }
[[routes.sub]]
k = 1
[[routes.sub]]
k = 2
[[routes]]
name = "ö" # tail
[upstreams."my.shop"]
endpoints = [{ url = "u" }]
[deep.er.est]
v = 1
"""


@pytest.mark.parametrize(
    ("path", "spot", "place"),
    [
        (("top",), "key", (2, 1)),
        (("top",), "value", (2, 7)),
        (("a",), "value", (3, 1)),
        (("a", "b"), "key", (3, 3)),
        (("a", "b", "c d"), "key", (3, 7)),
        (("a", "b", "c d"), "value", (3, 15)),
        (("a", "b", "c d", 0), "value", (3, 16)),
        (("a", "b", "c d", 1), "value", (3, 19)),
        (("a", "b", "c d", 1, "x"), "key", (3, 21)),
        (("a", "b", "c d", 1, "y", "z"), "value", (3, 34)),
        (("a", "b", "c d", 3), "value", (4, 10)),
        (("server",), "value", (5, 3)),
        (("server", "bind"), "key", (6, 3)),
        (("server", "bind", 0), "value", (8, 5)),
        (("server", "bind", 1), "value", (8, 10)),
        (("server", "bind", 2), "value", (9, 5)),
        (("server", "quoted"), "value", (11, 12)),
        (("server", "escAped"), "value", (12, 18)),
        (("routes", 0), "value", (13, 1)),
        (("routes", 0, "name"), "value", (14, 8)),
        (("routes", 0, "when"), "value", (15, 1)),
        (("routes", 0, "when", "header", "ü ü"), "key", (16, 21)),
        (("routes", 0, "when", "header", "ü ü"), "value", (16, 29)),
        (("routes", 0, "sub", 0, "k"), "value", (18, 5)),
        (("routes", 0, "sub", 1, "k"), "value", (20, 5)),
        (("routes", 1, "name"), "value", (22, 8)),
        (("upstreams", "my.shop", "endpoints", 0, "url"), "value", (24, 22)),
        (("deep",), "key", (25, 2)),
        (("deep", "er", "est", "v"), "value", (26, 5)),
    ],
)
def test_each_key_and_value_is_found(path: KeyPath, spot: Spot, place: tuple[int, int]) -> None:
    assert Positions(TEXT).locate(path, spot) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("routes", 1, "path"), (21, 1)),
        (("routes", 0, "when", "header", "B"), (16, 10)),
        (("routes", 7), (13, 1)),
        (("nothing", "here"), (1, 1)),
        ((), (1, 1)),
    ],
)
def test_what_is_not_there_stands_at_the_table_around_it(path: KeyPath, place: tuple[int, int]) -> None:
    assert Positions(TEXT).locate(path, "key") == place


def test_windows_line_ends_count_as_one() -> None:
    assert Positions('a = 1\r\nb = "x"\r\n').locate(("b",)) == (2, 5)
