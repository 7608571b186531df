"""``make bench``: every measurement there is data for, written to ``build/benchmarks``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks import repair


def main() -> int:
    """Run the repair benchmark on every image case of ``FIELDREPAIR_DATA`` that has its model beside it."""
    folder = os.environ.get("FIELDREPAIR_DATA", "")
    cases = sorted(path.with_suffix(".npz") for path in Path(folder).glob("*.pt")) if folder else []
    if not cases:
        print("no benchmark cases: set FIELDREPAIR_DATA to a folder of NAME.npz with NAME.pt (docs/benchmarks.md)")
        return 1
    return repair.main([*(str(case) for case in cases), "--json", "build/benchmarks/repair.json"])


if __name__ == "__main__":
    sys.exit(main())
