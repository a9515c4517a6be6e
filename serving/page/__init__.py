"""The page at ``/``: static files, whose scripts call the API as any other client does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent
SCRIPTS = ("page", "form", "server", "answer", "alternatives", "figures", "elements")
FILES = {  # path -> file and its type
    "/": ("index.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/page/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
HEADERS = {
    # No scripts or styles but the files above, no other origin, and no frame around the page.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer version of edgeseq has newer files
}


def page_routes() -> list[Route]:
    """Return the routes of the page and its files."""
    return [
        Route(path, _endpoint(FOLDER / name, media_type), methods=["GET"])
        for path, (name, media_type) in FILES.items()
    ]


def _endpoint(file: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = file.read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return endpoint
