"""The acceptance test, against statsmodels, published intervals, tables by hand and a likelihood maximised anew."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from fieldrepair_plugin.acceptance import Predictions, confusion, judge
from fieldrepair_plugin.paired import (
    PairedCounts,
    Share,
    loss_bound,
    mcnemar,
    sample_at_these_rates,
    smallest_sample,
)
from fieldrepair_service.errors import InputError

counts = st.builds(
    PairedCounts,
    both_right=st.integers(0, 300),
    repaired=st.integers(0, 60),
    broken=st.integers(0, 60),
    both_wrong=st.integers(1, 60),
)


def sample(table: PairedCounts, classes: int = 1) -> Predictions:
    """Predictions with exactly these counts; true classes go round ``classes``, a wrong answer is the next class."""
    right_before = [True] * table.both_right + [False] * table.repaired + [True] * table.broken
    right_after = [True] * table.both_right + [True] * table.repaired + [False] * table.broken
    before, after = (np.array(part + [False] * table.both_wrong) for part in (right_before, right_after))
    labels = np.arange(table.n) % classes
    wrong = (labels + 1) % (classes + 1)
    return Predictions(np.where(before, labels, wrong), np.where(after, labels, wrong), labels)


# --- McNemar ---


def test_mcnemar_by_hand() -> None:
    # 9 repaired, 1 broken: P(at least 9 of 10 heads) = (10 + 1) / 1024.
    assert mcnemar(PairedCounts(50, 9, 1, 40)) == pytest.approx(11 / 1024)
    assert mcnemar(PairedCounts(50, 0, 0, 50)) == 1.0
    assert mcnemar(PairedCounts(0, 5, 0, 0)) == pytest.approx(0.5**5)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_mcnemar_is_half_of_statsmodels_two_sided_one(table: PairedCounts) -> None:
    two_sided = statsmodels_mcnemar(
        [[table.both_right, table.broken], [table.repaired, table.both_wrong]], exact=True
    ).pvalue
    if table.repaired > table.broken:
        assert 2 * mcnemar(table) == pytest.approx(two_sided)
    else:
        assert mcnemar(table) >= 0.5


# --- the score bound ---


def two_sided(both_right: int, only_first: int, only_second: int, both_wrong: int) -> tuple[float, float]:
    """The 95 % interval of P(first) - P(second) as the literature writes it."""
    upper = loss_bound(PairedCounts(both_right, only_second, only_first, both_wrong), alpha=0.025)
    lower = -loss_bound(PairedCounts(both_right, only_first, only_second, both_wrong), alpha=0.025)
    return lower, upper


@pytest.mark.parametrize(
    ("table", "interval"),
    [
        # Cavo et al. 2012, complete response before and after therapy; interval as the R package contingencytables
        # (Fagerland, Lydersen, Laake: Statistical Analysis of Contingency Tables, 2017, chapter 8) prints it.
        ((59, 6, 16, 80), (-0.1240, -0.0054)),
        # Bentur et al. 2009, airway hyper-responsiveness before and after transplantation; ibid.
        ((1, 1, 7, 12), (-0.5172, -0.0260)),
    ],
)
def test_published_intervals(table: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    assert two_sided(*table) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("n", [1, 30, 267, 268, 5000])
def test_without_discordant_pairs_the_bound_has_a_closed_form(n: int) -> None:
    z = norm.ppf(0.95)
    assert loss_bound(PairedCounts(n, 0, 0, 0)) == pytest.approx(z**2 / (n + z**2), rel=1e-9)


def test_smallest_sample_is_where_the_closed_form_passes() -> None:
    assert smallest_sample(0.01) == 268
    for margin in (0.005, 0.01, 0.05):
        least = smallest_sample(margin)
        assert loss_bound(PairedCounts(least, 0, 0, 0)) < margin <= loss_bound(PairedCounts(least - 1, 0, 0, 0))


@settings(max_examples=60, deadline=None)
@given(counts)
def test_at_the_bound_the_score_test_is_at_its_level(table: PairedCounts) -> None:
    """The bound, checked through the multinomial likelihood maximised numerically instead of Tango's formula."""
    bound = loss_bound(table)
    assert table.loss < bound <= 1.0

    def minus_log_likelihood(repair: float) -> float:
        breaking = repair + bound
        same = 1.0 - repair - breaking
        terms = [(table.repaired, repair), (table.broken, breaking), (table.n - table.repaired - table.broken, same)]
        return -sum(count * math.log(max(share, 1e-300)) for count, share in terms if count > 0)

    low, high = max(0.0, -bound), (1.0 - bound) / 2
    repair = minimize_scalar(minus_log_likelihood, bounds=(low, high), options={"xatol": 1e-12}).x
    variance = table.n * (2 * repair + bound - bound**2)
    score = (table.broken - table.repaired - table.n * bound) / math.sqrt(variance)
    assert score == pytest.approx(-norm.ppf(0.95), rel=2e-3)


