"""One slice of load from wrk, or from a small generator of our own where wrk is missing."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import pinned

_SCRIPT = """
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d %d\\n", summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.bytes, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


@dataclass(frozen=True)
class Load:
    """What is asked, how often at a time."""

    path: str
    connections: int = 64
    headers: tuple[str, ...] = ()
    upload_bytes: int = 0
    cold: bool = False
    host: str = ""


@dataclass(frozen=True)
class Slice:
    """What one slice gave; latencies in microseconds."""

    requests: int
    errors: int
    bytes: int
    p50_us: float
    p99_us: float
    p999_us: float


def run_slice(base: str, load: Load, seconds: float, workdir: Path, core: int) -> Slice:
    """Ask ``base`` for ``seconds`` seconds."""
    if shutil.which("wrk"):
        return _run_wrk(base, load, seconds, workdir, core)
    return asyncio.run(_run_own(base, load, seconds))


def _run_wrk(base: str, load: Load, seconds: float, workdir: Path, core: int) -> Slice:
    script = workdir / f"load-{load.upload_bytes}-{load.cold}.lua"
    lines = [_SCRIPT]
    if load.upload_bytes:
        lines.append(f'wrk.method = "POST"\nwrk.body = string.rep("x", {load.upload_bytes})')
    if load.cold:
        lines.append('wrk.headers["Connection"] = "close"')
    script.write_text("\n".join(lines))
    command = [
        "wrk",
        "-t1",
        f"-c{load.connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
    ]
    for header in load.headers:
        command += ["-H", header]
    done = subprocess.run(pinned(core, [*command, base + load.path]), capture_output=True, text=True, check=True)
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if match is None:
        raise RuntimeError(f"wrk gave no result:\n{done.stdout}{done.stderr}")
    requests, statuses, failures, size, p50, p99, p999 = map(int, match.groups())
    return Slice(requests, statuses + failures, size, p50, p99, p999)


async def _run_own(base: str, load: Load, seconds: float) -> Slice:
    host, _, port = base.removeprefix("http://").removeprefix("https://").partition(":")
    fields = "".join(f"{header}\r\n" for header in load.headers)
    method, body = ("POST", b"x" * load.upload_bytes) if load.upload_bytes else ("GET", b"")
    framing = f"Content-Length: {len(body)}\r\n" if body else ""
    ending = "Connection: close\r\n" if load.cold else ""
    head = f"{method} {load.path} HTTP/1.1\r\nHost: {host}:{port}\r\n{fields}{framing}{ending}\r\n".encode()
    latencies: list[float] = []
    counts = [0, 0]
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"\r\ncontent-length: *(\d+)", answer, re.IGNORECASE)
            size = int(match[1]) if match else 0
            await reader.readexactly(size)
            latencies.append((time.perf_counter() - began) * 1e6)
            counts[0] += 0 if answer[9:10] in b"23" else 1
            counts[1] += size
            if load.cold:
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    await asyncio.gather(*(client() for _ in range(load.connections)))
    latencies.sort()

    def percentile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else 0.0

    return Slice(len(latencies), counts[0], counts[1], percentile(0.5), percentile(0.99), percentile(0.999))
