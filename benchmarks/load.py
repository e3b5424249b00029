"""What is asked of a contender, and one slice of it: by wrk, or by generators of our own where wrk cannot do it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.closed_loop import ask
from benchmarks.processes import LOAD_CORE, pinned


@dataclass(frozen=True)
class Load:
    """What is asked, on how many connections at a time.

    ``varied`` changes target and fields from request to request; ``cold`` opens a connection for each. ``frames`` are
    WebSocket messages outstanding on each connection, in the place of requests.
    """

    path: str
    connections: int = 64
    headers: tuple[str, ...] = ()
    upload_bytes: int = 0
    cold: bool = False
    varied: bool = False
    frames: int = 0


@dataclass(frozen=True)
class Slice:
    """What one slice gave; latencies in microseconds."""

    requests: int
    errors: int
    cpu_s: float
    p50_us: float
    p99_us: float
    p999_us: float

    @property
    def per_cpu_second(self) -> float:
        return self.requests / max(self.cpu_s, 0.01)


def run_slice(url: str, load: Load, seconds: float, folder: Path, cpu_used_s: Callable[[], float]) -> Slice:
    """Ask ``url`` for ``seconds`` seconds; ``cpu_used_s`` tells what the contender has used so far."""
    if load.frames:
        return _run_echo(url, load, seconds, cpu_used_s)
    before_s = cpu_used_s()
    if shutil.which("wrk"):
        requests, errors, *percentiles = _run_wrk(url, load, seconds, folder)
    elif load.varied or url.startswith("https:"):
        raise RuntimeError("TLS and requests that vary are measured with wrk, which is not installed")
    else:
        requests, errors, *percentiles = asyncio.run(ask(url, request_bytes(url, load), load, seconds))
    return Slice(round(requests), round(errors), cpu_used_s() - before_s, *percentiles)


def request_bytes(url: str, load: Load) -> bytes:
    """The request of a load that does not vary."""
    fields = "".join(f"{header}\r\n" for header in load.headers)
    framing = f"Content-Length: {load.upload_bytes}\r\n" if load.upload_bytes else ""
    ending = "Connection: close\r\n" if load.cold else ""
    line = f"{'POST' if load.upload_bytes else 'GET'} {load.path} HTTP/1.1\r\nHost: {url.partition('://')[2]}\r\n"
    return f"{line}{fields}{framing}{ending}\r\n".encode() + b"x" * load.upload_bytes


_RESULT = """
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.errors.status +
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""

# Target, trace, cookie and validator are different each time, so that nothing is gained by remembering bytes.
_VARIED = """
local number = 0
request = function()
  number = number + 1
  return string.format("GET %sitems/%d?page=%d HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n" ..
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\\r\\nAccept: application/json, text/plain, */*\\r\\n" ..
    "Accept-Language: en\\r\\nReferer: http://127.0.0.1/shop/%d\\r\\nCookie: session=%08x\\r\\n" ..
    "traceparent: 00-%016x%016x-%016x-01\\r\\n\\r\\n",
    wrk.path, number, number % 97, number - 1, number * 7919, number, number * 31, number * 17)
end
"""


def _run_wrk(url: str, load: Load, seconds: float, folder: Path) -> tuple[float, ...]:
    lines = [_RESULT]
    if load.upload_bytes:
        lines.append(f'wrk.method = "POST"\nwrk.body = string.rep("x", {load.upload_bytes})')
    if load.cold:
        lines.append('wrk.headers["Connection"] = "close"')
    if load.varied:
        lines.append(_VARIED)
    script = folder / "load.lua"
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(script), *(part for header in load.headers for part in ("-H", header)), url + load.path]
    done = subprocess.run(pinned(LOAD_CORE, command), capture_output=True, text=True, check=True)
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if match is None:
        raise RuntimeError(f"wrk gave no result:\n{done.stdout}{done.stderr}")
    return tuple(map(float, match.groups()))


def _run_echo(url: str, load: Load, seconds: float, cpu_used_s: Callable[[], float]) -> Slice:
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.echo", "call", port, load.path]
    command += [str(load.connections), str(load.frames), str(seconds)]
    with subprocess.Popen(
        pinned(LOAD_CORE, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        # The handshakes are over when it says so.
        process.stdout.readline()
        before_s = cpu_used_s()
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        used_s = cpu_used_s() - before_s
    requests, errors, *percentiles = map(float, answer)
    return Slice(round(requests), round(errors), used_s, *percentiles)
