"""How much memory a machine, or the container we are in, has left, and how much a process group holds. Linux only."""

from __future__ import annotations

from pathlib import Path

from fieldrepair_plugin.processes import group_members

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that new processes can have without anything being pushed out; None where that cannot be known.

    Args:
        meminfo: the kernel's word on the machine.
        cgroup: this container's control group (version 2), which may allow less.
    """
    try:
        lines = meminfo.read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max" where there is none
        # The file cache counts as used there, but is given up when memory is needed.
        cached = next(
            int(line.split()[1])
            for line in (cgroup / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        left = limit - int((cgroup / "memory.current").read_text()) + cached
    except (OSError, StopIteration, ValueError, IndexError):
        return machine
    return max(0, min(machine, left))


def resident_bytes(group: int) -> int:
    """Memory that the processes of a group hold; what they share counts for each."""
    total = 0
    for pid in group_members(group):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total
