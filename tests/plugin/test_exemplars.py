"""Exemplars and propagation: the invariants the paper's step 4 promises."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldrepair_plugin.exemplars import (
    NONE_OF_THESE,
    BudgetedOracle,
    Selection,
    choose_exemplars,
    outside_classes,
    propagate,
)
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.regions import Regions, find_regions
from fieldrepair_plugin.threshold import unit_rows
from fieldrepair_service.errors import InputError

Array = npt.NDArray[Any]


def random_pool(seed: int, count: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(4, 6))
    embeddings = centres[random.integers(4, size=count)] + random.normal(size=(count, 6)) * 0.1
    return embeddings.astype(np.float32), random.uniform(size=count)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 80), share=st.floats(0, 1))
def test_exemplars_are_distinct_as_many_as_asked_and_each_in_its_own_region(
    seed: int, count: int, share: float
) -> None:
    budget = max(1, round(share * count))
    embeddings, unsmooth = random_pool(seed, count)
    regions = find_regions(embeddings, budget, HybridSettings(seed=seed))
    exemplars, chosen = choose_exemplars(regions, embeddings, unsmooth, budget)
    assert len(exemplars) == len(chosen) == budget
    assert len(set(exemplars.tolist())) == budget
    members = np.concatenate(chosen)
    assert len(set(members.tolist())) == len(members)  # no input in two regions
    assert all(exemplar in region for exemplar, region in zip(exemplars, chosen, strict=True))


def test_exemplars_are_nearest_their_centres_and_regions_ranked_by_total_unsmoothness() -> None:
    embeddings, unsmooth = random_pool(3, 200)
    regions = find_regions(embeddings, 8, HybridSettings())
    exemplars, chosen = choose_exemplars(regions, embeddings, unsmooth, 8)
    unit = unit_rows(embeddings)
    for exemplar, region in zip(exemplars, chosen, strict=True):
        centre = unit[region].mean(axis=0)
        distances = np.linalg.norm(unit[region] - centre, axis=1)
        assert np.linalg.norm(unit[exemplar] - centre) == pytest.approx(distances.min(), abs=1e-6)
    totals = [unsmooth[region].sum() for region in chosen]
    assert totals == sorted(totals, reverse=True)
    left_out = sorted((unsmooth[region].sum() for region in regions.members), reverse=True)[8:]
    assert max(left_out, default=0.0) <= totals[-1]


def test_all_noise_asks_for_the_most_unsmooth_inputs_and_propagates_nothing() -> None:
    nothing = Regions([], np.empty((0, 2), np.float32), np.arange(5))
    unsmooth = np.array([0.1, 0.9, 0.3, 0.8, 0.2])
    exemplars, chosen = choose_exemplars(nothing, np.ones((5, 2), np.float32), unsmooth, 3)
    assert exemplars.tolist() == [1, 3, 2]
    assert [region.tolist() for region in chosen] == [[1], [3], [2]]


@pytest.mark.parametrize("budget", [0, -3, 6])
def test_a_budget_that_cannot_be_spent_is_refused(budget: int) -> None:
    nothing = Regions([], np.empty((0, 2), np.float32), np.arange(5))
    with pytest.raises(InputError, match=rf"1\.\.5 labels .* got {budget}"):
        choose_exemplars(nothing, np.ones((5, 2), np.float32), np.zeros(5), budget)


def selection() -> Selection:
    regions = [np.array([1, 4, 6]), np.array([0, 2]), np.array([5])]
    return Selection(np.array([4, 0, 5]), regions, np.linspace(0, 1, 8), 0.25)


def test_every_member_of_a_labelled_region_gets_its_label_and_no_one_else() -> None:
    indices, classes = propagate(selection(), {4: 7, 5: 2})
    assert dict(zip(indices.tolist(), classes.tolist(), strict=True)) == {1: 7, 4: 7, 6: 7, 5: 2}


def test_no_labels_foreign_labels_and_negative_classes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 label to repair, got 0 for 3"):
        propagate(selection(), {})
    with pytest.raises(InputError, match=r"got labels for pool inputs \[3\]"):
        propagate(selection(), {4: 1, 3: 1})
    with pytest.raises(InputError, match="got -2 for pool input 4"):
        propagate(selection(), {4: -2})
    with pytest.raises(InputError, match=r"got 0 for 3 .*1 of them answered with none"):
        propagate(selection(), {4: NONE_OF_THESE})


def test_what_belongs_to_no_class_is_not_propagated_but_covered() -> None:
    chosen = replace(selection(), known=np.array([6, 7]))
    labels = {4: NONE_OF_THESE, 0: 2, 6: 3, 7: NONE_OF_THESE}
    indices, classes = propagate(chosen, labels)
    assert dict(zip(indices.tolist(), classes.tolist(), strict=True)) == {0: 2, 2: 2, 6: 3}
    answered, covered = outside_classes(chosen, labels)
    assert answered.tolist() == [4, 7]
    assert covered.tolist() == [1, 4, 7], "6 lies in the region, but its class is known"


def test_a_known_label_is_kept_in_a_region_that_says_otherwise() -> None:
    chosen = replace(selection(), known=np.array([6]))
    assert dict(zip(*(part.tolist() for part in propagate(chosen, {4: 7, 6: 1})), strict=True)) == {1: 7, 4: 7, 6: 1}


def test_a_selection_survives_saving(tmp_path: Path) -> None:
    saved = replace(selection(), known=np.array([2, 7]), strategy="gini", recipe="default")
    saved.save(tmp_path / "selection.npz")
    loaded = Selection.load(tmp_path / "selection.npz")
    assert np.array_equal(loaded.exemplars, saved.exemplars)
    assert all(np.array_equal(a, b) for a, b in zip(loaded.regions, saved.regions, strict=True))
    assert np.array_equal(loaded.unsmoothness, saved.unsmoothness)
    assert (loaded.tau, loaded.strategy, loaded.recipe) == (saved.tau, "gini", "default")
    assert loaded.known.tolist() == [2, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["selection.npz"]


def test_what_is_not_a_selection_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "selection.npz"
    with pytest.raises(InputError, match="there is no selection"):
        Selection.load(path)
    path.write_bytes(b"PK\x03\x04 torn off")
    with pytest.raises(InputError, match="is not a saved selection"):
        Selection.load(path)
    with path.open("wb") as stream:
        np.savez(stream, other=np.zeros(2))
    with pytest.raises(InputError, match="is not a saved selection"):
        Selection.load(path)


def test_an_oracle_gives_no_more_than_its_budget() -> None:
    oracle = BudgetedOracle(np.arange(10), budget=3)
    assert oracle(np.array([4, 7])).tolist() == [4, 7]
    with pytest.raises(InputError, match="budget is 3 labels, 2 were given, 2 more"):
        oracle(np.array([1, 2]))
    assert oracle(np.array([9])).tolist() == [9]
    assert oracle.asked == 3
