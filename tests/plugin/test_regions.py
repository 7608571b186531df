"""Regions: disjoint groups of neighbours without noise, whatever the pool."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import HDBSCAN

from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.regions import find_regions
from fieldrepair_plugin.threshold import unit_rows

Array = npt.NDArray[Any]


def directions(groups: int, each: int, spread: float = 0.01, outliers: int = 0) -> Array:
    """Groups of embeddings around well separated directions, then outliers anywhere."""
    random = np.random.default_rng(0)
    centres = np.eye(groups, 32)
    inside = np.repeat(centres, each, axis=0) + random.normal(size=(groups * each, 32)) * spread
    outside = random.normal(size=(outliers, 32))
    return np.concatenate([inside, outside]).astype(np.float32)


def test_every_input_is_in_one_region_or_noise() -> None:
    embeddings = directions(6, 20, outliers=30)
    found = find_regions(embeddings, 10, HybridSettings())
    everyone = np.concatenate([*found.members, found.noise])
    assert np.array_equal(np.sort(everyone), np.arange(len(embeddings)))
    assert all(len(members) > 0 for members in found.members)


def test_noise_is_what_hdbscan_calls_noise() -> None:
    embeddings = directions(6, 20, spread=0.1, outliers=40)
    clusters = HDBSCAN(min_samples=3, copy=True).fit_predict(unit_rows(embeddings))
    found = find_regions(embeddings, 6, HybridSettings())
    assert 0 < len(found.noise) < len(embeddings)
    assert np.array_equal(found.noise, np.flatnonzero(clusters == -1))


def test_regions_do_not_mix_groups_that_lie_apart() -> None:
    found = find_regions(directions(6, 20), 6, HybridSettings(region_size=20))
    for members in found.members:
        assert len(set((members // 20).tolist())) == 1


@pytest.mark.parametrize(("budget", "expected"), [(5, 12), (40, 40)])
def test_count_is_a_tenth_or_the_budget(budget: int, expected: int) -> None:
    found = find_regions(directions(4, 30, spread=0.05), budget, HybridSettings())
    dense = sum(len(members) for members in found.members)
    assert len(found.members) == max(dense // 10, budget)
    assert len(found.members) == pytest.approx(expected, abs=2)


def test_centres_are_the_means_of_unit_embeddings() -> None:
    embeddings = directions(5, 12) * np.float32(7)
    found = find_regions(embeddings, 5, HybridSettings())
    unit = unit_rows(embeddings)
    for members, centre in zip(found.members, found.centres, strict=True):
        np.testing.assert_allclose(unit[members].mean(axis=0), centre, atol=1e-6)


def test_one_seed_one_answer() -> None:
    embeddings = directions(3, 40, spread=0.2, outliers=20)
    first, second = (find_regions(embeddings, 8, HybridSettings(seed=4)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.members, second.members, strict=True))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_pool_too_small_to_cluster_is_all_noise(count: int) -> None:
    found = find_regions(directions(1, count), 1, HybridSettings())
    assert found.members == []
    assert len(found.noise) == count


def test_equal_inputs_make_fewer_regions_than_asked_for() -> None:
    found = find_regions(np.ones((30, 8), dtype=np.float32), 10, HybridSettings())
    everyone = np.concatenate([*found.members, found.noise])
    assert len(everyone) == 30
    assert len(found.members) <= 10


def test_zero_embeddings_are_no_error() -> None:
    found = find_regions(np.zeros((20, 8), dtype=np.float32), 3, HybridSettings())
    assert sum(len(members) for members in found.members) + len(found.noise) == 20


# --- pools that are too large for all of it to be compared with all of it ---


def test_a_sample_finds_the_noise_that_all_of_the_pool_finds() -> None:
    embeddings = directions(20, 60, spread=0.05, outliers=100)
    whole = find_regions(embeddings, 30, HybridSettings())
    sampled = find_regions(embeddings, 30, HybridSettings(density_inputs=500))
    isolated = np.arange(1200, 1300)
    # HDBSCAN itself joins a third of the isolated ones into loose clusters; a sample's verdict is close to that.
    shares = [float(np.isin(isolated, found.noise).mean()) for found in (whole, sampled)]
    assert shares[0] > 0.6
    assert abs(shares[0] - shares[1]) <= 0.1
    assert len(np.setdiff1d(sampled.noise, isolated)) < 12, "of 1,200 that are in dense groups"
    everyone = np.sort(np.concatenate([*sampled.members, sampled.noise]))
    assert np.array_equal(everyone, np.arange(len(embeddings)))


def test_two_levels_of_k_means_give_enough_tight_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = directions(40, 60, spread=0.2)
    at_once = find_regions(embeddings, 300, HybridSettings())
    monkeypatch.setattr("fieldrepair_plugin.regions.FLAT_WORK", 1000)
    monkeypatch.setattr("fieldrepair_plugin.regions.COARSE_SIZE", 300)
    in_two = find_regions(embeddings, 300, HybridSettings())
    again = find_regions(embeddings, 300, HybridSettings())
    assert [part.tolist() for part in in_two.members] == [part.tolist() for part in again.members]
    assert len(in_two.members) >= 0.95 * len(at_once.members)
    assert np.array_equal(in_two.noise, at_once.noise)
    unit = unit_rows(embeddings)

    def spread(members: list[Array]) -> float:
        return sum(float(np.square(unit[part] - unit[part].mean(axis=0)).sum()) for part in members)

    assert spread(in_two.members) < 1.1 * spread(at_once.members)
