"""Following the alias, and recording what became of a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow
import pytest
from mlflow import MlflowClient

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.model_uri import ModelTarget, parse_model_uri, wanted_version
from fieldrepair_plugin.promotion import AliasWatcher, settle_promotion
from fieldrepair_service.case_book import CaseState

if TYPE_CHECKING:
    from tests.plugin.conftest import Field, Registry


def test_model_uris() -> None:
    assert parse_model_uri("models:/digits@champion") == ModelTarget("digits", alias="champion")
    assert parse_model_uri("models:/digits/12") == ModelTarget("digits", version="12")
    assert str(parse_model_uri("models:/my digits@best")) == "models:/my digits@best"


@pytest.mark.parametrize(
    "uri", ["digits", "models:/digits", "models:/digits/latest", "runs:/1/model", "models:/@x", ""]
)
def test_other_uris_are_refused_with_an_example(uri: str) -> None:
    with pytest.raises(ModelUriError, match=r"expected models:/NAME@ALIAS \(for example models:/digits@champion\)"):
        parse_model_uri(uri)


def test_what_is_missing_is_named_with_the_remedy(registry: Registry) -> None:
    name = registry.name
    with pytest.raises(ModelUriError, match=r"'staging' is not set .* has versions 2, 1\. Set it .*'staging', '2'"):
        wanted_version(ModelTarget(name, alias="staging"))
    with pytest.raises(ModelUriError, match=rf"there is no version 7 in the registry sqlite:.*; {name} has: 2, 1"):
        wanted_version(ModelTarget(name, version="7"))
    with pytest.raises(ModelUriError, match=r"under the name 'nobody'; it has: .*--tracking-uri") as caught:
        wanted_version(ModelTarget("nobody", alias="champion"))
    told = str(caught.value).partition("it has: ")[2].partition(". Is")[0]
    models = cast(list[Any], MlflowClient().search_registered_models(max_results=1000))
    present = [str(model.name) for model in models]
    assert name in present
    assert told == ", ".join(present[:20]) + (" and others" if len(present) > 20 else "")
    assert wanted_version(ModelTarget(name, version="2")) == "2"


async def test_the_watcher_follows_and_survives_what_goes_missing(registry: Registry) -> None:
    client = MlflowClient()
    client.set_registered_model_alias(registry.name, "watched", "1")
    watcher = AliasWatcher(ModelTarget(registry.name, alias="watched"), "1", poll_seconds=0.5)
    assert (await watcher.look()).version == "1"
    client.set_registered_model_alias(registry.name, "watched", "2")
    assert (await watcher.look()).version == "2"

    client.delete_registered_model_alias(registry.name, "watched")
    sighting = await watcher.look()
    assert sighting.version == "2"
    assert "the alias 'watched' is not set" in sighting.problem
    assert watcher.pause == 0.5  # the registry answers: a person may set it any moment

    client.set_registered_model_alias(registry.name, "watched", "1")
    assert await watcher.look() == type(sighting)("1")


async def test_the_watcher_asks_less_often_while_the_registry_is_silent() -> None:
    answers: list[str | RegistryError] = [*[RegistryError("connection refused")] * 4, "3"]

    def ask(_: ModelTarget) -> str:
        answer = answers.pop(0)
        if isinstance(answer, RegistryError):
            raise answer
        return answer

    watcher = AliasWatcher(ModelTarget("m", alias="champion"), "2", poll_seconds=1.0, longest_pause=6.0, ask=ask)
    pauses: list[float] = []
    for _ in range(4):
        sighting = await watcher.look()
        pauses.append(watcher.pause)
        assert sighting.version == "2"
        assert sighting.problem == "the registry does not answer: connection refused"
    assert pauses == [2.0, 4.0, 6.0, 6.0]
    assert (await watcher.look()).version == "3"
    assert watcher.pause == 1.0


async def test_a_fixed_version_is_not_asked_for() -> None:
    def ask(_: ModelTarget) -> str:
        raise AssertionError("asked")

    assert (await AliasWatcher(ModelTarget("m", version="4"), "4", ask=ask).look()).version == "4"


def test_a_server_that_is_not_there_is_a_registry_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = str(mlflow.get_tracking_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(RegistryError, match="models:/m@champion"):
            wanted_version(ModelTarget("m", alias="champion"))
    finally:
        mlflow.set_tracking_uri(before)


def accepted_case(field: Field, version: str) -> int:
    case_id = field.open_case()
    field.book.update_case(case_id, candidate_version=version)
    field.book.transition(case_id, CaseState.TRAINING)
    field.book.transition(case_id, CaseState.ACCEPTED, "better")
    return case_id


def test_promotion_and_roll_back_are_recorded_once(field: Field, registry: Registry) -> None:
    client = MlflowClient()
    name = registry.name
    client.set_registered_model_alias(name, "candidate", "2")
    field.name = name
    case_id = accepted_case(field, "2")

    done = settle_promotion(field.book, name, "2", "1")
    assert done == [f"case {case_id} is promoted", "alias candidate is taken off version 2"]
    assert field.book.case(case_id).state is CaseState.PROMOTED
    assert field.book.history(case_id)[-1].actor == "registry"
    assert "candidate" not in client.get_registered_model(name).aliases
    assert settle_promotion(field.book, name, "2", "1") == []

    assert settle_promotion(field.book, name, "1", "2") == [
        f"case {case_id} is rolled back: the traffic went from version 2 to version 1"
    ]
    assert field.book.case(case_id).note == "rolled back: the traffic went from version 2 to version 1"
    settle_promotion(field.book, name, "2", "1")
    assert field.book.case(case_id).note == ""


def test_the_candidate_alias_of_another_version_stays(field: Field, registry: Registry) -> None:
    client = MlflowClient()
    client.set_registered_model_alias(registry.name, "candidate", "2")
    assert settle_promotion(field.book, registry.name, "1", None) == []
    assert str(client.get_model_version_by_alias(registry.name, "candidate").version) == "2"
    client.delete_registered_model_alias(registry.name, "candidate")
