"""The console's style sheets, scripts and icon: read once, served from memory, cached by browsers for good."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    version: str


def _load() -> dict[str, _File]:
    files: dict[str, _File] = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix not in _TYPES:
            continue
        content = path.read_bytes()
        media_type = _TYPES[path.suffix]
        files[path.name] = _File(content, media_type, hashlib.sha256(content).hexdigest()[:16])
    return files


class StaticFiles:
    """Files of the folder ``static`` under ``/static/``; open to everybody, since the sign-in page needs them."""

    def __init__(self) -> None:
        self._files = _load()
        self.router = APIRouter()
        self.router.add_api_route("/static/{name}", self._serve, methods=["GET", "HEAD"], include_in_schema=False)

    def url(self, name: str) -> str:
        """Address of a file; it changes when the content does, so that it can be cached for good.

        Raises:
            KeyError: there is no such file.
        """
        return f"/static/{name}?v={self._files[name].version}"

    def _serve(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404, f"there is no file {name}")
        etag = f'"{file.version}"'
        lasting = request.query_params.get("v") == file.version
        headers = {"etag": etag, "cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)
