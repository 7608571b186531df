from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fieldrepair_monitoring.detectors import DETECTORS, PermutationDetector
from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.settings import MonitorSettings

FloatArray = npt.NDArray[np.float32]


def normal(n: int, seed: int, d: int = 8, shift: float = 0.0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


@pytest.fixture(params=DETECTORS.values(), ids=list(DETECTORS))
def make(request: pytest.FixtureRequest) -> type[PermutationDetector]:
    return request.param


@pytest.fixture
def detector(make: type[PermutationDetector]) -> PermutationDetector:
    made = make()
    made.fit(normal(300, 0))
    return made


class TestEveryDetector:
    def test_stays_calm_on_more_of_the_same_and_sees_a_shift(self, detector: PermutationDetector) -> None:
        calm, drifted = detector.score(normal(100, 1)), detector.score(normal(100, 2, shift=0.5))
        assert not calm.drifted
        assert drifted.drifted
        assert drifted.statistic > drifted.threshold
        assert calm.statistic <= calm.threshold
        assert drifted.p_value < 0.005 <= calm.p_value <= 1

    def test_gives_a_window_the_same_answer_whatever_came_before(self, detector: PermutationDetector) -> None:
        window = normal(100, 3, shift=0.2)
        first = detector.score(window)
        detector.score(normal(100, 4))
        torch.manual_seed(12345)
        assert detector.score(window) == first

    def test_depends_on_reference_window_and_seed_alone(
        self, detector: PermutationDetector, make: type[PermutationDetector]
    ) -> None:
        window = normal(100, 3, shift=0.2)
        again, other = make(), make(seed=1)
        for one in (again, other):
            one.fit(normal(300, 0))
        assert again.score(window) == detector.score(window)
        assert other.score(window).threshold != detector.score(window).threshold

    def test_leaves_the_process_s_random_numbers_alone(self, detector: PermutationDetector) -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        expected = torch.rand(3), np.random.random(3)
        torch.manual_seed(7)
        np.random.seed(7)
        detector.score(normal(100, 5))
        torch.testing.assert_close(torch.rand(3), expected[0])
        np.testing.assert_array_equal(np.random.random(3), expected[1])

    def test_refuses_what_it_cannot_compare(self, detector: PermutationDetector) -> None:
        with pytest.raises(DetectorError, match=r"window needs at least 10 embeddings .* got shape \(9, 8\)"):
            detector.score(normal(9, 0))
        with pytest.raises(DetectorError, match="expected embeddings with 8 columns, got 7"):
            detector.score(normal(50, 0, d=7))
        with pytest.raises(DetectorError, match="window holds embeddings that are NaN or infinite"):
            detector.score(np.full((50, 8), np.nan, np.float32))
        with pytest.raises(DetectorError, match="reference needs at least 20 embeddings"):
            detector.fit(normal(19, 0))

    def test_refuses_too_few_permutations_for_the_p_value(self, make: type[PermutationDetector]) -> None:
        with pytest.raises(DetectorError, match=r"smallest possible p-value is 0.00990.*need more than 200 permut"):
            make(p_value=0.005, permutations=100)

    def test_refuses_embeddings_that_are_all_the_same(self, make: type[PermutationDetector]) -> None:
        with pytest.raises(DetectorError, match="more than half of the 50 reference embeddings are the same"):
            make().fit(np.full((50, 4), 3.7, np.float32))
        mostly = np.concatenate([np.full((80, 4), 3.7), normal(20, 0, d=4)]).astype(np.float32)
        with pytest.raises(DetectorError, match="more than half of the 100 reference embeddings are the same"):
            make().fit(mostly)

    def test_is_not_blurred_by_a_large_common_offset(self, make: type[PermutationDetector]) -> None:
        detector = make()
        detector.fit(normal(300, 0, shift=1000.0))
        assert not detector.score(normal(100, 1, shift=1000.0)).drifted
        assert detector.score(normal(100, 1, shift=1000.5)).drifted

    def test_must_be_fitted_first(self, make: type[PermutationDetector]) -> None:
        with pytest.raises(DetectorError, match="was not fitted"):
            make().score(normal(50, 0))

    def test_has_uniform_p_values_when_nothing_changed(self, make: type[PermutationDetector]) -> None:
        """Of 200 windows of the reference's own distribution a tenth fall below 0.1, give or take 3.5 std errors."""
        detector = make(p_value=0.1, permutations=199)
        hits = 0
        for seed in range(200):
            both = normal(120, 1000 + seed, d=4)
            detector.fit(both[:80])
            hits += detector.score(both[80:]).drifted
        assert abs(hits / 200 - 0.1) < 3.5 * np.sqrt(0.1 * 0.9 / 200)

    def test_says_drifted_above_the_threshold_and_below_the_p_value(self, make: type[PermutationDetector]) -> None:
        for permutations in (100, 199, 333):
            detector = make(p_value=0.05, permutations=permutations)
            detector.fit(normal(60, 0, d=2))
            for seed in range(40):
                score = detector.score(normal(30, seed, d=2, shift=0.15))
                assert score.drifted == (score.p_value < 0.05) == (score.statistic > score.threshold)


def test_the_setting_offers_every_detector_and_no_other() -> None:
    assert get_args(MonitorSettings.model_fields["detector"].annotation) == tuple(DETECTORS)
    assert MonitorSettings().detector == "mmd"


def test_frouros_and_alibi_detect_agree() -> None:
    """The same bandwidth, statistic, permutations and so the same threshold and p-value, up to float32."""
    for seed, shift in ((1, 0.0), (2, 0.1), (3, 0.5)):
        scores = {name: make() for name, make in DETECTORS.items()}
        window = normal(100, seed, d=16, shift=shift)
        for detector in scores.values():
            detector.fit(normal(400, 0, d=16))
        alibi, frouros = scores["mmd"].score(window), scores["frouros_mmd"].score(window)
        assert frouros.statistic == pytest.approx(alibi.statistic, abs=2e-6)
        assert frouros.threshold == pytest.approx(alibi.threshold, abs=2e-6)
        assert frouros.p_value == pytest.approx(alibi.p_value, abs=0.003)
        assert frouros.drifted == alibi.drifted


def test_the_bandwidth_is_alibi_detect_s_median_heuristic() -> None:
    from fieldrepair_monitoring.mmd import PermutationMMD
    from fieldrepair_monitoring.permutations import median_bandwidth

    for n in (39, 40, 41, 42):  # an even and an odd number of pairs
        reference = normal(n, n, d=5)
        test = PermutationMMD(reference, p_value=0.05, permutations=100, seed=0, device="cpu")
        assert median_bandwidth(reference) == pytest.approx(float(test.kernel.sigma.mean()), rel=1e-5)


def test_frouros_never_loads_alibi_detect_or_sets_up_logging() -> None:
    """From the setting to a score, with everything that the monitor imports."""
    script = (
        "import logging, sys\n"
        "from importlib import import_module\n"
        "import numpy as np\n"
        "from fieldrepair_monitoring import monitor, settings\n"
        "from fieldrepair_monitoring.detectors import DETECTORS\n"
        "before = list(logging.getLogger().handlers)\n"
        "made = DETECTORS[settings.MonitorSettings().detector]()\n"
        "import_module(made.backend)\n"
        "assert logging.getLogger().handlers == before, logging.getLogger().handlers\n"
        "rows = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)\n"
        "made.fit(rows[:100])\n"
        "made.score(rows[100:])\n"
        "print(made.name, 'frouros' in sys.modules, [name for name in sys.modules if 'alibi' in name])\n"
    )
    environment = {**os.environ, "FIELDREPAIR_DETECTOR": "frouros_mmd"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "frouros_mmd True []"


@pytest.mark.parametrize("library", ["alibi-detect", "frouros"])
def test_mmd_is_the_textbook_estimate(library: str) -> None:
    from fieldrepair_monitoring.frouros_mmd import FrourosMMD
    from fieldrepair_monitoring.mmd import PermutationMMD

    reference, window = normal(40, 0, d=3), normal(30, 1, d=3, shift=0.3)
    test = PermutationMMD(reference, p_value=0.05, permutations=100, seed=0, device="cpu")
    bandwidth = float(test.kernel.sigma.mean())
    if library == "frouros":
        test = FrourosMMD(reference, bandwidth=bandwidth, p_value=0.05, permutations=100, seed=0, device="cpu")

    def k(a: FloatArray, b: FloatArray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2)))

    n, m = len(reference), len(window)
    within_reference = sum(k(a, b) for i, a in enumerate(reference) for j, b in enumerate(reference) if i != j)
    within_window = sum(k(a, b) for i, a in enumerate(window) for j, b in enumerate(window) if i != j)
    between = sum(k(a, b) for a in reference for b in window)
    expected = within_reference / (n * (n - 1)) + within_window / (m * (m - 1)) - 2 * between / (n * m)
    assert test.score(window)[1] == pytest.approx(expected, rel=1e-4)


def test_the_batched_permutations_are_alibi_detect_s_one_by_one() -> None:
    from alibi_detect.utils.pytorch.distance import mmd2_from_kernel_matrix

    from fieldrepair_monitoring.permutations import mmd2

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
    from fieldrepair_monitoring.permutations import Permutations

    permutations = Permutations(99, seed=3)
    shuffles = permutations.assignments(60, 20)
    assert shuffles.shape == (80, 99)
    assert shuffles.sum(0).tolist() == [20.0] * 99
    for make in DETECTORS.values():
        detector = make(p_value=0.05, permutations=99, seed=3)
        detector.fit(normal(60, 0))
        assert detector.score(normal(20, 1, shift=3.0)).p_value == pytest.approx(1 / 100)
