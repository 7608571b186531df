"""Shares and columns that moved: against SciPy's own tests, and against what must hold whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.feature_changes import feature_changes
from fieldrepair_monitoring.share_changes import share_changes


def test_a_class_that_became_frequent_comes_first_with_its_shares() -> None:
    changes = share_changes(("cat", "dog", "owl"), np.array([100, 100, 100]), np.array([10, 20, 70]))
    assert [change.name for change in changes] == ["owl", "cat", "dog"]
    owl = changes[0]
    assert (owl.reference_share, owl.field_share) == (pytest.approx(1 / 3), 0.7)
    assert owl.change == pytest.approx(0.7 - 1 / 3)
    assert owl.moved
    assert owl.index == 2
    assert sum(change.change for change in changes) == pytest.approx(0)


def test_the_p_values_are_fishers_adjusted_by_benjamini_and_hochberg() -> None:
    reference, field = np.array([40, 30, 20, 10]), np.array([9, 8, 2, 11])
    changes = sorted(share_changes(("a", "b", "c", "d"), reference, field), key=lambda change: change.index)
    raw = [
        float(stats.fisher_exact([[int(f), 30 - int(f)], [int(r), 100 - int(r)]])[1])
        for r, f in zip(reference, field, strict=True)
    ]
    order = np.argsort(raw)
    by_hand = np.empty(4)
    least = 1.0
    for rank in range(4, 0, -1):  # the definition: from the largest down, never rising
        least = min(least, raw[int(order[rank - 1])] * 4 / rank)
        by_hand[order[rank - 1]] = least
    assert [change.p_value for change in changes] == pytest.approx(by_hand.tolist())


def test_among_a_hundred_classes_chance_alone_rarely_moves_one() -> None:
    generator = np.random.default_rng(5)
    names = tuple(map(str, range(100)))
    false_alarms = sum(
        any(
            change.moved
            for change in share_changes(
                names, generator.multinomial(1000, [0.01] * 100), generator.multinomial(200, [0.01] * 100)
            )
        )
        for _ in range(40)
    )
    assert false_alarms <= 6, "of 40 with nothing to find; at most one in 20 is expected"


@pytest.mark.parametrize(
    ("reference", "field"), [([1, 2], [1, 2, 3]), ([0, 0, 0], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])], ids=str
)
def test_samples_that_cannot_be_compared_are_refused(reference: list[int], field: list[int]) -> None:
    with pytest.raises(DetectorError, match="two samples over the same categories, got 3 names"):
        share_changes(("a", "b", "c"), np.array(reference), np.array(field))


def test_the_columns_that_moved_come_first_each_with_the_test_that_fits_it() -> None:
    generator = np.random.default_rng(0)
    reference = np.column_stack([generator.normal(size=500), generator.integers(0, 3, 500), generator.normal(size=500)])
    field = np.column_stack([generator.normal(1.5, 1, size=200), np.full(200, 2), generator.normal(size=200)])
    changes = feature_changes(("price", "day", "noise"), reference, field)
    by_name = {change.name: change for change in changes}
    assert changes[-1].name == "noise"
    assert [by_name[name].moved for name in ("price", "day", "noise")] == [True, True, False]
    assert [by_name[name].test for name in ("price", "day", "noise")] == ["ks", "chi2", "ks"]
    assert by_name["price"].change == pytest.approx(1.5, abs=0.2)
    assert by_name["price"].statistic == pytest.approx(
        stats.ks_2samp(reference[:, 0].astype(float), field[:, 0].astype(float)).statistic
    )


def test_a_column_without_any_variation_has_not_moved() -> None:
    [change] = feature_changes(("always",), np.ones((50, 1)), np.ones((50, 1)))
    assert (change.moved, change.change, change.p_value) == (False, 0.0, 1.0)


def test_a_value_never_seen_before_in_a_constant_column_has() -> None:
    [change] = feature_changes(("flag",), np.zeros((200, 1)), np.ones((50, 1)))
    assert change.moved


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DetectorError, match=r"2 columns, got reference \(9, 2\) and field \(9, 3\)"):
        feature_changes(("a", "b"), np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(DetectorError, match="9 reference and 0 field inputs"):
        feature_changes(("a", "b"), np.zeros((9, 2)), np.zeros((0, 2)))
