"""Each statistic against its library, a reference implementation, or an identity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp

from fieldrepair_monitoring.detectors import DetectorOptions, DriftScore
from fieldrepair_monitoring.detectors.calibration import CAUTION, Calibration, calibration_size, draw_windows, members
from fieldrepair_monitoring.detectors.combination import combine, combined_p
from fieldrepair_monitoring.detectors.kolmogorov import ks_distances, leave_out_distances
from fieldrepair_monitoring.features import Features

FloatArray = npt.NDArray[np.float32]


def normal(n: int, seed: int, d: int = 8, shift: float = 0.0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def only(embeddings: FloatArray) -> Features:
    return Features(embeddings, embeddings, embeddings, embeddings)


class TestCalibration:
    def test_a_p_value_is_a_rank_and_the_threshold_is_where_it_falls_below(self) -> None:
        null = np.arange(1.0, 100.0)  # 99 windows
        options = DetectorOptions(p_value=0.05, calibration_windows=99)
        # Sizes such that nothing is rescaled: 1/10 + 1/40 on both sides.
        calibration = Calibration(null, size=10, rest=40, reference=int(CAUTION * 40), power=1.0, options=options)
        score = calibration.judge(95.5, 10)
        assert (score.p_value, score.threshold, score.drifted) == (pytest.approx(5 / 100), 96.0, False)
        score = calibration.judge(96.5, 10)
        assert (score.p_value, score.drifted) == (pytest.approx(4 / 100), True)
        assert calibration.judge(1000.0, 10).p_value == pytest.approx(1 / 100)
        assert calibration.judge(0.0, 10).p_value == 1.0

    @pytest.mark.parametrize("power", [0.5, 1.0])
    def test_thresholds_follow_the_size_of_the_window(self, power: float) -> None:
        calibration = Calibration(
            np.arange(1.0, 400.0), size=100, rest=900, reference=1000, power=power, options=DetectorOptions()
        )
        small, large = calibration.judge(1.0, 50), calibration.judge(1.0, 5000)
        assert small.threshold / large.threshold == pytest.approx(
            ((1 / 50 + CAUTION / 1000) / (1 / 5000 + CAUTION / 1000)) ** power
        )
        assert small.effect_size == large.effect_size, "the effect does not know the window's size"

    def test_windows_of_the_reference_hold_each_input_once(self) -> None:
        windows = draw_windows(50, 20, 30, seed=3)
        assert members(windows, 50).sum(0).tolist() == [20.0] * 30
        assert members(windows, 50).max() == 1.0
        assert (draw_windows(50, 20, 30, seed=3) == windows).all()
        assert members(np.array([[1, 1, 2]]), 4)[:, 0].tolist() == [0.0, 2.0, 1.0, 0.0]

    def test_a_short_reference_is_cut_in_half(self) -> None:
        assert [calibration_size(n, 100) for n in (1000, 150, 20)] == [100, 75, 10]


class TestCombination:
    @staticmethod
    def score(p_value: float, effect: float = 1.0) -> DriftScore:
        return DriftScore(1.0, p_value, 2.0, drifted=False, effect_size=effect)

    def test_bonferroni_and_benjamini_hochberg_by_hand(self) -> None:
        p_values = np.array([[0.01, 0.04, 0.03], [0.5, 0.9, 0.6]])
        assert combined_p(p_values, "bonferroni").tolist() == pytest.approx([0.03, 1.0])
        # Simes: the smallest of 0.01 * 3, 0.03 * 3 / 2 and 0.04; and of 1.5, 0.9, 0.9.
        assert combined_p(p_values, "bh").tolist() == pytest.approx([0.03, 0.9])
        assert combined_p(np.array([[0.02, 0.02]]), "bh").tolist() == pytest.approx([0.02])

    def test_the_clearest_detector_decides(self) -> None:
        scores = {"a": self.score(0.01, 1.0), "b": self.score(0.001, 2.0), "c": self.score(0.001, 3.0)}
        decision = combine(scores, alpha=0.005, min_effect=0.5, multiplicity="bonferroni")
        assert (decision.decisive, decision.drifted) == ("c", True)
        assert decision.p_value == pytest.approx(0.003)
        assert not combine(scores, alpha=0.002, min_effect=0.5, multiplicity="bonferroni").drifted
        assert combine(scores, alpha=0.002, min_effect=0.5, multiplicity="bh").drifted, "0.0015: two agree"
        assert not combine(scores, alpha=0.005, min_effect=3.5, multiplicity="bonferroni").drifted

    @pytest.mark.parametrize(("p_value", "confirmed"), [(0.002, True), (0.003, False)])
    def test_an_alarm_that_needs_no_other_is_adjusted_for_their_number_too(
        self, p_value: float, confirmed: bool
    ) -> None:
        scores = {"a": self.score(0.001), "b": replace(self.score(p_value), confirmed=True)}
        decision = combine(scores, alpha=0.005, min_effect=0.5, multiplicity="bh")
        assert (decision.drifted, decision.confirmed) == (True, confirmed)
        assert not combine(scores, alpha=0.005, min_effect=1.5, multiplicity="bh").confirmed

    @pytest.mark.parametrize("multiplicity", ["bonferroni", "bh"])
    def test_no_more_false_alarms_than_chosen(self, multiplicity: str) -> None:
        assert multiplicity in ("bonferroni", "bh")
        p_values = np.random.default_rng(0).random((20_000, 4))
        rate = float((combined_p(p_values, "bh" if multiplicity == "bh" else "bonferroni") < 0.05).mean())
        assert 0.044 < rate < 0.0535


class TestKernels:
    @pytest.mark.parametrize("library", ["alibi_detect", "frouros"])
    def test_the_statistic_is_the_unbiased_mmd(self, library: str) -> None:
        from fieldrepair_monitoring.detectors.frouros_mmd import FrourosMmdDetector
        from fieldrepair_monitoring.detectors.mmd import MmdDetector

        reference, window = normal(40, 0, d=3), normal(30, 1, d=3, shift=0.3)
        make = MmdDetector if library == "alibi_detect" else FrourosMmdDetector
        detector = make(DetectorOptions(p_value=0.05, window_size=15, calibration_windows=30))
        detector.fit(only(reference))
        bandwidth = float(torch.pdist(torch.from_numpy(reference)).quantile(0.5)) / np.sqrt(2.0)

        def k(a: FloatArray, b: FloatArray) -> float:
            return float(np.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2)))

        n, m = len(reference), len(window)
        within_reference = sum(k(a, b) for i, a in enumerate(reference) for j, b in enumerate(reference) if i != j)
        within_window = sum(k(a, b) for i, a in enumerate(window) for j, b in enumerate(window) if i != j)
        between = sum(k(a, b) for a in reference for b in window)
        expected = within_reference / (n * (n - 1)) + within_window / (m * (m - 1)) - 2 * between / (n * m)
        # alibi-detect's median counts each pair twice and the diagonal: a hair off the median of the pairs.
        assert detector.score(only(window)).statistic == pytest.approx(expected, rel=2e-2)

    def test_many_assignments_are_alibi_detect_s_one_by_one(self) -> None:
        from alibi_detect.utils.pytorch.distance import mmd2_from_kernel_matrix

        from fieldrepair_monitoring.detectors.kernel_distance import mmd2

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

    def test_an_input_that_is_twice_in_a_window_counts_twice(self) -> None:
        from fieldrepair_monitoring.detectors.kernel_distance import KernelDistance, gaussian

        distance = KernelDistance(torch.from_numpy(normal(40, 0)), gaussian(2.0))
        pool = torch.from_numpy(normal(20, 1))
        windows = np.random.default_rng(0).integers(20, size=(5, 15))
        one_by_one = [distance.to(pool[torch.from_numpy(window)]) for window in windows]
        assert distance.to_many(pool, windows).tolist() == pytest.approx(one_by_one, abs=1e-6)

    def test_the_online_statistic_is_alibi_detect_s(self) -> None:
        """Input by input, against the same reference and with the same bandwidth."""
        from alibi_detect.cd import MMDDriftOnline

        from fieldrepair_monitoring.detectors.online_mmd import OnlineMmdDetector

        detector = OnlineMmdDetector(DetectorOptions(p_value=0.05, window_size=40, calibration_windows=30))
        reference, window = normal(120, 0, d=4), normal(60, 1, d=4, shift=0.2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            theirs = MMDDriftOnline(
                reference, 50.0, detector.sliding, backend="pytorch", n_bootstraps=200, verbose=False, device="cpu"
            )._detector
        compared = reference[theirs.ref_inds.numpy()]
        detector.fit(only(compared))
        theirs.kernel = torch.nn.Module()
        theirs.kernel.forward = detector.distance.kernel
        theirs.x_ref = torch.from_numpy((reference - detector.centre).astype(np.float32))
        theirs._initialise_state()
        inside = detector.distance.reference
        kernel = detector.distance.kernel(inside, inside).fill_diagonal_(0.0)
        theirs.k_xx_sub_sum = kernel.sum() / (len(inside) * (len(inside) - 1))
        moved = (window - detector.centre).astype(np.float32)
        expected = [theirs.score(row) for row in moved][detector.sliding - 1 :]
        assert detector.trajectory(only(window)).tolist() == pytest.approx(expected, abs=1e-5)

    def test_the_expected_run_time_follows_from_the_rate(self) -> None:
        from fieldrepair_monitoring.detectors.online_mmd import OnlineMmdDetector

        assert OnlineMmdDetector(DetectorOptions(p_value=0.01, window_size=50)).expected_run_time == 5000

    def test_lsdd_is_alibi_detect_s(self) -> None:
        from fieldrepair_monitoring.detectors.alibi import permed_lsdds
        from fieldrepair_monitoring.detectors.lsdd import LsddDetector

        detector = LsddDetector(DetectorOptions(p_value=0.05, window_size=30, calibration_windows=30))
        detector.fit(only(normal(200, 0)))
        window = normal(30, 1, shift=0.3)
        test = detector.library
        towards = test.kernel(test._normalize(torch.from_numpy(detector.moved(window))), test.kernel_centers)
        together = torch.cat([test.k_xc, towards])
        n = len(test.k_xc)
        value, _ = permed_lsdds(together, [torch.arange(n)], [torch.arange(n, n + 30)], test.H, detector.matrix.float())
        assert detector.score(only(window)).statistic == pytest.approx(float(value[0]), rel=1e-3)

    def test_the_conditional_distance_is_alibi_detect_s(self) -> None:
        from fieldrepair_monitoring.detectors.alibi import ContextMMDDriftTorch
        from fieldrepair_monitoring.detectors.context_mmd import adit, ridge_inverse
        from fieldrepair_monitoring.detectors.kernel_distance import gaussian

        inputs_seen, contexts_seen = normal(50, 0, d=3), normal(50, 1, d=3)
        x, c, held = (torch.from_numpy(rows) for rows in (inputs_seen, contexts_seen, normal(8, 2, d=3)))
        kernel = gaussian(1.5)
        theirs = ContextMMDDriftTorch(inputs_seen, contexts_seen, n_permutations=1, device="cpu")
        theirs.lams = (torch.tensor(0.1), torch.tensor(0.2))
        bools = torch.cat([torch.zeros(30), torch.ones(20)])
        inputs, contexts, conditions = kernel(x, x), kernel(c, c), kernel(held, c)
        expected = float(theirs._cmmd(inputs, contexts, bools, conditions)[0])
        a = conditions[:, :30] @ ridge_inverse(contexts[:30, :30], 0.1)
        b = conditions[:, 30:] @ ridge_inverse(contexts[30:, 30:], 0.2)
        assert adit(inputs[:30, :30], inputs[30:, 30:], inputs[:30, 30:], a, b) == pytest.approx(expected, rel=1e-4)


def test_other_shares_of_the_same_classes_are_no_shift_given_the_context() -> None:
    """MMD sees them, context-aware MMD does not; both see inputs that changed."""
    from fieldrepair_monitoring.detectors import make_detector

    centres = np.random.default_rng(0).standard_normal((3, 6)) * 3

    def window(n: int, seed: int, shares: list[float], shift: float = 0.0) -> Features:
        generator = np.random.default_rng(seed)
        classes = generator.choice(3, n, p=shares)
        embeddings = (centres[classes] + generator.standard_normal((n, 6)) + shift).astype(np.float32)
        near = -((embeddings[:, None] - centres[None]) ** 2).sum(2)
        scores = np.exp(near - near.max(1, keepdims=True))
        return Features(near.astype(np.float32), (scores / scores.sum(1, keepdims=True)).astype(np.float32), embeddings)

    options = DetectorOptions(p_value=0.01, window_size=80, calibration_windows=200)
    plain, aware = make_detector("mmd", options), make_detector("context_mmd", options)
    for detector in (plain, aware):
        detector.fit(window(600, 1, [1 / 3, 1 / 3, 1 / 3]))
    other = [window(80, seed, [0.75, 0.2, 0.05]) for seed in range(5)]
    assert all(plain.score(shares).drifted for shares in other)
    assert not any(aware.score(shares).drifted for shares in other)
    changed = window(80, 9, [1 / 3, 1 / 3, 1 / 3], shift=1.0)
    assert plain.score(changed).drifted
    assert aware.score(changed).drifted


class TestColumns:
    def test_distances_are_scipy_s(self) -> None:
        reference, pool = normal(80, 0, d=3), normal(60, 1, d=3, shift=0.4)
        pool[:, 2] = np.round(pool[:, 2])  # ties
        windows = np.random.default_rng(0).integers(60, size=(6, 25))
        expected = [[ks_2samp(reference[:, c], pool[w, c]).statistic for c in range(3)] for w in windows]
        np.testing.assert_allclose(ks_distances(reference, pool, windows), expected, atol=1e-12)

    def test_left_out_windows_face_the_rest(self) -> None:
        reference = normal(60, 0, d=2)
        windows = draw_windows(60, 20, 5, seed=0)
        expected = [
            [ks_2samp(np.delete(reference[:, c], w), reference[w, c]).statistic for c in range(2)] for w in windows
        ]
        np.testing.assert_allclose(leave_out_distances(reference, windows), expected, atol=1e-12)

    def test_chi_square_is_scipy_s(self) -> None:
        from fieldrepair_monitoring.detectors.chi_square import chi_square

        observed, other = np.array([[10.0, 20.0, 5.0, 0.0]]), np.array([[40.0, 50.0, 30.0, 0.0]])
        expected = chi2_contingency(np.stack([observed[0, :3], other[0, :3]]), correction=False)
        statistic, freedom = chi_square(observed, other)
        assert (statistic[0], freedom[0]) == (pytest.approx(expected.statistic), 2.0)

    def test_a_table_is_tested_column_by_column(self) -> None:
        from fieldrepair_monitoring.detectors.tabular import TabularDetector

        generator = np.random.default_rng(0)

        def rows(n: int, *, kinds: tuple[float, ...] = (0.5, 0.5), shift: float = 0.0) -> Features:
            table = np.column_stack(
                [generator.standard_normal(n) + shift, generator.choice(len(kinds), n, p=kinds), np.full(n, 4.0)]
            ).astype(np.float32)
            return Features(table, table, table, table)

        detector = TabularDetector(DetectorOptions(p_value=0.01, window_size=100, calibration_windows=300))
        detector.fit(rows(800))
        calm, moved, other_kinds, new_kind = (
            rows(100),
            rows(100, shift=1.0),
            rows(100, kinds=(0.1, 0.9)),
            rows(100, kinds=(0.4, 0.4, 0.2)),
        )
        assert detector.p_values(calm).min() > 0.005
        assert not detector.score(calm).drifted
        for window, column in ((moved, 0), (other_kinds, 1), (new_kind, 1)):
            assert int(detector.p_values(window).argmin()) == column
            assert detector.score(window).drifted
        assert detector.p_values(calm)[2] == 1.0, "a column that never changes"
