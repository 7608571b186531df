"""What each process of a running system holds in memory: ``python -m benchmarks.footprint``.

Starts an MLflow server and ``fieldrepair up`` with the demo's model, sends it 1,000 field inputs, half of them shifted,
waits for the repair case's questions, and reads the resident and the proportional set size of every process from
``/proc`` (Linux). Pages that processes share count fully in the first and by shares in the second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from examples.digits.platform import FieldRepair, wait_for
from examples.digits.story import Story
from fieldrepair_plugin.processes import group_members

_WORDS = {
    "fieldrepair_service.shipper": "shipper",
    "fieldrepair_service.cli sidecar": "sidecar",
    "fieldrepair_service.cli monitor": "monitor",
    "fieldrepair_service.cli worker": "worker",
    "fieldrepair_service.cli up": "up",
    "scoring_server": "model server (MLflow's)",
}


@dataclass(frozen=True)
class Footprint:
    """Memory of one process, in bytes."""

    process: str
    resident: int
    proportional: int


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a line for each process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fieldrepair-footprint-") as scratch, ExitStack() as processes:
        story = Story(Path(scratch))
        platform = story.begin()
        processes.callback(platform.stop)
        story.train_and_register(platform)
        running, client = story.serve(platform)
        processes.callback(running.stop)
        story.send_clean_traffic(running, client)
        story.send_shifted_traffic(running, client)
        wait_for(
            "the case's questions",
            lambda: next((case for case in running.get("/api/cases") if case["budget"] is not None), None),
            seconds=120,
            process=running.process,
        )
        found = footprints(running, Path(scratch) / "state")
    for each in found:
        mib = each.resident / 2**20, each.proportional / 2**20
        print(f"{each.process:<26} resident {mib[0]:>6.0f} MiB   share {mib[1]:>6.0f} MiB")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=2))
    return 0


def footprints(running: FieldRepair, state: Path) -> list[Footprint]:
    """Every process that ``up`` started whose command is known, and ``up`` itself."""
    groups = [running.process.handle.pid, *json.loads((state / "up.json").read_text())["processes"]]
    found: list[Footprint] = []
    for pid in sorted({pid for group in groups for pid in group_members(group)}):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        name = next((name for words, name in _WORDS.items() if words in command), None)
        if name is not None:
            sizes = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            found.append(Footprint(name, _bytes(sizes["Rss"]), _bytes(sizes["Pss"])))
    return found


def _bytes(size: str) -> int:
    return int(size.split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())
