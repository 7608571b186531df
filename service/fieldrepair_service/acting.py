"""Under which name and role a request to the API acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:
    from fieldrepair_service.console.security import Visitor


@dataclass(frozen=True)
class Acting:
    """Who acts, as the case book records it."""

    name: str
    role: str


def acting(request: Request, claimed: str) -> Acting:
    """Who sends a request: people act under the name they signed in with, scripts say whom they speak for.

    Args:
        request: one that passed the API's guard; without a guard everybody is a labeller.
        claimed: the name in the request.
    """
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    if visitor is None:
        return Acting(claimed, "labeller")
    return Acting(visitor.speaks_as(claimed), str(visitor.role))
