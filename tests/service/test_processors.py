"""What control groups let a process have, by files as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fieldrepair_service import processors
from fieldrepair_service.processors import may_spare_one, processor_quota

V1 = "4:memory:/docker/a\n1:cpu,cpuacct:/docker/a\n"
V2 = "0::/system.slice/a.service\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {"system.slice/a.service/cpu.max": "150000 100000"}, 1.5),
        (V2, {"system.slice/a.service/cpu.max": "max 100000"}, None),
        (V2, {"system.slice/cpu.max": "50000 100000", "system.slice/a.service/cpu.max": "max 100000"}, 0.5),
        (V2, {"cpu.max": "400000 100000"}, 4.0),  # a container's own view: its group is the root
        (V2, {"cpu.max": "no numbers"}, None),
        (V2, {}, None),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "200000", "cpu/docker/a/cpu.cfs_period_us": "100000"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "1", "cpu/a/cpu.cfs_period_us": "1"}, None),
    ],
)
def test_the_smallest_limit_of_all_groups_around(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "cgroup").write_text(groups)
    assert processor_quota(tmp_path / "cgroup", tmp_path / "mount") == quota


def test_no_limit_is_known_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert processor_quota(tmp_path / "nothing", tmp_path) is None


@pytest.mark.parametrize(
    ("usable", "quota", "spare"), [(2, None, True), (2, 2.0, True), (8, 1.5, False), (1, None, False)]
)
def test_one_can_be_spared_where_another_is_left(
    usable: int, quota: float | None, spare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def affinity(_: int) -> set[int]:
        return set(range(usable))

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    monkeypatch.setattr(processors, "processor_quota", lambda: quota)
    assert may_spare_one() is spare
