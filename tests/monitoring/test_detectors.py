"""One contract over every detector: those of the package, and one from an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fieldrepair_monitoring.detectors import (
    BUILT_IN,
    Detector,
    DetectorOptions,
    DriftScore,
    Reading,
    RemembersWindows,
    detector_names,
    make_detector,
)
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features

OPTIONS = DetectorOptions(p_value=0.01, window_size=60, calibration_windows=300)
PLUGIN = "mean_distance"

PLUGIN_MODULE = """
import numpy as np
from fieldrepair_monitoring.detectors import DriftScore
from fieldrepair_monitoring.detectors.base import MIN_REFERENCE, MIN_WINDOW, reading
from fieldrepair_monitoring.errors import DetectorError

class MeanDistance:
    name = "mean_distance"
    reads = ("embeddings",)

    def __init__(self, options):
        self.options, self.mean = options, None

    def fit(self, reference):
        rows = reading("reference", reference, "embeddings", MIN_REFERENCE)
        self.mean, self.spread = rows.mean(0), float(rows.std())

    def score(self, window):
        if self.mean is None:
            raise DetectorError("the detector was not fitted")
        rows = reading("window", window, "embeddings", MIN_WINDOW)
        if rows.shape[1] != len(self.mean):
            raise DetectorError(f"expected embeddings with {len(self.mean)} columns, got {rows.shape[1]}")
        z = float(np.abs(rows.mean(0) - self.mean).max()) / self.spread * len(rows) ** 0.5
        p = min(1.0, 2 * float(np.exp(-z * z / 2)) * len(self.mean))
        return DriftScore(z, p, 4.0, p < self.options.p_value, z)
