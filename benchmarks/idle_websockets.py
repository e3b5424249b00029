"""What a WebSocket costs that says nothing: resident memory of the proxy for each, and its CPU time.

python -m benchmarks.idle_websockets
python -m benchmarks.idle_websockets --count 5000 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.contenders import Contender, running, serving, workspace
from benchmarks.echo import Caller
from benchmarks.peers import PEERS
from benchmarks.scenarios import SCENARIOS

SCENARIO = SCENARIOS["echo"]
WARM = 50
AT_A_TIME = 50


class Idler(Caller):
    """Shakes hands, and nothing else."""

    def __init__(self) -> None:
        super().__init__(SCENARIO.load.path, outstanding=0)
        self.opened = asyncio.get_running_loop().create_future()

    def on_head(self, head: bytes) -> None:
        super().on_head(head)
        self.opened.set_result(None)


async def open_idle(port: int, count: int) -> list[Idler]:
    """So many WebSockets, all of them accepted."""
    loop = asyncio.get_running_loop()
    found: list[Idler] = []
    while len(found) < count:
        several = min(AT_A_TIME, count - len(found))
        idlers = [(await loop.create_connection(Idler, "127.0.0.1", port))[1] for _ in range(several)]
        await asyncio.gather(*(idler.opened for idler in idlers))
        found += idlers
    return found


async def measure(contender: Contender, count: int, seconds: float) -> tuple[float, float]:
    """KiB for each of ``count`` WebSockets, and milliseconds of CPU a second for all of them."""
    port = contender.site.port
    warm = await open_idle(port, WARM)
    before_mib = contender.resident_mib()
    idle = await open_idle(port, count)
    each = (contender.resident_mib() - before_mib) * 1024 / count
    before_s = contender.cpu_s()
    await asyncio.sleep(seconds)
    used_s = contender.cpu_s() - before_s
    if any(idler.failed for idler in idle):
        raise RuntimeError("not every WebSocket stayed open")
    for idler in [*warm, *idle]:
        idler.transport.abort()
    return each, used_s / seconds * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of silence")
    options = parser.parse_args()
    print(f"{options.count} idle WebSockets\n  {'':<20}{'KiB each':>10}{'CPU ms/s':>10}")
    with workspace() as folder, serving(SCENARIO.upstream, folder) as upstream:
        for name in SCENARIO.peers:
            if not PEERS[name].is_installed:
                continue
            with running(PEERS[name], upstream, folder) as contender:
                each, cpu_ms = asyncio.run(measure(contender, options.count, options.seconds))
            print(f"  {name:<20}{each:>10.1f}{cpu_ms:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
