"""A canary that went back: the alias goes back too, the case says why, and a restart does not forget it."""

from __future__ import annotations

import logging

from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.model_uri import ModelTarget, aliases_of
from fieldrepair_service.case_book import CaseBook, CaseState, Trial, TrialKind, TrialState
from fieldrepair_service.trial_reports import CanaryReport, read_report

logger = logging.getLogger(__name__)


def held_back(book: CaseBook, name: str, version: str, *, canaries: bool) -> Trial | None:
    """The canary because of which a version must not simply take all traffic at a start. Blocks.

    One that was running when ``up`` ended is begun anew, unless the alias has moved or canaries were switched off
    meanwhile; one that had gone back stays back until the alias does.

    Args:
        book: the case book.
        name: registered model.
        version: the version that is wanted.
        canaries: whether there are to be any.

    Raises:
        StoreUnavailable: the case book does not answer.
    """
    for trial in book.trials(TrialKind.CANARY, name, limit=1):
        wanted = trial.candidate_version == version
        if trial.state is TrialState.RUNNING:
            if wanted and canaries:
                return trial
            book.end_trial(trial.id, TrialState.CANCELLED, f"`up` was started again, and serves version {version}")
        restored = read_report(CanaryReport, trial.report).alias_restored
        if wanted and trial.state is TrialState.ROLLED_BACK and not restored:
            return trial
    return None


def settle_roll_back(
    book: CaseBook, target: ModelTarget, version: str, champion: str, reason: str, trial_id: int | None
) -> list[str]:
    """Move the alias back and record why. Doing it twice changes nothing. Blocks.

    An alias that somebody has moved meanwhile stays where it is.

    Args:
        book: the case book.
        target: what is served; one with a fixed version has no alias to move.
        version: what was tried.
        champion: what serves.
        reason: why it went back.
        trial_id: the canary in the case book, if it is there.

    Returns:
        One line for each thing that was done.

    Raises:
        StoreUnavailable: the case book does not answer.
        RegistryError: MLflow does not answer.
    """
    done: list[str] = []
    told = f"the canary of version {version} was rolled back: {reason}"
    for case in book.cases(CaseState.ACCEPTED):
        if case.model_name != target.name or case.candidate_version != version:
            continue
        book.update_case(case.id, note=told)
        if case.approval is not None and case.approval.version == version:
            book.answer_approval(case.id, told)
        done.append(f"case {case.id} says so")
    if target.alias is not None and aliases_of(target.name).get(target.alias) == version:
        import mlflow

        with registry_errors(f"alias {target.alias} of {target.name}"):
            mlflow.MlflowClient().set_registered_model_alias(target.name, target.alias, champion)
        done.append(f"alias {target.alias} is back on version {champion}")
    for trial in book.trials(TrialKind.CANARY, target.name, version):
        if trial.id == trial_id:
            report = read_report(CanaryReport, trial.report).model_copy(update={"alias_restored": True})
            book.end_trial(trial.id, TrialState.ROLLED_BACK, reason, report.model_dump())
    return done
