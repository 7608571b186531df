"""The detector that compares the field with its own earlier windows: when it fires, when not, and what it keeps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2_contingency, kstest

from fieldrepair_monitoring.detectors import DetectorOptions, make_detector
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.field_history import RECENT, FieldHistory
from fieldrepair_monitoring.detectors.trend import TrendDetector
from fieldrepair_monitoring.detectors.trend_views import CHANCE, Answers, Means
from fieldrepair_monitoring.features import Features, joined

Floats = npt.NDArray[np.float64]

OPTIONS = DetectorOptions(p_value=0.005, window_size=100, min_effect=0.5)
RARE = np.array([0.4, 0.3, 0.2, 0.08, 0.015, 0.005])
"""Shares of classes; of the last there is one in two windows."""


def field(n: int, seed: int, *, shares: Floats = RARE, moved: float = 0.0) -> Features:
    """Inputs of six classes of these shares, embeddings around the class's centre, answers that are mostly right."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(shares), n, p=shares)
    centres = 2.0 * np.random.default_rng(99).standard_normal((len(shares), 10))
    embeddings = centres[labels] + generator.standard_normal((n, 10))
    embeddings[:, 0] += moved
    logits = embeddings @ centres.T - 0.5 * (centres**2).sum(axis=1)
    scores = np.exp(0.5 * (logits - logits.max(axis=1, keepdims=True)))
    scores /= scores.sum(axis=1, keepdims=True)
    return Features(*(each.astype(np.float32) for each in (logits, scores, embeddings)))


def fitted(n: int = 800, options: DetectorOptions = OPTIONS) -> TrendDetector:
    detector = TrendDetector(options)
    detector.fit(field(n, 0))
    return detector


def in_order(windows: int, size: int = 100) -> npt.NDArray[np.int64]:
    return np.arange(windows * size).reshape(windows, size)


def test_a_slow_change_is_seen_long_before_a_single_window_shows_it() -> None:
    balanced = np.full(6, 1 / 6)
    ramp = [field(100, 10 + at, shares=(1 - at / 200) * RARE + at / 200 * balanced) for at in range(100)]
    pool = joined([field(2000, 1), *ramp])
    trend = [score.drifted for score in fitted().score_stream(pool, in_order(120))]
    single = make_detector("classes", OPTIONS)
    assert isinstance(single, CalibratedDetector)
    single.fit(field(800, 0))
    alone = [score.drifted for score in single.score_many(pool, in_order(120))]
    assert not any(trend[:20])
    assert 20 < trend.index(True) < alone.index(True) - 8
    assert sum(trend[-40:]) >= 36, "a ramp does not become normal while it goes on"


def test_an_alarm_is_confirmed_by_the_window_before_it() -> None:
    """A change that comes slowly confirms itself; of a sudden one, which may be one odd window, nobody knows yet."""
    slow = joined([field(2000, 1), *(field(100, 10 + at, moved=0.03 * at) for at in range(40))])
    scores = fitted().score_stream(slow, in_order(60))
    first = next(score for score in scores if score.drifted)
    assert first.confirmed
    sudden = fitted().score_stream(joined([field(2000, 1), field(400, 2, moved=3.0)]), in_order(24))
    assert [(score.drifted, score.confirmed) for score in sudden[20:22]] == [(True, False), (True, True)]
    odd = fitted().score_stream(joined([field(2000, 1), field(100, 2, moved=3.0), field(1000, 3)]), in_order(31))
    assert odd[20].drifted
    assert not any(score.confirmed for score in odd)


def test_unchanged_traffic_with_rare_classes_stays_calm() -> None:
    """Far below the chosen rate: a single alarm is as rare as a confirmed one of other detectors."""
    detector = fitted(options=DetectorOptions(p_value=0.05))
    scores = detector.score_stream(field(150_000, 3), in_order(1500))
    assert sum(score.drifted for score in scores) <= 0.05 * 1500 * 0.2
    assert min(score.p_value for score in scores) > 0.001
    assert max(score.statistic for score in scores) > 0.5, "it does look at them"


def test_a_reference_that_lies_off_does_not_matter() -> None:
    """The field always was a little different; nothing has changed."""
    detector = fitted()
    assert not any(score.drifted for score in detector.score_stream(field(40_000, 4, moved=0.4), in_order(400)))


def test_a_move_back_to_the_reference_is_no_drift() -> None:
    away_and_back = joined([field(2000, 5, moved=1.5), field(2000, 6)])
    assert not any(score.drifted for score in fitted().score_stream(away_and_back, in_order(40)))
    and_away = joined([field(2000, 6), field(2000, 5, moved=1.5)])
    assert any(score.drifted for score in fitted().score_stream(and_away, in_order(40)))


def test_windows_that_always_differ_from_one_another_stay_calm() -> None:
    """Every window has shares of its own, as traffic has that comes in batches."""
    generator = np.random.default_rng(0)
    batches = [field(100, 100 + at, shares=generator.dirichlet(20 * RARE + 0.5)) for at in range(200)]
    scores = fitted().score_stream(joined(batches), in_order(200))
    assert sum(score.drifted for score in scores[40:]) <= 2
    steady = joined([*(field(100, 500 + at) for at in range(40)), *batches[:40]])
    assert any(score.drifted for score in fitted().score_stream(steady, in_order(80))), "new in this field"


def test_drifted_windows_are_no_standard_for_later_ones() -> None:
    detector = fitted()
    memory = ""
    for seed in range(12):
        memory = detector.remember(field(100, seed), memory, calm=True)
    for seed in range(40):
        memory = detector.remember(field(100, seed, moved=2.0), memory, calm=False)
    assert detector.score_after(field(100, 77, moved=2.0), memory).drifted


