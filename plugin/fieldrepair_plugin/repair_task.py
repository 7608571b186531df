"""What the repair of one case starts from, and which labels of earlier attempts it takes along."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from fieldrepair_monitoring.handover import HandOver
from fieldrepair_plugin.case_files import Plan
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.field_pool import Key
from fieldrepair_plugin.registration import Labelled
from fieldrepair_plugin.repairable import Served
from fieldrepair_service.case_book import Case


@dataclass(frozen=True)
class RepairTask:
    """Everything the repair of one case starts from."""

    case: Case
    handover: HandOver
    champion: nn.Module
    plan: Plan
    selection: Selection
    pool: Served
    """The adaptation pool, and after it what people labelled for repair in earlier attempts."""
    labels: dict[int, int]
    """Pool index -> class."""
    acceptance: Labelled
    judged: list[Key]
    """(request_id, row) of the acceptance sample, in its order."""

    @property
    def repair(self) -> Labelled:
        """What people labelled for the repair."""
        indices = np.asarray(sorted(self.labels), dtype=np.int64)
        return Labelled(self.pool[indices], np.asarray([self.labels[int(at)] for at in indices], dtype=np.int64))


def with_earlier(selection: Selection, pool: int, earlier: int) -> Selection:
    """The selection with ``earlier`` more inputs after the pool, which people labelled in an earlier attempt.

    They are known, and each speaks for itself only. Their unsmoothness is the highest there is: they learn from their
    label, never from the model's own answer.
    """
    added = np.arange(pool, pool + earlier, dtype=np.int64)
    return replace(
        selection,
        known=np.concatenate([selection.known, added]),
        known_regions=[
            *(selection.known_regions or [selection.known[at : at + 1] for at in range(len(selection.known))]),
            *(added[at : at + 1] for at in range(earlier)),
        ],
        unsmoothness=np.concatenate([selection.unsmoothness, np.ones(earlier)]),
    )
