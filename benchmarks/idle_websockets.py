"""What a WebSocket costs that says nothing: resident memory of the proxy for each, and its CPU time.

python -m benchmarks.idle_websockets
python -m benchmarks.idle_websockets --count 5000 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import cpu_seconds, free_port, resident_mib, started
from benchmarks.websockets import CONTENDERS, LOAD_CORE, PEER_CORE, Caller

WARM = 50
AT_A_TIME = 50


class Idler(Caller):
    """Shakes hands, and nothing else."""

    def __init__(self) -> None:
        super().__init__(outstanding=0)
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


async def measure(port: int, pid: int, count: int, seconds: float) -> tuple[float, float]:
    """KiB for each of ``count`` WebSockets, and milliseconds of CPU a second for all of them."""
    warm = await open_idle(port, WARM)
    before = resident_mib(pid)
    idle = await open_idle(port, count)
    each = (resident_mib(pid) - before) * 1024 / count
    used_s = cpu_seconds(pid)
    await asyncio.sleep(seconds)
    used_s = cpu_seconds(pid) - used_s
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
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for peer in CONTENDERS:
            if not peer.installed():
                continue
            origin, port = free_port(), free_port()
            command = [sys.executable, "-m", "benchmarks.websockets", "origin", str(origin)]
            with (
                started(command, origin, core=LOAD_CORE, log=folder / "origin.log"),
                started(
                    peer.command(port, origin, folder),
                    port,
                    core=PEER_CORE,
                    log=folder / f"{peer.name}.log",
                    env=peer.env(origin),
                ) as process,
            ):
                each, cpu_ms = asyncio.run(measure(port, process.pid, options.count, options.seconds))
            print(f"  {peer.name:<20}{each:>10.1f}{cpu_ms:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
