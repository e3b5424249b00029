"""A shop: cacheable products, a slow report, and a name that tells which replica answered.

python -m examples.shop --port 9001 --name shop-1
"""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

PRODUCTS = {
    number: {
        "id": number,
        "name": f"{adjective} {noun}",
        "price": 490 + 35 * number,
        "description": f"A {adjective.lower()} {noun.lower()}, made to be looked at through a reverse proxy. " * 8,
    }
    for number, (adjective, noun) in enumerate(
        [("Red", "Kettle"), ("Blue", "Lamp"), ("Oak", "Table"), ("Tin", "Drum"), ("Wool", "Rug"), ("Glass", "Bowl")], 1
    )
}


def create_app(name: str) -> Starlette:
    """The shop as replica ``name``."""

    async def whoami(request: Request) -> Response:
        return JSONResponse(
            {"replica": name, "path": request.url.path, "client": request.headers.get("x-forwarded-for")}
        )

    async def products(request: Request) -> Response:
        body = {"replica": name, "products": list(PRODUCTS.values())}
        return JSONResponse(body, headers={"Cache-Control": "public, max-age=30", "Surrogate-Key": "products"})

    async def product(request: Request) -> Response:
        number = request.path_params["number"]
        if number not in PRODUCTS:
            return JSONResponse({"error": "no such product"}, status_code=404)
        headers = {
            "Cache-Control": "public, max-age=30, stale-while-revalidate=60",
            "ETag": f'"product-{number}"',
            "Surrogate-Key": f"products product-{number}",
        }
        return JSONResponse({"replica": name, **PRODUCTS[number]}, headers=headers)

    async def order(request: Request) -> Response:
        wanted = await request.json()
        return JSONResponse({"replica": name, "ordered": wanted}, status_code=201, headers={"Location": "/orders/1"})

    async def slow(request: Request) -> Response:
        await asyncio.sleep(min(float(request.query_params.get("seconds", "2")), 60))
        return PlainTextResponse(f"{name} took its time\n")

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/", whoami),
            Route("/whoami", whoami),
            Route("/products", products),
            Route("/products/{number:int}", product),
            Route("/orders", order, methods=["POST"]),
            Route("/slow", slow),
            Route("/healthz", health),
        ]
    )


if __name__ == "__main__":
    from examples.service import run_service

    run_service(create_app, default_name="shop-1", default_port=9001)