def test_a_shift_that_is_over_is_over_at_once() -> None:
    """Though the last eight windows still hold it."""
    pool = joined([field(2000, 1), field(800, 2, moved=1.0), field(800, 3)])
    drifted = [score.drifted for score in fitted().score_stream(pool, in_order(36))]
    assert not any(drifted[:20])
    assert sum(drifted[20:28]) >= 6
    assert not any(drifted[28:])


def test_step_by_step_it_says_what_it_says_of_a_stream_and_its_memory_does_not_grow() -> None:
    detector, pool = fitted(), joined([field(2500, 7), field(1500, 8, moved=0.8)])
    memory, lengths = "", set[int]()
    for window, expected in zip(in_order(40), detector.score_stream(pool, in_order(40)), strict=True):
        score = detector.score_after(pool.take(window), memory)
        assert score.statistic == pytest.approx(expected.statistic, rel=1e-3, abs=1e-4)
        assert score.drifted == expected.drifted
        memory = detector.remember(pool.take(window), memory, calm=not score.drifted)
        lengths.add(len(memory))
    assert len(lengths) == 1
    assert memory.isascii()
    assert max(lengths) < 30_000


@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "not ASCII of this kind",
        "run together",
        "something else",
        "in another order",
    ],
)
def test_a_memory_that_is_damaged_counts_as_none(how: str) -> None:
    detector, window = fitted(), field(100, 1, moved=3.0)
    memory = ""
    for seed in range(12):
        memory = detector.remember(field(100, seed), memory, calm=True)
    assert detector.score_after(window, memory).drifted
    spoiled = {
        "cut off": memory[:-8],
        "not ASCII of this kind": "?" + memory[1:],
        "run together": memory.replace(",", ""),
        "something else": "nothing at all",
        "in another order": ",".join(reversed(memory.split(","))),
    }
    assert detector.score_after(window, spoiled[how]) == detector.score(window)


def test_the_memory_of_another_reference_counts_as_none() -> None:
    other, window = TrendDetector(OPTIONS), field(100, 1, moved=3.0)
    other.fit(field(800, 0, moved=5.0, shares=np.full(6, 1 / 6)))
    memory = ""
    for seed in range(12):
        memory = other.remember(field(100, seed), memory, calm=True)
    assert fitted().score_after(window, memory).p_value == 1.0


def test_without_a_past_nothing_is_said() -> None:
    score = fitted().score(field(100, 1, moved=5.0))
    assert (score.statistic, score.p_value, score.drifted, score.effect_size) == (0.0, 1.0, False, 0.0)


def test_a_model_that_is_always_equally_sure() -> None:
    def certain(features: Features) -> Features:
        scores = np.eye(6, dtype=np.float32)[features.scores.argmax(axis=1)]
        return Features(features.outputs, scores, features.embeddings)

    detector = TrendDetector(OPTIONS)
    detector.fit(certain(field(400, 0)))
    pool = joined([certain(field(1500, 1)), certain(field(1500, 2, moved=2.0))])
    drifted = [score.drifted for score in detector.score_stream(pool, in_order(30))]
    assert not any(drifted[:15])
    assert any(drifted[15:18])


def test_answers_are_compared_by_the_g_test() -> None:
    view = Answers(field(800, 0))
    history, windows = FieldHistory.empty(6), [field(100, seed) for seed in range(1, 21)]
    for window in windows[:-1]:
        history = history.after(view.of(window), calm=True)
    found = view.compare(*history.latest(view.of(windows[-1])), history, 4)
    answers = [joined(part).scores.argmax(axis=1) for part in (windows[-4:], windows[: 19 - RECENT])]
    counts = np.stack([np.bincount(part, minlength=6) for part in answers])
    seen = counts[:, counts.sum(axis=0) > 0]
    expected = chi2_contingency(seen, correction=False, lambda_="log-likelihood")
    # Windows may differ by a little more than chance: then its distance is divided by that.
    assert found.log_q >= np.log(expected.pvalue) - 1e-9
    assert found.effect == pytest.approx(np.sqrt(expected.statistic * (1 / 400 + 1 / 1100)) / CHANCE, rel=1e-9)


def test_many_classes_are_counted_in_a_few_groups() -> None:
    generator = np.random.default_rng(0)

    def window(n: int, common: int) -> Features:
        answers = np.where(generator.random(n) < 0.5, common, generator.integers(0, 1000, n))
        scores = np.eye(1000, dtype=np.float32)[answers]
        return Features(scores, scores, generator.standard_normal((n, 4)).astype(np.float32))

    detector = TrendDetector(OPTIONS)
    detector.fit(window(400, 3))
    memory = ""
    for _ in range(12):
        memory = detector.remember(window(100, 3), memory, calm=True)
    assert len(memory) < 30_000
    assert not detector.score_after(window(100, 3), memory).drifted
    memory = detector.remember(window(100, 4), memory, calm=True)
    assert detector.score_after(window(100, 4), memory).drifted


def test_hotellings_p_values_are_even_where_nothing_has_changed() -> None:
    generator = np.random.default_rng(0)

    def normal(n: int) -> Features:
        rows = generator.standard_normal((n, 5)).astype(np.float32)
        return Features(rows, rows, rows)

    view = Means(normal(2000), lambda features: features.embeddings.astype(np.float64), most=5)
    found: list[float] = []
    for _ in range(200):
        history = FieldHistory.empty(5)
        for _ in range(30):
            history = history.after(view.of(normal(20)), calm=True)
        found.append(float(np.exp(view.compare(*history.latest(view.of(normal(20))), history, 1).log_q)))
    # The floor under the scatter and the excess of windows only make it more careful.
    assert kstest(found, "uniform", alternative="greater").pvalue > 0.01
    assert np.median(found) < 0.75
