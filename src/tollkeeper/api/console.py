"""The console: one page, and the scripts and styles that `scripts/console.sh` builds from the folder `console`.

The page is a client of the API like any other: nothing here returns data. Its URLs are relative, so a proxy may add a
prefix. Names of assets contain a hash of their content, so browsers keep them. The page allows scripts of this server
only, and styles with the nonce of this response; Mantine, whose components the page uses, sets the attribute `style`.
"""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from tollkeeper.api.bearer import client_address
from tollkeeper.api.middleware import CONSOLE_ASSETS
from tollkeeper.errors import NotFound
from tollkeeper.rate_limits.throttle import Throttle

PATH = "/console"
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
"""The content codings of the compressed files beside each asset, the smallest first, and how their names end."""
NONCE = "__CSP_NONCE__"
"""Stands in the built page for the nonce of a response."""
CACHE_FOREVER = "public, max-age=31536000, immutable"
NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tollkeeper</title>
<h1>The console was not built</h1>
<p>The API works without it. To build it, run <code>make console</code> in the checkout, and restart the server. That
needs Node 20.19 or newer with npm, or a network that reaches the package indexes of Python and npm.</p>
<p>The API is described at <a href="docs">/docs</a>.</p>
</html>
"""

_INSTALLED = Path(__file__).parents[1] / "_console"
_CHECKOUT = Path(__file__).parents[3] / "console" / "dist"


class Bundle(NamedTuple):
    """The files of the built console: the page, and each asset by its name, with its compressed forms."""

    page: str
    assets: dict[str, Path]


def read_bundle() -> Bundle | None:
    """The console of this installation; None if it was not built."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    page = folder / "index.html"
    if not page.is_file():
        return None
    return Bundle(page.read_text("utf-8"), {path.name: path for path in (folder / "assets").iterdir()})


def add_console(app: FastAPI, throttle: Throttle, bundle: Bundle | None) -> None:
    """Add the routes of the console. Without a bundle, its page says how to build it."""

    def add(path: str, respond: Callable[[Request], Awaitable[Response]]) -> None:
        async def endpoint(request: Request) -> Response:
            await throttle.check_document(client_address(request.scope))
            return await respond(request)

        app.add_route(path, endpoint, include_in_schema=False)

    async def page(_: Request) -> Response:
        return _not_built() if bundle is None else _page(bundle.page)

    async def asset(request: Request) -> Response:
        return _asset(request, {} if bundle is None else bundle.assets)

    async def without_slash(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"..{PATH}{query}")  # relative: a proxy may have added a prefix

    add(PATH, page)
    add(f"{PATH}/", without_slash)
    add(CONSOLE_ASSETS + "{name}", asset)


def _page(text: str) -> Response:
    nonce = secrets.token_urlsafe(16)
    return HTMLResponse(text.replace(NONCE, nonce), headers={"Content-Security-Policy": _policy(nonce)})


def _not_built() -> Response:
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return HTMLResponse(NOT_BUILT, 404, headers={"Content-Security-Policy": policy})


def _asset(request: Request, assets: dict[str, Path]) -> Response:
    """An asset in the smallest coding that the client accepts. Raises NotFound."""
    name = request.path_params["name"]
    path, media_type = assets.get(name), MEDIA_TYPES.get(Path(name).suffix)
    if path is None or media_type is None or not path.is_file():
        raise NotFound  # the last: it was built again since this server started
    headers = {"Cache-Control": CACHE_FOREVER, "Vary": "Accept-Encoding"}
    accepted = accepted_codings(request.headers.get("accept-encoding", ""))
    for coding, suffix in ENCODINGS:
        compressed = assets.get(name + suffix)
        if coding in accepted and compressed is not None:
            path = compressed
            headers["Content-Encoding"] = coding
            break
    return FileResponse(path, headers=headers, media_type=media_type)


def accepted_codings(header: str) -> set[str]:
    """The content codings that an Accept-Encoding names, without those of weight 0 (RFC 9110, 12.5.3)."""
    codings = set()
    for item in header[:1_000].split(","):
        coding, _, weight = item.partition(";")
        if weight.replace(" ", "").lower().rstrip("0.") != "q=":
            codings.add(coding.strip().lower())
    return codings


def _policy(nonce: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            f"style-src-elem 'self' 'nonce-{nonce}'",
            "style-src-attr 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
