"""Requests per CPU-second of the gateway and its peers, in turn, in short slices.

    python -m benchmarks                         the small GET
    python -m benchmarks small hit --rounds 9    named scenarios, more rounds
    python -m benchmarks --all --json new.json
    python -m benchmarks --compare old.json new.json

Every contender runs alone on one core, load and upstream on the other. Within a round each is asked for one slice, so
the machine's drift hits all alike; ratios compare slices of the same round.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.measure import WARM_UP_S, measure
from benchmarks.peers import PEERS
from benchmarks.progress import Progress
from benchmarks.report import Results, comparison, machine, table, write_json
from benchmarks.scenarios import SCENARIOS

_START_S = 0.7
"""About what starting one contender takes; only for the time that is left."""


def main() -> None:
    listed = "\n".join(f"  {name:<10}{scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nScenarios:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which of the above; small if none")
    parser.add_argument("--all", action="store_true", help="every scenario")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice; with wrk whole ones")
    parser.add_argument("--only", action="append", default=[], metavar="PEER", help="this contender and the reference")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures of every round")
    parser.add_argument(
        "--compare", nargs=2, metavar=("OLD", "NEW"), type=Path, help="two files of --json; runs nothing"
    )
    options = parser.parse_args()
    if options.compare:
        print(comparison(*(json.loads(path.read_text()) for path in options.compare)))
        return
    names = list(SCENARIOS) if options.all else options.scenarios or ["small"]
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"no scenario named {name}; there are {', '.join(SCENARIOS)}")
    for name in options.only:
        if name not in PEERS:
            parser.error(f"no contender named {name}; there are {'; '.join(PEERS)}")
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {facts['system']}", flush=True)
    one_s = options.rounds * max(1.0, options.seconds) + WARM_UP_S + _START_S
    progress = Progress(
        one_s * sum(len(options.only) + 1 if options.only else len(SCENARIOS[name].peers) for name in names)
    )
    results: Results = {}
    for name in names:
        progress.scenario = name
        results[name] = measure(SCENARIOS[name], options.rounds, options.seconds, options.only, progress)
        print(table(name, SCENARIOS[name], results[name]), flush=True)
    if options.json:
        write_json(options.json, facts, SCENARIOS, results)


if __name__ == "__main__":
    main()
