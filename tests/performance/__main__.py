"""Prints what every path costs as the table of budgets: ``python -m tests.performance``."""

from __future__ import annotations

from tests.performance.measuring import PATHS, cost

for name, path in PATHS.items():
    values = ", ".join(f"{round(value)}" for value in cost(path))
    print(f'    "{name}": Count({values}),')
