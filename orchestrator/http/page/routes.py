"""The page at `/` and the files that it is made of."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent
# Not asked of the machine: some call JavaScript a plain text, which no browser runs then.
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".css": "text/css",
        ".html": "text/html",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
)
_INDEX = "index.html"
_FILES: Mapping[str, str] = MappingProxyType(
    {
        "/" if path.name == _INDEX else f"/page/{path.name}": path.name
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _TYPES
    }
)
PAGE_PATHS = tuple(_FILES)
"""Where the page is. It tells nothing of what is served, so that who has no key may have it."""
_HEADERS = {
    # Nothing from elsewhere, nothing that the text of a model could bring with it, and no frame around it.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # They belong together: none of them is to be an older one than the others.
    "cache-control": "no-cache",
}


def page_routes() -> APIRouter:
    """Return the routes of the page."""
    routes = APIRouter(include_in_schema=False)
    for path, name in _FILES.items():
        routes.add_api_route(path, _PageFile(_FOLDER / name).answer)
    return routes


class _PageFile:
    """One file, kept in memory."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._headers = _HEADERS | {"etag": f'"{sha256(self._content).hexdigest()[:16]}"'}

    async def answer(self, request: Request) -> Response:
        """Return it, or that the client has it."""
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._type)
