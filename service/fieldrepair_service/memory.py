"""Memory that is not needed any more, given back to the operating system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import cast


def give_back_memory() -> None:
    """Return what allocators keep for later.

    A process that works in bursts would otherwise hold what its largest burst needed, in pieces that no other burst
    fits into, and grow for hours.
    """
    if (pyarrow := sys.modules.get("pyarrow")) is not None:  # not everybody who calls this has it
        pyarrow.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; other C libraries do without."""
    return cast(Callable[[int], int] | None, getattr(ctypes.CDLL(None), "malloc_trim", None))


_trim = _malloc_trim()
