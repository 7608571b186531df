"""Labels that exist already: from earlier rounds, other cases, or the world itself. Nobody is asked for them again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldrepair_plugin.regions import Regions
from fieldrepair_plugin.repairable import IntArray


def settle(regions: Regions, known: Mapping[int, int]) -> tuple[Regions, dict[int, IntArray]]:
    """Take out of the regions what known labels already answer for.

    A region whose known members agree is settled: the lowest-numbered of them speaks for it. One whose known members
    differ is no group of one class; each of them speaks for itself, and the rest stays open to questions.

    Args:
        regions: of the whole pool.
        known: pool index -> class (or none of them).

    Returns:
        The regions that are open, without known members and in their old order, and for each known input the pool
        indices it speaks for, itself included.
    """
    speaks_for = {index: np.array([index], dtype=np.int64) for index in sorted(known)}
    all_known = np.array(sorted(known), dtype=np.int64)
    members: list[IntArray] = []
    centres: list[int] = []
    for number, region in enumerate(regions.members):
        inside = [int(index) for index in np.intersect1d(region, all_known)]
        if inside and len({known[index] for index in inside}) == 1:
            speaks_for[inside[0]] = np.setdiff1d(region, inside[1:])
        elif len(rest := np.setdiff1d(region, inside)):
            members.append(rest)
            centres.append(number)
    return Regions(members, regions.centres[centres], np.setdiff1d(regions.noise, all_known)), speaks_for
