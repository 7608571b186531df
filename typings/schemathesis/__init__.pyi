"""The part of schemathesis that the tests use; its own types are generics without arguments."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis.strategies import SearchStrategy

Check = Callable[[Any, Any, Any], bool | None]

class Case:
    def call_and_validate(self, *, checks: Sequence[Check]) -> object: ...

class APIOperation:
    path: str
    def as_strategy(self) -> SearchStrategy[Case]: ...

class Found:
    def ok(self) -> APIOperation: ...

class BaseSchema:
    def get_all_operations(self) -> Iterator[Found]: ...

class _OpenApi:
    def from_url(self, url: str) -> BaseSchema: ...

openapi: _OpenApi
