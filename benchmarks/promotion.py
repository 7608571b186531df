"""``python -m benchmarks.promotion``: promotions under load, and parts that are killed while a case makes its way.

Two questions. Under the highest load that the machine sustains, does a promotion or a roll-back fail a request, does a
stopped version answer, is each answer logged under the version that gave it? And when supervisor, model server,
sidecar, monitor, worker or registry are killed at random, does everything heal by itself, and is a case lost, done
twice or stuck?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.promotion_chaos import kills
from benchmarks.promotion_load import promotions

BARS = {
    "failed": 0,
    "answers_of_a_stopped_version": 0,
    "answers_of_the_former_version_after_the_switch": 0,
    "wrong_version_tags": 0,
    "answered_not_logged": 0,
    "not_healed": 0,
    "healed_later_than_30_s": 0,
    "cases_lost": 0,
    "cases_stuck": 0,
    "versions_registered_twice": 0,
    "windows_missing_or_twice": 0,
    "epochs_logged_twice": 0,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status is 1 if a bar is missed."""
    given = _parse(arguments)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fieldrepair-promotion-") as folder:
        if given.promotions:
            result.update(
                promotions(Path(folder) / "load", given.promotions, given.roll_backs, given.clients, given.minutes)
            )
            _keep(result, given.json)
        if given.kills:
            result.update(kills(Path(folder) / "chaos", given.kills, given.seed, given.minutes))
            _keep(result, given.json)
    width = max(map(len, result), default=0)
    missed = [name for name, bar in BARS.items() if result.get(name, bar) != bar]
    for name, value in result.items():
        bar = f"  must be {BARS[name]}" if name in BARS else ""
        print(f"{name:<{width}}  {value}{bar}{'  MISSED' if name in missed else ''}")
    return 1 if missed else 0


def _keep(result: dict[str, Any], path: Path | None) -> None:
    """Write down what is known; how busy the machine is belongs to it."""
    result["load_average_5_minutes"] = round(os.getloadavg()[1], 1)
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promotion", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--promotions", type=int, default=20, help="moves of the alias to the next version; 0: none")
    parser.add_argument("--roll-backs", type=int, default=5, help="moves back in between")
    parser.add_argument("--clients", type=int, help="clients that ask without a pause; default: as many as help")
    parser.add_argument("--kills", type=int, default=50, help="parts killed at random; 0: none")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing more after so many, in each part")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which parts are killed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
