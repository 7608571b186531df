"""Searches: budget, resumption, what is counted, and that each finds a cure for a simple illness."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fieldrepair_plugin.errors import MissingExtraError
from fieldrepair_plugin.progress import ProgressEvent
from fieldrepair_plugin.training_repair import hebo
from fieldrepair_plugin.training_repair.data import TrialData
from fieldrepair_plugin.training_repair.findings import Problem
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.remedies import ANSWERS, remedies_for
from fieldrepair_plugin.training_repair.search import METHODS, SearchResult, search
from fieldrepair_plugin.training_repair.search_space import SearchSpace
from fieldrepair_plugin.training_repair.transforms import Network
from fieldrepair_plugin.training_repair.trials import BudgetSpent, Trials
from fieldrepair_service.errors import InputError

SLOW = TrainingPlan(optimiser="sgd", learning_rate=1e-6, batch_size=32, epochs=4)
EPOCHS, BUDGET = 4, 60
SEARCHES = [name for name in METHODS if name != "hebo" or find_spec("hebo")]


def clusters(count: int, seed: int) -> tuple[torch.Tensor, Any]:
    random = np.random.default_rng(seed)
    y = random.integers(3, size=count)
    x = random.normal(size=(count, 4))
    x[np.arange(count), y] += 3.0
    return torch.from_numpy(x.astype(np.float32)), y.astype(np.int64)


def data(labels: float = 1.0) -> TrialData:
    x, y = clusters(120, 1)
    return TrialData(x, y * labels if labels != 1.0 else y, *clusters(60, 2), 3)


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return Network(module, clusters(2, 3)[0])


def run(method: str, network: Network, **options: Any) -> SearchResult:
    given = options.pop("given", SLOW)
    own = options.pop("data", None) or data()
    return search(method, network, own, given, epochs=EPOCHS, budget=options.pop("budget", BUDGET), seed=5, **options)


@pytest.mark.parametrize("method", SEARCHES)
def test_every_search_cures_a_slow_training_within_its_budget(method: str, network: Network) -> None:
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    heard: list[ProgressEvent] = []
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    result = run(method, network, progress=heard.append)
    assert torch.equal(torch.random.get_rng_state(), state), "the process's generator is left alone"
    assert all(torch.equal(before[name], value) for name, value in network.module.state_dict().items())
    assert result.spent <= BUDGET
    assert result.spent == sum(max(1, len(trial.epochs)) for trial in result.trials)
    assert [event.done for event in heard][-1] <= BUDGET
    assert result.given.plan == SLOW
    assert result.best is not None
    assert result.best.trial.score > result.given.score + 0.2
    x, y = clusters(60, 2)
    with torch.no_grad():
        right = float((result.best.module(x).argmax(dim=1).numpy() == y).mean())
    assert right == pytest.approx(result.best.trial.score), "the module is the best epoch's"


@pytest.mark.parametrize("method", SEARCHES)
def test_a_stopped_search_ends_with_what_it_would_have_found(method: str, network: Network, tmp_path: Path) -> None:
    whole = run(method, network)

    class Stop(Exception):  # noqa: N818
        pass

    def stop_after(epochs: int) -> Iterator[None]:
        for _ in range(epochs):
            yield
        raise Stop

    for epochs in (6, 9, 3):
        clock = stop_after(epochs)
        with pytest.raises(Stop):
            run(method, network, folder=tmp_path, progress=lambda _, clock=clock: next(clock))  # type: ignore[misc]
        if method == "autotrainer":
            break  # it may be done sooner
    resumed = run(method, network, folder=tmp_path)
    assert resumed.trials == whole.trials
    assert whole.best is not None
    assert resumed.best is not None
    assert resumed.best.trial == whole.best.trial
    pairs = zip(resumed.best.module.state_dict().values(), whole.best.module.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    trained: list[ProgressEvent] = []
    run(method, network, folder=tmp_path, progress=trained.append)
    assert trained == [], "a finished search trains nothing"


def test_a_folder_of_another_search_is_not_gone_on_with(network: Network, tmp_path: Path, caplog: Any) -> None:
    run("random", network, folder=tmp_path, budget=8)
    other = run("random", network, folder=tmp_path, budget=12)
    assert other.spent == 12
    assert "the search starts anew" in caplog.text


def test_a_line_that_was_cut_off_is_run_again(network: Network, tmp_path: Path) -> None:
    whole = run("random", network, folder=tmp_path, budget=16)
    path = tmp_path / "trials.jsonl"
    path.write_text(path.read_text()[:-40])
    assert run("random", network, folder=tmp_path, budget=16).trials == whole.trials


def test_the_budget_is_in_epochs_and_ends_the_last_trial(network: Network) -> None:
    result = run("random", network, budget=10)
    assert [len(trial.epochs) for trial in result.trials] == [4, 4, 2]
    assert result.trials[-1].ended == "budget"
    with pytest.raises(InputError, match="at least 1 epoch, got 0"):
        run("random", network, budget=0)
    trials = Trials(network, data(), 1, 0)
    trials.run(SLOW, "given")
    with pytest.raises(BudgetSpent, match="1 epochs is spent, on 1 trials"):
        trials.run(SLOW, "random")


def test_hyperband_ends_poor_trials_early_and_buys_more_of_them(network: Network) -> None:
    bohb, chance = run("bohb", network), run("random", network)
    assert any(trial.ended == "pruned" and len(trial.epochs) < EPOCHS for trial in bohb.trials)
    assert len(bohb.trials) > len(chance.trials) == BUDGET // EPOCHS


def test_too_few_trials_are_called_random(network: Network) -> None:
    few = run("gp", network, budget=24)
    assert few.count("model") == 0
    assert few.effectively_random
    assert not run("random", network, budget=24).effectively_random, "it never claimed to be more"


def test_a_model_counts_its_own_trials(network: Network) -> None:
    result = run("gp", network, budget=72)
    assert (result.count("given"), result.count("random") + result.count("model")) == (1, 17)
    assert result.count("model") > 0


def test_scaled_labels_are_read_by_rank_where_a_diagnosis_leads(network: Network) -> None:
    scaled = data(labels=0.5)  # 0, 0.5, 1: cut to 0, 0, 1
    guided, chance = (run(name, network, data=scaled) for name in ("guided", "random"))
    assert guided.best is not None
    assert guided.best.trial.plan.labels == "ranked"
    assert guided.best.trial.score > 0.9
    assert chance.best is not None
    assert chance.best.trial.score < 0.8, "no hyperparameter reaches it"


def test_labels_that_no_output_is_for_are_no_repair(network: Network) -> None:
    x, y = clusters(120, 1)
    beyond = TrialData(x, y + 7, *clusters(60, 2), 3)
    result = run("random", network, data=beyond, budget=8)
    assert result.best is None
    assert {trial.ended for trial in result.trials} == {"impossible"}
    assert "expected class numbers 0..2, got 7..9" in result.trials[0].why


def test_the_space_has_only_knobs_that_fit() -> None:
    bare = Network(nn.Linear(4, 3), torch.zeros(2, 4))
    space = SearchSpace.of(bare, SLOW, "cross_entropy", 120)
    assert {"activation", "norm", "loss", "dropout"} & set(space.distributions) == set()
    full = Network(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3), nn.Softmax(dim=1)),
        torch.zeros(2, 4),
    )
    wide = SearchSpace.of(full, SLOW, "nll", 120)
    assert {"activation", "norm", "loss", "dropout"} <= set(wide.distributions)
    plan = SLOW.but(optimiser="adam", learning_rate=1e-3, weight_decay=1e-4)
    point = wide.point(plan)
    assert point is not None
    assert "momentum" not in point, "adam has none"
    assert wide.plan(point) == plan
    assert wide.point(plan.but(learning_rate=5.0)) is None


def test_remedies_are_tried_in_the_documented_order() -> None:
    order = [
        "initialisation", "activation", "batch norm", "gradient clipping", "optimiser", "learning rate", "schedule",
        "batch size", "momentum",
    ]  # fmt: skip
    for remedies in ANSWERS.values():
        places = [order.index(remedy.name.split(" (")[0]) for remedy in remedies]
        assert places == sorted(places)
    adam = TrainingPlan(initialisation="he")
    names = [remedy.name for remedy, _ in remedies_for(Problem.EXPLODING, adam, set())]
    assert names == ["activation", "batch norm", "gradient clipping", "optimiser", "learning rate (a tenth)"]


def test_a_search_that_is_not_installed_says_how_to_install_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(hebo.importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match="pip install --no-deps HEBO"):
        run("hebo", network)


def test_an_unknown_search_is_answered_with_the_known_ones(network: Network) -> None:
    with pytest.raises(InputError, match="autotrainer, random, bohb, gp, hebo, guided; got 'grid'"):
        run("grid", network)


def test_trials_are_lines_that_people_can_read(network: Network, tmp_path: Path) -> None:
    run("random", network, folder=tmp_path, budget=8)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line.get("origin") for line in lines] == [None, "given", "random"]
    assert lines[1]["plan"]["learning_rate"] == 1e-6
