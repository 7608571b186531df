"""The paths that belong to the pages and to the case API, whether they are served or left out."""

from __future__ import annotations

PAGES = ("/", "/cases", "/cases/{path:path}", "/label/{path:path}", "/audit")
API = ("/api/{path:path}",)
