from collections.abc import Mapping
from typing import Any, TypedDict

from playwright.sync_api import Page

class Node(TypedDict):
    html: str

class Violation(TypedDict):
    id: str
    impact: str
    nodes: list[Node]

class Response(TypedDict):
    violations: list[Violation]

class Results:
    response: Response

class Axe:
    def run(self, page: Page, context: Any = None, options: Mapping[str, object] | None = None) -> Results: ...
