"""What other people's programs rely on: names, imports without extras, middleware on their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

import gateway
from gateway.middleware.cache import CacheMiddleware
from gateway.middleware.compression import CompressionMiddleware
from gateway.middleware.location import LocationMiddleware
from gateway.middleware.request_id import RequestIdMiddleware
from tests.support.messages import call, http_scope

pytestmark = pytest.mark.anyio

MIDDLEWARE = sorted(
    path.stem for path in (Path(gateway.__file__).parent / "middleware").glob("*.py") if path.stem != "__init__"
)


async def page(request: Request) -> Response:
    return PlainTextResponse("compressible " * 500, headers={"Cache-Control": "max-age=60"})


async def moved(request: Request) -> Response:
    return RedirectResponse("/target")


def test_the_package_offers_its_names_lazily() -> None:
    code = "import sys, gateway; assert 'httpx' not in sys.modules; gateway.Gateway; assert 'httpx' in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_no_middleware_needs_httpx_or_uvicorn() -> None:
    imports = "\n".join(f"import gateway.middleware.{name}" for name in MIDDLEWARE)
    code = f"import sys\n{imports}\nfound = {{'httpx', 'uvicorn', 'redis', 'joserfc', 'pwdlib'}} & set(sys.modules)\n"
    code += "assert not found, found\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("parent", [Starlette, FastAPI])
async def test_middleware_works_in_any_application(parent: type[Starlette]) -> None:
    app = parent(routes=[Route("/", page)])
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(CacheMiddleware)
    app.add_middleware(RequestIdMiddleware)
    for _ in range(2):
        sent = await call(app, http_scope("GET", b"/", [(b"host", b"a"), (b"accept-encoding", b"gzip")]))
        assert sent.status == 200
        assert sent.values(b"content-encoding") == [b"gzip"]
        assert len(sent.values(b"x-request-id")) == 1
    assert b"hit" in b"".join(sent.values(b"cache-status"))


async def test_an_application_that_is_mounted_knows_where_and_its_references_stay() -> None:
    inner = Starlette(routes=[Route("/moved", moved)])
    inner.add_middleware(LocationMiddleware, upstreams=["http://127.0.0.1:9001"])
    app = Starlette(routes=[Mount("/inner", inner)])
    sent = await call(app, http_scope("GET", b"/inner/moved"))
    assert sent.values(b"location") == [b"/target"]
