"""The OpenAPI document, and its pages: Swagger UI and ReDoc, with scripts from the package `fastapi_offline`.

The pages load nothing from other hosts. Their Content-Security-Policy makes the browser refuse what the scripts would
load from there: a logo.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import orjson
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from tollkeeper.api.bearer import client_address
from tollkeeper.errors import NotFound
from tollkeeper.rate_limits.throttle import Throttle

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
"""The files that the pages load, and their media types."""

_FOLDER = Path(str(files("fastapi_offline"))) / "static"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def add_documents(app: FastAPI, throttle: Throttle) -> None:
    """Add the routes of the documents. The URLs in the pages are relative, so a proxy may add a prefix."""
    swagger_ui = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Tollkeeper",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )
    redoc = get_redoc_html(
        openapi_url="openapi.json",
        title="Tollkeeper",
        redoc_js_url="docs/redoc.standalone.js",
        redoc_favicon_url="docs/favicon.png",
        with_google_fonts=False,
    )
    for page in (swagger_ui, redoc):
        page.headers["Content-Security-Policy"] = _policy(page)

    def add(path: str, respond: Callable[[Request], Awaitable[Response]]) -> None:
        async def endpoint(request: Request) -> Response:
            await throttle.check_document(client_address(request.scope))
            return await respond(request)

        app.add_route(path, endpoint, include_in_schema=False)

    add("/openapi.json", OpenApiDocument(app).respond)
    add("/docs", _always(swagger_ui))
    add("/redoc", _always(redoc))
    add("/docs/{asset}", _asset)


class OpenApiDocument:
    """The OpenAPI document. To make it takes up to a second: it is made once, in a thread."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: bytes | None = None
        self._making: asyncio.Task[bytes] | None = None

    async def respond(self, _: Request) -> Response:
        if self._made is None:
            if self._making is None:
                self._making = asyncio.create_task(asyncio.to_thread(self._make))
            self._made = await asyncio.shield(self._making)  # a client that leaves does not end it for the others
        return Response(self._made, media_type="application/json")

    def _make(self) -> bytes:
        return orjson.dumps(self._app.openapi())


def _always(page: Response) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        return page

    return respond


async def _asset(request: Request) -> Response:
    name = request.path_params["asset"]
    if name not in ASSETS:
        raise NotFound
    return FileResponse(_FOLDER / name, media_type=ASSETS[name])


def _policy(page: HTMLResponse) -> str:
    """The Content-Security-Policy of a page: its own inline scripts, and what this server sends.

    Both programs style elements inline; ReDoc runs its search in a worker.
    """
    scripts = [
        f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(bytes(page.body).decode())
    ]
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *scripts]),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "worker-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
