"""Does in the registry what a person approved in the console: moves the alias to the candidate.

Only that. The alias stays the truth; the switch of the traffic and the promotion of the case follow from it, as if the
person had moved it by hand.
"""

from __future__ import annotations

import logging

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_service.case_book import CaseBook, CaseState

logger = logging.getLogger(__name__)


def act_on_approvals(book: CaseBook, target: ModelTarget) -> list[str]:
    """Move the alias for every approved candidate of the model that nobody has moved it for yet. Blocks.

    A registry that does not answer is told to the person who approved, and asked again the next time.

    Args:
        book: the case book.
        target: what is served. One with a fixed version follows no alias, so nothing is moved, and the case says so.

    Returns:
        One line for each alias that was moved.

    Raises:
        StoreUnavailable: the case book does not answer.
    """
    done: list[str] = []
    for case in book.cases(CaseState.ACCEPTED):
        approval = case.approval
        if case.model_name != target.name or approval is None or approval.moved_ms is not None:
            continue
        problem = _move(target, approval.version)
        if problem:
            if problem != approval.problem:
                logger.warning("case %d was approved by %s, but %s", case.id, approval.by, problem)
                book.answer_approval(case.id, problem)
            continue
        book.answer_approval(case.id)
        done.append(f"case {case.id}: {approval.by} approved version {approval.version}; alias {target.alias} is on it")
    return done


def _move(target: ModelTarget, version: str) -> str:
    """Why the alias could not be moved; empty if it was."""
    if target.alias is None:
        return f"{target} names a fixed version and follows no alias; start with models:/{target.name}@champion"
    import mlflow

    try:
        with registry_errors(f"alias {target.alias} of {target.name}"):
            mlflow.MlflowClient().set_registered_model_alias(target.name, target.alias, version)
    except RegistryError as error:
        return f"the registry refused to move the alias {target.alias} to version {version}: {error}"
    return ""
