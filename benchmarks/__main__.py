"""``make bench``: every measurement there is data for, written to ``build/benchmarks``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks import drift, repair, training_faults


def main() -> int:
    """Run the drift and the repair benchmark on every case of ``FIELDREPAIR_DATA`` that has its model beside it, then
    the one of faulty trainings."""
    folder = os.environ.get("FIELDREPAIR_DATA", "")
    cases = sorted(path.with_suffix(".npz") for path in Path(folder).glob("*.pt")) if folder else []
    if not cases:
        print("no benchmark cases: set FIELDREPAIR_DATA to a folder of NAME.npz with NAME.pt (docs/benchmarks.md)")
        return 1
    paths = [str(case) for case in cases]
    table = Path(folder) / "elec2.npz"
    tables = [str(table)] if table.exists() else []
    drifted = drift.main([*paths, *tables, "--speed", "--json", "build/benchmarks/drift.json"])
    repaired = repair.main([*paths, "--json", "build/benchmarks/repair.json"])
    return training_faults.main(["--json", "build/benchmarks/training_faults.json"]) or repaired or drifted


if __name__ == "__main__":
    sys.exit(main())
