"""One look at a model and its training: what data and loss show, and what a training under instruments shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fieldrepair_plugin.training_repair.data import TrialData
from fieldrepair_plugin.training_repair.data_checks import check_data
from fieldrepair_plugin.training_repair.diagnosis import Rules, diagnose, look_due
from fieldrepair_plugin.training_repair.findings import Finding
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.training_loop import Epoch, Training
from fieldrepair_plugin.training_repair.transforms import Network
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class Examination:
    """What was seen."""

    findings: tuple[Finding, ...]
    """What is wrong, the cause before its symptoms: data and loss first, then what training showed."""
    epochs: tuple[Epoch, ...]
    """The training's; empty where the data cannot be trained on."""
    untrainable: str = ""
    """Why there was no training."""

    @property
    def names(self) -> tuple[str, ...]:
        """The problems by name."""
        return tuple(finding.problem.value for finding in self.findings)


def examine(
    network: Network,
    data: TrialData,
    plan: TrainingPlan,
    seed: int,
    *,
    rules: Rules | None = None,
    heard: Callable[[Epoch], None] | None = None,
) -> Examination:
    """Check data and loss, then train with instruments on until a problem shows or the epochs are over.

    Args:
        network: what the training starts from; it is not changed.
        data: what it trains on.
        plan: how.
        seed: of the training.
        rules: thresholds; default: AutoTrainer's.
        heard: told of each epoch.
    """
    rules = rules or Rules()
    findings = check_data(network.module, data.train_x, data.train_y, data.classes, plan)
    try:
        training = Training(network, data, plan, seed)
    except InputError as error:
        return Examination(tuple(findings), (), str(error))
    while len(training.done) < plan.epochs:
        epoch = training.epoch()
        if heard is not None:
            heard(epoch)
        if (finding := due_diagnosis(training.done, plan.epochs, data, rules, broken=training.broken)) is not None:
            return Examination((*findings, finding), tuple(training.done))
    return Examination(tuple(findings), tuple(training.done))


def due_diagnosis(
    done: Sequence[Epoch], epochs: int, data: TrialData, rules: Rules, *, broken: bool = False
) -> Finding | None:
    """A diagnosis if one is due after this epoch; of a training that broke at once."""
    if not broken and not look_due(len(done), epochs, rules):
        return None
    return diagnose(done, epochs, (len(data.train_x), len(data.val_x)), rules)
