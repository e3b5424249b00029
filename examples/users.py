"""A users service: JSON, a login cookie, and redirects that name its own address.

python -m examples.users --port 9003
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

USERS = {"ada": {"name": "Ada Lovelace"}, "grace": {"name": "Grace Hopper"}}


def create_app(name: str) -> Starlette:
    """The users service as instance ``name``."""

    async def users(request: Request) -> Response:
        return JSONResponse({"service": name, "users": USERS})

    async def user(request: Request) -> Response:
        found = USERS.get(request.path_params["login"])
        return JSONResponse(found or {"error": "no such user"}, status_code=200 if found else 404)

    async def login(request: Request) -> Response:
        """Answers with an address that only this service knows: the gateway makes it public again."""
        host, port = request.scope["server"]
        response = RedirectResponse(f"http://{host}:{port}/me", status_code=303)
        response.set_cookie("session", "ada", path="/", httponly=True)
        response.headers["X-Powered-By"] = "examples"
        return response

    async def me(request: Request) -> Response:
        session = request.cookies.get("session")
        if session not in USERS:
            return JSONResponse({"error": "not logged in"}, status_code=401)
        return JSONResponse(USERS[session], headers={"Cache-Control": "private"})

    async def headers(request: Request) -> Response:
        return JSONResponse([[key.decode("latin-1"), value.decode("latin-1")] for key, value in request.headers.raw])

    return Starlette(
        routes=[
            Route("/", users),
            Route("/login", login, methods=["GET", "POST"]),
            Route("/me", me),
            Route("/headers", headers),
            Route("/{login}", user),
        ]
    )


if __name__ == "__main__":
    from examples.service import run_service

    run_service(create_app, default_name="users", default_port=9003)
