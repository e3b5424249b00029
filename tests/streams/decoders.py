"""Decoders that are not the gateway's: Python's own, the libraries' one-shot calls, and curl."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tempfile
import zlib
from pathlib import Path

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def decode(coding: str | None, body: bytes) -> bytes:
    """A whole body; fails unless it is complete."""
    if coding is None:
        return body
    if coding == "gzip":
        return gzip.decompress(body)
    if coding == "deflate":
        return zlib.decompress(body)
    if coding == "br":
        return bytes(brotli.decompress(body))
    assert coding == "zstd"
    decoder = zstd.ZstdDecompressor()
    decoded: bytes = decoder.decompress(body)
    assert decoder.eof and not decoder.unused_data
    return decoded


def encode(coding: str, body: bytes) -> bytes:
    """A whole body, by one-shot calls."""
    if coding == "gzip":
        return gzip.compress(body)
    if coding == "deflate":
        return zlib.compress(body)
    if coding == "br":
        return bytes(brotli.compress(body, quality=5))
    assert coding == "zstd"
    return bytes(zstd.compress(body))


async def curl(*arguments: str) -> tuple[int, str, bytes]:
    """Run curl: its exit status, the response's head, and the body as it hands it on."""
    with tempfile.TemporaryDirectory() as folder:
        head, body = Path(folder, "head"), Path(folder, "body")
        command = ["curl", "-sS", "--noproxy", "*", "-D", str(head), "-o", str(body), *arguments]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        status = await process.wait()
        return status, _read(head).decode(), _read(body)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
