"""HybridRepair: few labels, much repair (Li, Chen, Xu: "HybridRepair: Towards Annotation-Efficient Repair for Deep
Learning Models", ISSTA 2022).

Given a model M, its training data, a pool U of field inputs and a budget of B labels:

1. unsmoothness   how much M's answer to each u in U changes under AugMix            -> unsmoothness.py
2. threshold      tau, up to which M's own answer is good enough to learn from       -> threshold.py
3. regions        U as groups of about ten neighbours in embedding space             -> regions.py
4. exemplars      the B most unsmooth regions; a person labels one member of each    -> exemplars.py
5. selected       inputs with unsmoothness <= tau, drawn with weight 1 - unsmoothness
6. training       each epoch a supervised pass and a MixMatch-style pass             -> training.py (5, 6 and 7)
7. kept epoch     the one with the smallest total unsmoothness on U: needs no labels

People answer hours later, so steps 1-4 (:func:`select_exemplars`) and 5-7 (:func:`train`) are two calls with a
:class:`Selection` between them that can be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fieldrepair_plugin.exemplars import BudgetedOracle, Oracle, Selection, check_budget, choose_exemplars, propagate
from fieldrepair_plugin.known_labels import settle
from fieldrepair_plugin.pool_copies import PoolCopies
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.regions import find_regions
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet
from fieldrepair_plugin.threshold import neighbour_distance, threshold
from fieldrepair_plugin.training import EpochRecord, RepairResult, fine_tune
from fieldrepair_plugin.unsmoothness import unsmoothness
from fieldrepair_service.errors import InputError

__all__ = [
    "BudgetedOracle",
    "EpochRecord",
    "HybridSettings",
    "Oracle",
    "Progress",
    "ProgressEvent",
    "RepairResult",
    "RepairableModel",
    "Selection",
    "TrainingSet",
    "repair",
    "select_exemplars",
    "train",
]


def select_exemplars(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    budget: int,
    settings: HybridSettings,
    progress: Progress | None = None,
    known: Mapping[int, int] | None = None,
) -> Selection:
    """Steps 1-4: choose the field inputs to ask a person about. Reads no field label.

    Args:
        model: the model under repair; it is not changed.
        reference: the model's training data.
        pool: ``(n, *shape)`` field inputs in served form; the acceptance sample must not be among them.
        budget: labels to ask for, 1..n.
        settings: the paper's numbers and the seed.
        progress: told of each step.
        known: pool index -> class, labels that exist already. They answer for their regions; these are not asked about.

    Returns:
        Exactly ``budget`` exemplars with their regions, the pool's unsmoothness and tau.

    Raises:
        InputError: for a budget outside 1..n, or data the model cannot take (empty, wrong shape, NaN).
    """
    tell = progress or silent
    check_budget(budget, len(pool) - len(known or {}))
    model = model.working_copy()
    field = model.pixels(pool, "field pool")
    training = model.pixels(reference.x, "training data")

    # 1. Unsmoothness: the normalised entropy of the mean prediction over an input and its K augmented copies.
    unsmooth = unsmoothness(model, PoolCopies(model, field, settings), _counting(tell, "unsmoothness"))

    # 2. The threshold tau: mean unsmoothness of the inputs of most average density, seen from the training data.
    field_logits, embeddings = model.logits_and_embeddings(field, settings.inference_batch_size)
    training_logits, _ = model.logits_and_embeddings(
        training, settings.inference_batch_size, _counting(tell, "threshold")
    )
    for name, logits in (("field pool", field_logits), ("training data", training_logits)):
        if not np.isfinite(logits).all():
            raise InputError(f"{name}: expected finite answers of the model, got NaN or infinity")
    density = neighbour_distance(field_logits, training_logits, settings.neighbours)
    tau = threshold(unsmooth, density, settings.average_inputs)

    # 3. Regions: HDBSCAN drops noise, k-means cuts the rest into groups of about ten, at least B of them.
    known = known or {}
    known_indices = np.array(sorted(known), dtype=np.int64)
    regions, speaks_for = settle(find_regions(embeddings, budget + len(known), settings), known)
    tell(ProgressEvent("regions", 1, 1, {"regions": len(regions.members), "noise": len(regions.noise), "tau": tau}))

    # 4. Exemplars: the B regions with the largest total unsmoothness, each represented by its most central member.
    exemplars, chosen = choose_exemplars(regions, embeddings, unsmooth, budget, known_indices)
    covered = sum(len(region) for region in chosen)
    tell(ProgressEvent("exemplars", 1, 1, {"exemplars": len(exemplars), "covered": covered}))
    known_regions = [np.setdiff1d(region, exemplars) for region in speaks_for.values()]
    return Selection(exemplars, chosen, unsmooth, tau, known=known_indices, known_regions=known_regions)


def train(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    selection: Selection,
    labels: Mapping[int, int],
    settings: HybridSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> RepairResult:
    """Steps 5-7: fine-tune a copy of the model from the labels, their regions and the smooth part of the pool.

    Args:
        model: the model under repair; it is not changed.
        reference: the model's training data.
        pool: the pool that was selected from.
        selection: from :func:`select_exemplars`.
        labels: exemplar's pool index -> class. Exemplars may lack one (people skip); their regions stay unlabelled.
        settings: the paper's numbers and the seed.
        progress: told of each pass and epoch.
        checkpoint: file written after each epoch; an existing one of the very same repair is continued from, exactly.

    Returns:
        The repaired copy, in eval mode, with one record per epoch.

    Raises:
        InputError: for no labels, labels of other inputs or unknown classes, a selection of another pool, or data
            the model cannot take.
    """
    if len(selection.unsmoothness) != len(pool):
        raise InputError(
            f"the selection is of a pool of {len(selection.unsmoothness)} inputs, this one has {len(pool)}"
        )
    labelled, classes = propagate(selection, labels)
    return fine_tune(
        model, reference, pool, selection, labels, (labelled, classes), settings, progress or silent, checkpoint
    )


def repair(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    oracle: Oracle,
    budget: int,
    settings: HybridSettings,
    progress: Progress | None = None,
) -> RepairResult:
    """Select, ask and train in one go, for when the labels are at hand.

    The oracle is asked once, for the exemplars only. See :func:`select_exemplars` and :func:`train`.
    """
    selection = select_exemplars(model, reference, pool, budget, settings, progress)
    answers: IntArray = oracle(selection.exemplars)
    if answers.shape != selection.exemplars.shape:
        raise InputError(f"asked the oracle for {len(selection.exemplars)} labels, got shape {np.shape(answers)}")
    labels = {int(index): int(label) for index, label in zip(selection.exemplars, answers, strict=True)}
    return train(model, reference, pool, selection, labels, settings, progress)


def _counting(tell: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(ProgressEvent(stage, done, total))
