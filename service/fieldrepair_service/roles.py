"""What a visitor of the control port may do. Apart from the guards, so that settings can name roles without them."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """What a visitor may do; each role may do everything that those before it may."""

    VIEWER = 1
    """Read."""
    LABELLER = 2
    """Label."""
    APPROVER = 3
    """Promote, dismiss, retry, switch the upstream."""

    def __str__(self) -> str:
        return self.name.lower()