"""


def features(n: int, seed: int, *, shift: float = 0.0, d: int = 8) -> Features:
    """Embeddings, the scores of four classes that follow from them, and rows with a column of categories."""
    generator = np.random.default_rng(seed)
    embeddings = generator.standard_normal((n, d)).astype(np.float32)
    embeddings[:, [0, 4, 5]] += shift  # the first of four logits among them: the scores change too
    logits = embeddings[:, :4] * 1.5 + 0.3 * generator.standard_normal((n, 4))
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    kinds = generator.choice(3, n, p=[0.6, 0.3, 0.1] if shift == 0 else [0.2, 0.3, 0.5])
    rows = np.column_stack([embeddings[:, :3], kinds]).astype(np.float32)
    return Features(logits.astype(np.float32), scores, embeddings, rows)


def altered(window: Features, which: Reading, value: npt.NDArray[np.floating[Any]]) -> Features:
    return replace(window, **{which: value.astype(np.float32)})


@pytest.fixture(scope="module", autouse=True)
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution that offers one more detector."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mean_distance_plugin.py").write_text(PLUGIN_MODULE, encoding="utf-8")
    info = folder / "mean_distance_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-distance-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fieldrepair.detectors]\nmean_distance = mean_distance_plugin:MeanDistance\nbroken = no_such_module:Thing\n"
    )
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


NAMES = (*BUILT_IN, PLUGIN)
FITTED: dict[str, Detector] = {}


@pytest.fixture(params=NAMES)
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param not in FITTED:
        made = make_detector(request.param, OPTIONS)
        made.fit(features(400, 0))
        FITTED[request.param] = made
    return FITTED[request.param]


EARLIER = 12


def scored(detector: Detector, window: Features) -> DriftScore:
    """What a detector says of a window; one that remembers has seen calm windows before."""
    if not isinstance(detector, RemembersWindows):
        return detector.score(window)
    memory = ""
    for seed in range(EARLIER):
        memory = detector.remember(features(60, 1000 + seed), memory, calm=True)
    return detector.score_after(window, memory)


class TestEveryDetector:
    def test_stays_calm_on_more_of_the_same_and_sees_a_shift(self, detector: Detector) -> None:
        calm = [scored(detector, features(60, seed)) for seed in range(1, 6)]
        drifted = scored(detector, features(60, 2, shift=2.0))
        assert sum(score.drifted for score in calm) == 0
        assert drifted.drifted
        assert drifted.statistic > drifted.threshold
        assert drifted.p_value < OPTIONS.p_value < max(score.p_value for score in calm)
        assert drifted.effect_size > max(score.effect_size for score in calm)
        for score in (*calm, drifted):
            assert 0 < score.p_value <= 1
            assert np.isfinite([score.statistic, score.threshold, score.effect_size]).all()

    def test_gives_a_window_the_same_answer_whatever_came_before(self, detector: Detector) -> None:
        window = features(60, 3)
        first = detector.score(window)
        detector.score(features(70, 4, shift=1.0))
        assert detector.score(window) == first

    def test_reads_only_what_it_declares(self, detector: Detector) -> None:
        window = features(60, 3)
        for which in ("embeddings", "scores", "rows"):
            if which not in detector.reads:
                assert detector.score(altered(window, which, np.full((60, 2), np.nan))) == detector.score(window)

    def test_refuses_what_it_cannot_compare(self, detector: Detector) -> None:
        with pytest.raises(DetectorError, match=r"a window needs at least 10 \w+ of shape \(n, d\), got shape \(9, "):
            detector.score(features(9, 0))
        for which in detector.reads:
            window = features(60, 0)
            with pytest.raises(DetectorError, match=f"expected {which} with . columns, got 3"):
                detector.score(altered(window, which, np.full((60, 3), 0.3)))
            with pytest.raises(DetectorError, match=f"a window holds {which} that are NaN or infinite"):
                detector.score(altered(window, which, np.full((60, 8), np.nan)))
        unfitted = make_detector(detector.name, OPTIONS)
        with pytest.raises(DetectorError, match="was not fitted"):
            unfitted.score(features(60, 0))
        with pytest.raises(
            DetectorError, match=r"a reference needs at least 20 \w+ of shape \(n, d\), got shape \(19, "
        ):
            unfitted.fit(features(19, 0))

    def test_scores_many_windows_as_it_scores_one(self, detector: Detector) -> None:
        if not isinstance(detector, CalibratedDetector):
            pytest.skip("only detectors of this package have score_many")
        pool = features(200, 7, shift=0.3)
        windows = np.stack([np.random.default_rng(seed).choice(200, 60, replace=False) for seed in range(4)])
        for one, many in zip(
            [detector.score(pool.take(window)) for window in windows], detector.score_many(pool, windows), strict=True
        ):
            assert many.statistic == pytest.approx(one.statistic, rel=1e-3, abs=2e-6)
            assert many.p_value == pytest.approx(one.p_value, abs=0.011)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_fit_leaves_the_process_s_random_numbers_alone_and_repeats(name: str) -> None:
    def fitted() -> DriftScore:
        detector = make_detector(name, replace(OPTIONS, calibration_windows=120))
        detector.fit(features(200, 0))
        return detector.score(features(60, 5))

    np.random.seed(7)
    torch.manual_seed(7)
    expected = float(np.random.rand()), float(torch.rand(1))
    np.random.seed(7)
    torch.manual_seed(7)
    first = fitted()
    assert (float(np.random.rand()), float(torch.rand(1))) == expected
    assert fitted() == first


@pytest.mark.parametrize("name", ["mmd", "ks", "classes", "lsdd", "tabular"])
def test_the_rate_of_false_alarms_is_at_most_the_chosen_one(name: str) -> None:
    """Over six references and 200 windows each; the bound is three standard errors above 5 %."""
    alarms = 0
    for seed in range(6):
        detector = make_detector(name, DetectorOptions(p_value=0.05, window_size=50, calibration_windows=200))
        assert isinstance(detector, CalibratedDetector)
        detector.fit(features(250, 2 * seed))
        windows = np.arange(10_000).reshape(200, 50)
        alarms += sum(score.drifted for score in detector.score_many(features(10_000, 2 * seed + 1), windows))
    assert alarms <= 0.05 * 1200 + 3 * (1200 * 0.05 * 0.95) ** 0.5


def test_other_shares_of_the_same_classes_are_seen_by_classes_and_not_by_uncertainty() -> None:
    pool = features(4000, 1)
    predicted = pool.scores.argmax(axis=1)
    weight = np.array([0.4, 0.3, 0.2, 0.1])[predicted] / np.bincount(predicted)[predicted]
    shifted = pool.take(np.random.default_rng(0).choice(4000, 300, replace=False, p=weight / weight.sum()))
    drifted = {}
    for name in ("classes", "uncertainty"):
        detector = make_detector(name, replace(OPTIONS, window_size=300))
        detector.fit(features(1000, 0))
        drifted[name] = detector.score(shifted).drifted
    assert drifted == {"classes": True, "uncertainty": False}


def test_a_class_that_the_reference_never_answers() -> None:
    def without_last(n: int, seed: int) -> Features:
        window = features(n, seed)
        scores = np.column_stack([window.scores[:, :3], np.zeros(n)])
        return altered(window, "scores", scores / scores.sum(axis=1, keepdims=True))

    detector = make_detector("classes", OPTIONS)
    detector.fit(without_last(400, 0))
    assert not detector.score(without_last(60, 1)).drifted
    assert detector.score(features(60, 1)).drifted, "a quarter of the answers are now a class that never was one"


def test_huge_windows_do_not_alarm_on_nothing() -> None:
    """A reference of 200 lies off the truth by chance; 2,000 unchanged inputs show that, and it means nothing."""
    for name in ("mmd", "ks", "classes", "lsdd"):
        detector = make_detector(name, OPTIONS)
        for seed in range(3):
            detector.fit(features(200, seed))
            assert not detector.score(features(2000, 100 + seed)).drifted


def test_the_effect_does_not_grow_with_the_window_and_a_minimum_holds_back_small_ones() -> None:
    strict = make_detector("ks", replace(OPTIONS, min_effect=4.0))
    strict.fit(features(1000, 0))
    small, large = (strict.score(features(size, 1, shift=0.5)) for size in (300, 6000))
    assert large.effect_size == pytest.approx(small.effect_size, rel=0.35)
    assert large.p_value < 0.01
    assert not large.drifted, "seen, and too small to matter"
    assert strict.score(features(300, 1, shift=3.0)).drifted


def test_too_few_calibration_windows_for_the_p_value() -> None:
    with pytest.raises(DetectorError, match=r"the smallest possible p-value is 0\.005, .* need more than 200"):
        DetectorOptions(p_value=0.005, calibration_windows=199)


def test_embeddings_that_are_nearly_all_the_same_are_refused() -> None:
    same = features(100, 0)
    embeddings = np.zeros((100, 8), dtype=np.float32)
    embeddings[:20] = same.embeddings[:20]
    for name in ("mmd", "frouros_mmd", "lsdd"):
        with pytest.raises(DetectorError, match="more than half of the 100 reference embeddings are the same"):
            make_detector(name, OPTIONS).fit(altered(same, "embeddings", embeddings))


def test_embeddings_far_from_zero() -> None:
    def far(window: Features) -> Features:
        return altered(window, "embeddings", window.embeddings + 1000.0)

    for name in ("mmd", "frouros_mmd", "lsdd"):
        detector = make_detector(name, OPTIONS)
        detector.fit(far(features(400, 0)))
        assert not detector.score(far(features(60, 1))).drifted
        assert detector.score(far(features(60, 1, shift=2.0))).drifted


def test_a_column_that_never_moved_and_now_does() -> None:
    def with_dead_column(window: Features, value: float) -> Features:
        embeddings = window.embeddings.copy()
        embeddings[:, 5] = value
        return altered(window, "embeddings", embeddings)

    detector = make_detector("lsdd", OPTIONS)
    detector.fit(with_dead_column(features(400, 0), 0.25))
    assert not detector.score(with_dead_column(features(60, 1), 0.25)).drifted
    assert detector.score(with_dead_column(features(60, 1), 0.75)).drifted


def test_a_model_without_rows_cannot_have_the_tabular_detector() -> None:
    with pytest.raises(DetectorError, match="reads rows needs them, but the inputs of this model are not a table"):
        make_detector("tabular", OPTIONS).fit(replace(features(100, 0), rows=None))


def test_names_and_entry_points() -> None:
    assert detector_names()[: len(BUILT_IN)] == tuple(BUILT_IN)
    assert PLUGIN in detector_names()
    with pytest.raises(DetectorError, match="there is no detector 'mdm'; there are mmd, ks, "):
        make_detector("mdm", OPTIONS)
    with pytest.raises(DetectorError, match=r"'broken' \(no_such_module:Thing\) cannot be loaded: No module named"):
        make_detector("broken", OPTIONS)


def test_the_permissive_detectors_never_import_alibi_detect(tmp_path: Path) -> None:
    script = (
        "import logging, sys\n"
        "import numpy as np\n"
        "from fieldrepair_monitoring.detectors import DetectorOptions, make_detector\n"
        "from fieldrepair_monitoring.features import Features\n"
        "import fieldrepair_monitoring.watched_version\n"
        "rows = np.random.default_rng(0).random((60, 4)).astype('float32')\n"
        "for name in ('frouros_mmd', 'frouros_ks', 'classes', 'tabular'):\n"
        "    detector = make_detector(name, DetectorOptions(p_value=0.05, window_size=20, calibration_windows=40))\n"
        "    detector.fit(Features(rows, rows, rows, rows))\n"
        "    detector.score(Features(rows[:20], rows[:20], rows[:20], rows[:20]))\n"
        "assert 'alibi_detect' not in sys.modules, 'imported'\n"
        "assert not logging.getLogger().handlers, 'an import set up logging'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
