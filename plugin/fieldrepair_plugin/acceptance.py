"""The acceptance test: is the candidate really better in the field, and really no worse where the champion was good?

Accept only if both hold:

* field: on the acceptance sample (random, labelled by people, never trained on) the candidate repairs significantly
  more answers than it breaks: exact one-sided McNemar test, p < alpha.
* reference: on the validation set of the world the model was built for, the upper confidence bound of the accuracy
  lost is below the margin; so it is in every class with enough inputs to say so.

"Enough" for a class means: with that many inputs the bound could be below the margin if no answer changed
(:func:`fieldrepair_plugin.paired.smallest_sample`, 268 inputs for one percentage point). Other classes are listed as
too few to judge, never as passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldrepair_plugin.paired import PairedCounts, Share, loss_bound, mcnemar, sample_at_these_rates, smallest_sample
from fieldrepair_plugin.repairable import IntArray
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class Predictions:
    """What both models answered on one labelled sample; three arrays ``(n,)`` of class numbers."""

    champion: IntArray
    candidate: IntArray
    labels: IntArray

    def counts(self, only: npt.NDArray[np.bool_] | None = None) -> PairedCounts:
        """Compare the models, on some inputs or on all."""
        chosen = np.ones(len(self.labels), dtype=np.bool_) if only is None else only
        before = (self.champion == self.labels)[chosen]
        after = (self.candidate == self.labels)[chosen]
        return PairedCounts(
            both_right=int((before & after).sum()),
            repaired=int((~before & after).sum()),
            broken=int((before & ~after).sum()),
            both_wrong=int((~before & ~after).sum()),
        )


@dataclass(frozen=True)
class ClassVerdict:
    """One class on the reference validation set."""

    name: str
    inputs: int
    repaired: int
    broken: int
    loss: float | None
    """Champion's accuracy minus the candidate's; None without inputs."""
    bound: float | None
    """Upper confidence bound of the loss; None without inputs."""
    needed: int
    """Fewest inputs with which the bound could be below the margin if no answer changed."""
    judged: bool
    """Whether there are that many; if not, this class neither passed nor failed."""
    passed: bool
    """Judged, and the bound is below the margin."""


@dataclass(frozen=True)
class SampleVerdict:
    """Both models on one sample."""

    counts: PairedCounts
    champion_accuracy: Share
    """With Wilson's 95 % interval."""
    candidate_accuracy: Share
    champion_confusion: list[list[int]]
    """``[true class][answered class]`` counts."""
    candidate_confusion: list[list[int]]
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The decision, everything it rests on, and why in words."""

    accepted: bool
    reasons: list[str]
    """One line per finding; those that start with ``field`` and ``reference`` decide."""
    alpha: float
    margin: float
    field: SampleVerdict
    reference: SampleVerdict
    p_value: float
    """Of the exact one-sided McNemar test on the acceptance sample."""
    repair_rate: Share | None
    """Share of the champion's field mistakes the candidate gets right, with the exact 95 % interval; None if none."""
    negative_flips: int
    """Field inputs the champion got right and the candidate gets wrong."""
    loss_bound: float
    """One-sided upper bound of the accuracy lost on the reference validation set."""
    classes: list[ClassVerdict]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return asdict(self)


def judge(
    field: Predictions,
    reference: Predictions,
    class_names: Sequence[str],
    *,
    margin: float = 0.01,
    alpha: float = 0.05,
) -> Verdict:
    """Decide whether a candidate may replace the champion.

    Args:
        field: answers on the acceptance sample.
        reference: answers on the reference validation set.
        class_names: one per class number.
        margin: largest acceptable loss of accuracy on the reference, as a share (0.01 = 1 percentage point).
        alpha: level of both tests; the bound has confidence 1 - alpha.

    Returns:
        The verdict. Small samples lead to a rejection that says so, not to an error.

    Raises:
        InputError: if a sample is empty, its arrays differ in length, a class number has no name, or margin or alpha
            is not between 0 and 1.
    """
    for name, value in (("margin", margin), ("alpha", alpha)):
        if not 0.0 < value < 1.0:
            raise InputError(f"expected {name} between 0 and 1, got {value}")
    _check("acceptance sample", field, len(class_names))
    _check("reference validation set", reference, len(class_names))

    field_counts = field.counts()
    p_value = mcnemar(field_counts)
    field_passed = p_value < alpha

    reference_counts = reference.counts()
    bound = loss_bound(reference_counts, alpha)
    classes = [
        _judge_class(name, reference.counts(reference.labels == number), margin, alpha)
        for number, name in enumerate(class_names)
    ]
    reference_passed = bound < margin and all(one.passed for one in classes if one.judged)

    return Verdict(
        accepted=field_passed and reference_passed,
        reasons=[
            _field_reason(field_counts, p_value, alpha),
            _reference_reason(reference_counts, bound, margin, alpha),
            *_class_reasons(classes, margin),
        ],
        alpha=alpha,
        margin=margin,
        field=_sample_verdict(field, field_counts, len(class_names), field_passed),
        reference=_sample_verdict(reference, reference_counts, len(class_names), reference_passed),
        p_value=p_value,
        repair_rate=Share.of(field_counts.repaired, field_counts.champion_wrong, "exact"),
        negative_flips=field_counts.broken,
        loss_bound=bound,
        classes=classes,
    )


