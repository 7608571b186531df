"""Memory that a burst needed is not kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from fieldrepair_service.memory import give_back_memory


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_a_burst_freed_goes_back_to_the_system() -> None:
    """Small blocks that a later, small one keeps from the top of the heap are what an allocator holds on to."""
    small = [bytearray(1000) for _ in range(100_000)]
    arrays = [pa.array(range(10_000)) for _ in range(500)]
    last = bytearray(1000)
    high = _resident()
    del small, arrays
    give_back_memory()
    assert high - _resident() > 100e6
    assert len(last) == 1000
