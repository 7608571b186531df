from __future__ import annotations

from dataclasses import replace

import numpy as np

from examples.digits.data import SERVED_AS, SIZES, RemountedScanner, split_scans
from examples.digits.report import Summary

CAME_TRUE = Summary(
    field_accuracy_before=0.55,
    field_accuracy_after=0.80,
    reference_accuracy_before=0.99,
    reference_accuracy_after=0.985,
    field_inputs=500,
    labels_for_repair=25,
    labels_for_acceptance=100,
    inputs_until_alert=200,
)


def test_no_scan_is_in_two_parts() -> None:
    parts = split_scans()
    assert {name: len(part) for name, part in parts.items()} == SIZES
    assert sum(SIZES.values()) == 1797
    seen: dict[bytes, str] = {}
    for name, part in parts.items():
        for image in part.images:
            # The data set holds a few equal scans; one part may hold both, two parts may not.
            assert seen.setdefault(image.tobytes(), name) == name


def test_the_remounted_scanner_repeats_itself_and_delivers_what_a_labeller_sees() -> None:
    images = split_scans()["holdout"].images[:20]
    scanner = RemountedScanner()
    shifted = scanner.scan(images, seed=3)
    np.testing.assert_array_equal(shifted, scanner.scan(images, seed=3))
    assert not np.array_equal(shifted, scanner.scan(images, seed=4))
    seen = SERVED_AS.from_pixels(SERVED_AS.to_pixels(shifted)).astype(np.float32)
    np.testing.assert_allclose(seen, shifted, atol=1e-7)


def test_a_story_that_came_true_has_no_shortfall() -> None:
    assert CAME_TRUE.shortfalls() == []


def test_each_part_of_the_story_can_fall_short() -> None:
    for summary, words in (
        (replace(CAME_TRUE, field_accuracy_after=0.69), "it rose by 14.0"),
        (replace(CAME_TRUE, reference_accuracy_after=0.975), "it fell by 1.5"),
        (replace(CAME_TRUE, labels_for_repair=26), "it asked for 5.2 %"),
        (replace(CAME_TRUE, inputs_until_alert=700), "it took 700"),
        (replace(CAME_TRUE, inputs_until_alert=0), "it took 0"),
        (replace(CAME_TRUE, false_alerts=1), "there were 1"),
        (replace(CAME_TRUE, failed_requests=3), "3 did"),
        (replace(CAME_TRUE, field_accuracy_after=float("nan")), "it rose by nan"),
    ):
        [sentence] = summary.shortfalls()
        assert words in sentence