def test_the_bound_of_a_complete_loss() -> None:
    assert loss_bound(PairedCounts(0, 0, 12, 0)) == 1.0
    with pytest.raises(InputError, match="at least 1"):
        loss_bound(PairedCounts(0, 0, 0, 0))


def test_sample_at_these_rates_is_the_smallest_that_would_do() -> None:
    assert sample_at_these_rates(PairedCounts(250, 0, 0, 0), 0.01) == 268
    assert sample_at_these_rates(PairedCounts(90, 0, 10, 0), 0.01) is None
    table = PairedCounts(248, 1, 1, 0)
    needed = sample_at_these_rates(table, 0.01)
    assert needed is not None
    times = math.ceil(needed / 250)
    assert loss_bound(PairedCounts(248 * times, times, times, 0)) < 0.01


# --- shares ---


def test_shares_carry_the_intervals_of_the_textbooks() -> None:
    exact, wilson = Share.of(8, 10, "exact"), Share.of(8, 10, "wilson")
    assert exact is not None
    assert wilson is not None
    # Clopper-Pearson and Wilson for 8 of 10, as in Newcombe 1998 and any table.
    assert (exact.low, exact.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert (wilson.low, wilson.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share.of(0, 0, "exact") is None


# --- the verdict ---

GOOD_FIELD = PairedCounts(both_right=50, repaired=31, broken=4, both_wrong=15)
SAME_REFERENCE = PairedCounts(both_right=900, repaired=5, broken=5, both_wrong=90)


def test_a_clear_repair_is_accepted_in_words_a_person_can_read() -> None:
    verdict = judge(sample(GOOD_FIELD), sample(SAME_REFERENCE), ["a", "b"])
    assert verdict.accepted
    assert verdict.reasons[0] == "field: 31 repaired, 4 broken of 100 (p = 1.7e-06)"
    assert verdict.reasons[1].startswith("reference: not worse by 1.0 points or more: 5 repaired, 5 broken of 1000")
    assert verdict.negative_flips == 4
    assert verdict.repair_rate is not None
    assert (verdict.repair_rate.count, verdict.repair_rate.total) == (31, 46)
    assert verdict.field.champion_accuracy.value == pytest.approx(0.54)
    assert verdict.field.candidate_accuracy.value == pytest.approx(0.81)


def test_no_better_in_the_field_is_rejected() -> None:
    verdict = judge(sample(PairedCounts(60, 8, 6, 26)), sample(SAME_REFERENCE), ["a", "b"])
    assert not verdict.accepted
    assert not verdict.field.passed
    assert verdict.reference.passed
    assert verdict.reasons[0] == (
        "field: cannot show the candidate is better: 8 repaired, 6 broken of 100 (p = 0.3953, needs p < 0.05)"
    )


def test_too_few_changes_to_show_anything_are_said_to_be() -> None:
    verdict = judge(sample(PairedCounts(60, 4, 0, 26)), sample(SAME_REFERENCE), ["a", "b"])
    assert "p = 0.0625, needs p < 0.05; fewer than 5 can never show it" in verdict.reasons[0]


def test_a_reference_too_small_to_judge_is_rejected_with_the_size_it_needs() -> None:
    verdict = judge(sample(GOOD_FIELD), sample(PairedCounts(230, 0, 0, 20)), ["a", "b"])
    assert not verdict.accepted
    assert verdict.reasons[1] == (
        "reference: cannot show non-inferiority within 1.0 points: bound 1.1 points from 250 inputs "
        "(0 repaired, 0 broken); needs at least 268"
    )


def test_a_worse_reference_is_rejected_and_no_sample_size_is_promised() -> None:
    verdict = judge(sample(GOOD_FIELD), sample(PairedCounts(900, 0, 40, 60)), ["a", "b"])
    assert not verdict.accepted
    assert "needs at least" not in verdict.reasons[1]


def test_a_class_that_loses_is_found_behind_a_good_average() -> None:
    # Two classes of 600: the first gains 20, the second loses 20.
    labels = np.repeat([0, 1], 600)
    champion, candidate = labels.copy(), labels.copy()
    champion[:20] = 1
    candidate[-20:] = 0
    verdict = judge(sample(GOOD_FIELD), Predictions(champion, candidate, labels), ["cat", "dog"])
    assert verdict.loss_bound < 0.01
    assert [one.judged for one in verdict.classes] == [True, True]
    assert [one.passed for one in verdict.classes] == [True, False]
    assert not verdict.accepted
    assert any(reason.startswith("reference, class dog: cannot show") for reason in verdict.reasons)
    assert "classes: 1 of 2 judged ones passed" in verdict.reasons


def test_classes_too_small_to_judge_are_named_and_never_passed() -> None:
    labels = np.repeat([0, 1], [990, 10])
    verdict = judge(sample(GOOD_FIELD), Predictions(labels, labels, labels), ["cat", "dog", "axolotl"])
    assert verdict.accepted
    assert [(one.judged, one.passed) for one in verdict.classes] == [(True, True), (False, False), (False, False)]
    assert verdict.classes[2].bound is None
    assert verdict.reasons[-1] == ("classes: too few reference inputs to judge, need 268 each: dog (10), axolotl (0)")


def test_nothing_is_rounded_before_a_test() -> None:
    # The bound of 268 equal answers is 0.99944 points: shown as 1.0, yet below the margin.
    verdict = judge(sample(GOOD_FIELD), sample(PairedCounts(268, 0, 0, 0)), ["a", "b"])
    assert verdict.reference.passed
    assert verdict.reasons[1].endswith("bound 1.0")
    assert not judge(sample(GOOD_FIELD), sample(PairedCounts(267, 0, 0, 0)), ["a", "b"]).reference.passed


def test_a_champion_without_mistakes_has_no_repair_rate() -> None:
    verdict = judge(sample(PairedCounts(100, 0, 0, 0)), sample(SAME_REFERENCE), ["a", "b"])
    assert verdict.repair_rate is None
    assert not verdict.accepted


def test_confusion_counts_true_class_by_answer() -> None:
    assert confusion(np.array([0, 2, 2, 1]), np.array([0, 2, 1, 1]), 3) == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_a_verdict_survives_json() -> None:
    verdict = judge(sample(GOOD_FIELD), sample(SAME_REFERENCE), ["a", "b"])
    assert json.loads(json.dumps(verdict.to_json()))["field"]["counts"]["repaired"] == 31


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (Predictions(np.zeros(2, int), np.zeros(3, int), np.zeros(2, int)), "champion 2, candidate 3, labels 2"),
        (Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int)), "at least 1 labelled input, got 0"),
        (Predictions(np.array([0]), np.array([5]), np.array([0])), "candidate from 5 to 5"),
        (Predictions(np.array([0]), np.array([0]), np.array([-1])), "labels from -1 to -1"),
    ],
)
def test_unusable_samples_are_refused(predictions: Predictions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(predictions, sample(SAME_REFERENCE), ["a", "b"])
    with pytest.raises(InputError, match=message):
        judge(sample(GOOD_FIELD), predictions, ["a", "b"])


@pytest.mark.parametrize("setting", [{"margin": 0.0}, {"alpha": 1.0}])
def test_margin_and_alpha_are_shares(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        judge(sample(GOOD_FIELD), sample(SAME_REFERENCE), ["a", "b"], **setting)
