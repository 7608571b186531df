"""What was approved in the console becomes a move of the alias, and the case says what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from fieldrepair_plugin.approval import act_on_approvals
from fieldrepair_plugin.model_uri import ModelTarget, wanted_version
from fieldrepair_plugin.promotion import settle_promotion
from fieldrepair_service.case_book import CaseState
from fieldrepair_service.errors import Conflict

if TYPE_CHECKING:
    from tests.plugin.conftest import Field, Registry


def _accepted(field: Field, version: str) -> int:
    case_id = field.open_case()
    field.book.transition(case_id, CaseState.TRAINING)
    field.book.update_case(case_id, candidate_version=version)
    field.book.transition(case_id, CaseState.ACCEPTED)
    return case_id


def test_an_approval_moves_the_alias_once_and_the_promotion_has_its_name(field: Field, registry: Registry) -> None:
    field.name = registry.name
    client, target = MlflowClient(), ModelTarget(registry.name, alias="approved-test")
    client.set_registered_model_alias(registry.name, "approved-test", "1")
    case_id = _accepted(field, "2")
    assert act_on_approvals(field.book, target) == []
    assert wanted_version(target) == "1"

    field.book.approve(case_id, "Ann", "approver", "looks good")
    field.book.approve(case_id, "Bo", "approver")  # asking again changes nothing
    assert act_on_approvals(field.book, ModelTarget("another model", alias="approved-test")) == []
    assert act_on_approvals(field.book, target) == [
        f"case {case_id}: Ann approved version 2; alias approved-test is on it"
    ]
    assert wanted_version(target) == "2"
    client.set_registered_model_alias(registry.name, "approved-test", "1")  # a person moves it back at once
    assert act_on_approvals(field.book, target) == []
    assert wanted_version(target) == "1"

    settle_promotion(field.book, registry.name, "2", "1")
    assert field.book.history(case_id)[-1].actor == "Ann"
    trail = [
        (entry.actor, entry.action, entry.target) for entry in field.book.audit_trail() if entry.action == "promote"
    ]
    assert trail == [("Ann", "promote", f"case {case_id}")]


def test_why_the_alias_could_not_be_moved_is_told_and_a_new_approval_tries_again(
    field: Field, registry: Registry
) -> None:
    field.name = registry.name
    case_id = _accepted(field, "999")
    field.book.approve(case_id, "Ann", "approver")
    assert act_on_approvals(field.book, ModelTarget(registry.name, version="1")) == []
    approval = field.book.case(case_id).approval
    assert approval is not None
    assert "names a fixed version and follows no alias" in approval.problem
    assert act_on_approvals(field.book, ModelTarget(registry.name, alias="approved-test")) == []
    approval = field.book.case(case_id).approval
    assert approval is not None
    assert "the registry refused to move the alias approved-test to version 999" in approval.problem
    field.book.approve(case_id, "Bo", "approver")
    again = field.book.case(case_id).approval
    assert again is not None
    assert (again.by, again.problem) == ("Bo", "")


def test_only_an_accepted_case_can_be_approved(field: Field, registry: Registry) -> None:
    field.name = registry.name
    case_id = field.open_case()
    with pytest.raises(Conflict, match=f"only an accepted case .* case {case_id} is annotating"):
        field.book.approve(case_id, "Ann", "approver")
    with pytest.raises(Conflict, match="nobody has approved"):
        field.book.answer_approval(case_id)
