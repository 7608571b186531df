"""How much processor time this process may take: what it can run on, and what its control groups let it have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUP_MOUNT = Path("/sys/fs/cgroup")

_ENOUGH = 2.0


def may_spare_one() -> bool:
    """Whether one processor can be kept awake and another is left."""
    quota = processor_quota()
    return len(os.sched_getaffinity(0)) >= _ENOUGH and (quota is None or quota >= _ENOUGH)


def processor_quota(cgroup: Path = CGROUP, mount: Path = CGROUP_MOUNT) -> float | None:
    """The processors that control groups (version 1 or 2) limit this process to, a container's limit say; None: as many
    as there are.

    Args:
        cgroup: says which groups the process is in.
        mount: where the groups are.
    """
    try:
        lines = cgroup.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux, or a hardened one
        return None
    return min((quota for line in lines for folder in _groups(line, mount) for quota in _quotas(folder)), default=None)


def _groups(line: str, mount: Path) -> Iterator[Path]:
    """The folders of a group and of those around it. In a container they may begin below what the line says."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    root = mount / "cpu" if controllers else mount
    group = root / path.lstrip("/")
    yield from (folder for folder in (group, *group.parents) if folder == root or root in folder.parents)


def _quotas(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            yield float(quota) / float(period)
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
        if float(quota) > 0:  # -1 is no limit
            yield float(quota) / float((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
