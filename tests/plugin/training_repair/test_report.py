"""Statistics of a report, against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fieldrepair_plugin.training_repair.report import OverSeeds, signed_ranks


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([0.1, 0.2, 0.3, 0.15, 0.05], 1 / 32),
        ([-0.1, -0.2, -0.3], 1.0),
        ([0.1, 0.2, -0.3], 0.625),  # ranks 1 + 2 against 3: 5 of 8 sign patterns reach 3
        ([0.2], 0.5),
        ([-0.2], 1.0),
    ],
)
def test_signed_ranks_of_few_differences_are_exact(differences: list[float], p_value: float) -> None:
    assert signed_ranks(np.array(differences)) == pytest.approx(p_value)


def test_where_nothing_differs_there_is_no_test() -> None:
    assert signed_ranks(np.zeros(5)) is None
    assert OverSeeds((0.5, 0.6), (0.5, 0.6)).p_value is None
    assert OverSeeds((0.5,), (0.7,)).p_value == 0.5
