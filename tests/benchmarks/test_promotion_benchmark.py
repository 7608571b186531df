"""The promotion benchmark counts what it says it counts; and a small run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.promotion_load import Switched, answers_by_stopped_versions, late_answers, promotions, way
from benchmarks.promotion_parts import Answer

SWITCHES = [
    Switched(version=2, asked=10.0, done=14.0, stopped=15.0, former=1),
    Switched(version=3, asked=20.0, done=24.0, stopped=25.0, former=2),
    Switched(version=2, asked=30.0, done=34.0, stopped=35.0, former=3),
]


def answer(began: float, ended: float, version: int | None) -> Answer:
    return Answer("name", began, ended, None if version is None else version % 4)


def test_the_way_has_as_many_steps_up_and_down_as_asked_for() -> None:
    for ups, downs in ((20, 5), (2, 1), (1, 1), (3, 0)):
        steps = [after - before for before, after in zip([1, *way(ups, downs)], way(ups, downs), strict=False)]
        assert (steps.count(1), steps.count(-1), len(steps)) == (ups, downs, ups + downs)
        assert min(way(ups, downs)) >= 1


def test_an_answer_by_a_version_that_takes_no_traffic_is_found() -> None:
    right = [
        answer(5, 6, 1),  # before anything
        answer(13, 13.5, 1),  # the new server is being started
        answer(13.9, 16, 1),  # on its way while the switch was made
        answer(13.9, 16, 2),
        answer(16, 17, 2),
        answer(40, 41, 2),  # the roll-back
        answer(40, 41, None),  # failed: counted elsewhere
    ]
    assert answers_by_stopped_versions(right, SWITCHES) == 0
    wrong = [answer(16, 17, 1), answer(5, 6, 2), answer(26, 27, 2), answer(36, 37, 3)]
    assert answers_by_stopped_versions([*right, *wrong], SWITCHES) == 4


def test_an_answer_of_the_former_version_after_the_switch_is_found() -> None:
    assert late_answers([answer(14.5, 14.6, 2), answer(13.5, 14.6, 1), answer(20.5, 21, 2)], SWITCHES) == 0
    assert late_answers([answer(14.5, 14.6, 1), answer(24.1, 24.2, 2), answer(34.5, 35, 3)], SWITCHES) == 3


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_promotion_and_a_roll_back_under_load(tmp_path: Path) -> None:
    found = promotions(tmp_path, 1, 1, clients=2)
    assert found["requests"] > 50
    nothing = ("failed", "answers_of_a_stopped_version", "answers_of_the_former_version_after_the_switch")
    assert {name: found[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert (found["wrong_version_tags"], found["answered_not_logged"], found["counted_as_dropped"]) == (0, 0, 0)