def verdict_metrics(verdict: Verdict) -> dict[str, float]:
    """The numbers of a verdict that people compare repairs by, as MLflow metrics; what does not exist is left out.

    Returns:
        ``field_accuracy_before``, ``field_accuracy_after``, ``reference_accuracy_before``,
        ``reference_accuracy_after``, ``repair_rate`` (if the champion made a mistake), ``negative_flips``,
        ``mcnemar_p``, ``reference_loss_bound``, ``classes_judged``, ``classes_failed``, ``accepted`` (1 or 0).
    """
    field, reference = verdict.field, verdict.reference
    numbers: dict[str, float | None] = {
        "field_accuracy_before": field.champion_accuracy.value,
        "field_accuracy_after": field.candidate_accuracy.value,
        "reference_accuracy_before": reference.champion_accuracy.value,
        "reference_accuracy_after": reference.candidate_accuracy.value,
        "repair_rate": None if verdict.repair_rate is None else verdict.repair_rate.value,
        "negative_flips": float(verdict.negative_flips),
        "mcnemar_p": verdict.p_value,
        "reference_loss_bound": verdict.loss_bound,
        "classes_judged": float(sum(one.judged for one in verdict.classes)),
        "classes_failed": float(sum(one.judged and not one.passed for one in verdict.classes)),
        "accepted": float(verdict.accepted),
    }
    return {name: value for name, value in numbers.items() if value is not None}


def confusion(answers: IntArray, labels: IntArray, classes: int) -> list[list[int]]:
    """Counts ``[true class][answered class]``."""
    cells = np.bincount(labels * classes + answers, minlength=classes * classes)
    rows: list[list[int]] = cells.reshape(classes, classes).tolist()
    return rows


def _judge_class(name: str, counts: PairedCounts, margin: float, alpha: float) -> ClassVerdict:
    needed = smallest_sample(margin, alpha)
    bound = loss_bound(counts, alpha) if counts.n > 0 else None
    return ClassVerdict(
        name=name,
        inputs=counts.n,
        repaired=counts.repaired,
        broken=counts.broken,
        loss=counts.loss if counts.n > 0 else None,
        bound=bound,
        needed=needed,
        judged=counts.n >= needed,
        passed=counts.n >= needed and bound is not None and bound < margin,
    )


def _sample_verdict(sample: Predictions, counts: PairedCounts, classes: int, passed: bool) -> SampleVerdict:
    champion = Share.of(counts.champion_right, counts.n, "wilson")
    candidate = Share.of(counts.candidate_right, counts.n, "wilson")
    if champion is None or candidate is None:
        raise InputError("need at least 1 labelled input, got 0")
    return SampleVerdict(
        counts,
        champion,
        candidate,
        confusion(sample.champion, sample.labels, classes),
        confusion(sample.candidate, sample.labels, classes),
        passed,
    )


def _field_reason(counts: PairedCounts, p_value: float, alpha: float) -> str:
    found = f"{counts.repaired} repaired, {counts.broken} broken of {counts.n} (p = {_p(p_value)}"
    if p_value < alpha:
        return f"field: {found})"
    # With r repairs and nothing broken p is 0.5**r, so this many repairs are the least that can convince.
    least = int(np.floor(np.log(alpha) / np.log(0.5))) + 1
    hint = f"; fewer than {least} can never show it" if counts.repaired + counts.broken < least else ""
    return f"field: cannot show the candidate is better: {found}, needs p < {alpha:g}{hint})"


def _reference_reason(counts: PairedCounts, bound: float, margin: float, alpha: float) -> str:
    if bound < margin:
        return (
            f"reference: not worse by {_points(margin)} points or more: {counts.repaired} repaired, {counts.broken} "
            f"broken of {counts.n}, loss {_points(counts.loss)} points, bound {_points(bound)}"
        )
    text = (
        f"reference: cannot show non-inferiority within {_points(margin)} points: bound {_points(bound)} points from "
        f"{counts.n} inputs ({counts.repaired} repaired, {counts.broken} broken)"
    )
    needed = sample_at_these_rates(counts, margin, alpha)
    return text if needed is None else f"{text}; needs at least {needed}"


def _class_reasons(classes: list[ClassVerdict], margin: float) -> list[str]:
    reasons = [
        f"reference, class {one.name}: cannot show non-inferiority within {_points(margin)} points: bound "
        f"{_points(one.bound or 0.0)} points from {one.inputs} inputs ({one.repaired} repaired, {one.broken} broken)"
        for one in classes
        if one.judged and not one.passed
    ]
    judged = sum(one.judged for one in classes)
    if judged:
        reasons.append(f"classes: {sum(one.passed for one in classes)} of {judged} judged ones passed")
    few = [one for one in classes if not one.judged]
    if few:
        listed = ", ".join(f"{one.name} ({one.inputs})" for one in few)
        reasons.append(f"classes: too few reference inputs to judge, need {few[0].needed} each: {listed}")
    return reasons


def _check(name: str, sample: Predictions, classes: int) -> None:
    lengths = {len(sample.champion), len(sample.candidate), len(sample.labels)}
    if len(lengths) != 1:
        raise InputError(
            f"{name}: expected three arrays of one length, got champion {len(sample.champion)}, candidate "
            f"{len(sample.candidate)}, labels {len(sample.labels)}"
        )
    if len(sample.labels) == 0:
        raise InputError(f"{name}: need at least 1 labelled input, got 0")
    for what, numbers in (("champion", sample.champion), ("candidate", sample.candidate), ("labels", sample.labels)):
        if numbers.min() < 0 or numbers.max() >= classes:
            raise InputError(
                f"{name}: expected class numbers 0..{classes - 1}, got {what} from {numbers.min()} to {numbers.max()}"
            )


def _points(share: float) -> str:
    return f"{100.0 * share:.1f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"
