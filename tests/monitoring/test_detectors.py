from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fieldrepair_monitoring.detectors import Detector, MmdDetector
from fieldrepair_monitoring.errors import DetectorError

FloatArray = npt.NDArray[np.float32]

DETECTORS: list[Callable[[], Detector]] = [MmdDetector]


def normal(n: int, seed: int, d: int = 8, shift: float = 0.0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


@pytest.fixture(params=DETECTORS, ids=lambda make: make().name)
def detector(request: pytest.FixtureRequest) -> Detector:
    made: Detector = request.param()
    made.fit(normal(300, 0))
    return made


class TestEveryDetector:
    def test_stays_calm_on_more_of_the_same_and_sees_a_shift(self, detector: Detector) -> None:
        calm, drifted = detector.score(normal(100, 1)), detector.score(normal(100, 2, shift=0.5))
        assert not calm.drifted
        assert drifted.drifted
        assert drifted.statistic > drifted.threshold
        assert calm.statistic <= calm.threshold
        assert drifted.p_value < 0.005 <= calm.p_value <= 1

    def test_gives_a_window_the_same_answer_whatever_came_before(self, detector: Detector) -> None:
        window = normal(100, 3, shift=0.2)
        first = detector.score(window)
        detector.score(normal(100, 4))
        torch.manual_seed(12345)
        assert detector.score(window) == first

    def test_leaves_the_process_s_random_numbers_alone(self, detector: Detector) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        detector.score(normal(100, 5))
        torch.testing.assert_close(torch.rand(3), expected)

    def test_refuses_what_it_cannot_compare(self, detector: Detector) -> None:
        with pytest.raises(DetectorError, match=r"window needs at least 10 embeddings .* got shape \(9, 8\)"):
            detector.score(normal(9, 0))
        with pytest.raises(DetectorError, match="expected embeddings with 8 columns, got 7"):
            detector.score(normal(50, 0, d=7))
        with pytest.raises(DetectorError, match="window holds embeddings that are NaN or infinite"):
            detector.score(np.full((50, 8), np.nan, np.float32))
        with pytest.raises(DetectorError, match="reference needs at least 20 embeddings"):
            detector.fit(normal(19, 0))


def test_mmd_is_the_textbook_estimate() -> None:
    from fieldrepair_monitoring.mmd import PermutationMMD

    reference, window = normal(40, 0, d=3), normal(30, 1, d=3, shift=0.3)
    test = PermutationMMD(reference, p_value=0.05, permutations=100, seed=0, device="cpu")

    def k(a: FloatArray, b: FloatArray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * test.bandwidth**2)))

    n, m = len(reference), len(window)
    within_reference = sum(k(a, b) for i, a in enumerate(reference) for j, b in enumerate(reference) if i != j)
    within_window = sum(k(a, b) for i, a in enumerate(window) for j, b in enumerate(window) if i != j)
    between = sum(k(a, b) for a in reference for b in window)
    expected = within_reference / (n * (n - 1)) + within_window / (m * (m - 1)) - 2 * between / (n * m)
    assert test.score(window)[1] == pytest.approx(expected, rel=1e-4)


def test_the_batched_permutations_are_alibi_detect_s_one_by_one() -> None:
    from alibi_detect.utils.pytorch.distance import mmd2_from_kernel_matrix

    from fieldrepair_monitoring.mmd import mmd2

    generator = torch.Generator().manual_seed(0)
    points = torch.randn(70, 4, generator=generator)
    kernel = torch.exp(-(torch.cdist(points, points) ** 2) / 8)
    kernel.fill_diagonal_(0)
    orders = [torch.randperm(70, generator=generator) for _ in range(20)]
    assignments = torch.zeros(70, 20)
    for column, order in enumerate(orders):
        assignments[order[-25:], column] = 1
    one_by_one = [float(mmd2_from_kernel_matrix(kernel[order][:, order], 25)) for order in orders]
    assert [float(value) for value in mmd2(kernel, assignments, 25)] == pytest.approx(one_by_one, abs=1e-6)


def test_every_shuffle_fills_the_window_and_the_p_value_counts_the_observed_one() -> None:
    from fieldrepair_monitoring.mmd import PermutationMMD

    test = PermutationMMD(normal(60, 0), p_value=0.05, permutations=99, seed=3, device="cpu")
    shuffles = test._shuffles(60, 20)  # pyright: ignore[reportPrivateUsage]
    assert shuffles.shape == (80, 99)
    assert shuffles.sum(0).tolist() == [20.0] * 99
    assert test.score(normal(20, 1, shift=3.0))[0] == pytest.approx(1 / 100)


def test_p_values_are_uniform_when_nothing_changed() -> None:
    """Of 200 windows of the reference's own distribution a tenth fall below 0.1, give or take 3.5 standard errors."""
    detector = MmdDetector(p_value=0.1, permutations=199)
    hits = 0
    for seed in range(200):
        both = normal(120, 1000 + seed, d=4)
        detector.fit(both[:80])
        hits += detector.score(both[80:]).drifted
    assert abs(hits / 200 - 0.1) < 3.5 * np.sqrt(0.1 * 0.9 / 200)


def test_drifted_is_the_same_as_above_the_threshold_and_below_the_p_value() -> None:
    for permutations in (100, 199, 333):
        detector = MmdDetector(p_value=0.05, permutations=permutations)
        detector.fit(normal(60, 0, d=2))
        for seed in range(40):
            score = detector.score(normal(30, seed, d=2, shift=0.15))
            assert score.drifted == (score.p_value < 0.05) == (score.statistic > score.threshold)


def test_too_few_permutations_for_the_p_value_are_refused() -> None:
    with pytest.raises(DetectorError, match=r"smallest possible p-value is 0.00990.*need more than 200 permutations"):
        MmdDetector(p_value=0.005, permutations=100)


def test_embeddings_that_are_all_the_same_say_nothing() -> None:
    with pytest.raises(DetectorError, match="more than half of the 50 reference embeddings are the same"):
        MmdDetector().fit(np.full((50, 4), 3.7, np.float32))
    mostly = np.concatenate([np.full((80, 4), 3.7), normal(20, 0, d=4)]).astype(np.float32)
    with pytest.raises(DetectorError, match="more than half of the 100 reference embeddings are the same"):
        MmdDetector().fit(mostly)


def test_a_large_common_offset_does_not_blur_the_distances() -> None:
    detector = MmdDetector()
    detector.fit(normal(300, 0, shift=1000.0))
    assert not detector.score(normal(100, 1, shift=1000.0)).drifted
    assert detector.score(normal(100, 1, shift=1000.5)).drifted


def test_a_detector_must_be_fitted_first() -> None:
    with pytest.raises(DetectorError, match="was not fitted"):
        MmdDetector().score(normal(50, 0))
