"""Pictures are shown pixel by pixel, beside one another, with what is to be said about them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.history_plot import history_plot
from fieldrepair_monitoring.image_grid import TILE, Tile, image_grid
from fieldrepair_service.case_book import WindowRecord


def opened(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    picture.load()
    return picture


def test_small_pictures_are_enlarged_without_blur() -> None:
    checks = (np.indices((1, 8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    sheet = np.asarray(opened(image_grid([[Tile(checks), Tile(checks)]])).convert("L"))
    factor = TILE // 8
    square = sheet[10 : 10 + 8 * factor, 10 : 10 + 8 * factor]
    assert (square == checks[0].repeat(factor, axis=0).repeat(factor, axis=1)).all()
    assert set(np.unique(sheet).tolist()) == {0, 255}


def test_colours_stay_what_they_are_and_large_pictures_are_made_smaller() -> None:
    orange = np.broadcast_to(np.array([250, 120, 3], np.uint8).reshape(3, 1, 1), (3, 600, 900))
    sheet = opened(image_grid([[Tile(orange)]]))
    assert sheet.width < 300
    assert sheet.getpixel((40, 40)) == (250, 120, 3)


def test_captions_and_frames_are_drawn_and_long_ones_cut_off() -> None:
    blank = np.full((1, 8, 8), 255, np.uint8)
    plain = opened(image_grid([[Tile(blank, ("",)), Tile(blank, ("",))]]))
    said = opened(
        image_grid([[Tile(blank, ("a very long name of a class that fits nowhere",), framed=True), Tile(blank, ("",))]])
    )
    assert said.size == plain.size
    changed = np.argwhere(np.asarray(said) != np.asarray(plain))
    assert len(changed)
    assert changed[:, 1].max() < 10 + TILE + 10, "nothing runs into the next picture"
    below = changed[changed[:, 0] > 10 + 8 * (TILE // 8) + 3]
    assert len(below), "the caption"


def test_the_same_pictures_give_the_same_file() -> None:
    tile = Tile(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), ("one",))
    assert image_grid([[tile]], headings=("what",)) == image_grid([[tile]], headings=("what",))


def test_nothing_to_show_and_pictures_of_no_kind_are_refused() -> None:
    with pytest.raises(DetectorError, match="at least one picture"):
        image_grid([])
    with pytest.raises(DetectorError, match=r"1 or 3 channels, got shape \(2, 8, 8\)"):
        image_grid([[Tile(np.zeros((2, 8, 8), np.uint8))]])


def window(index: int, statistic: float, **more: float) -> WindowRecord:
    return WindowRecord(
        index=index,
        first_timestamp_ms=index * 60_000,
        last_timestamp_ms=(index + 1) * 60_000,
        size=100,
        detector="mmd",
        statistic=statistic,
        threshold=0.02,
        p_value=0.5,
        drifted=statistic > 0.02,
        **more,  # type: ignore[arg-type]
    )


def test_score_and_accuracy_over_time_are_drawn() -> None:
    windows = [window(i, 0.01, estimated_accuracy=0.97) for i in range(10)]
    shifted = [window(i, 0.2, estimated_accuracy=0.6) for i in range(10, 13)]
    plain = history_plot([*windows, *shifted], title="digits", alert_index=None, reference_accuracy=None)
    marked = history_plot([*windows, *shifted], title="digits", alert_index=11, reference_accuracy=0.97)
    assert opened(plain).size == opened(marked).size == (900, 540)
    assert plain != marked
    assert plain == history_plot([*windows, *shifted], title="digits", alert_index=None, reference_accuracy=None)
    first = history_plot([window(0, 0.3)], title="no estimate yet", alert_index=0, reference_accuracy=0.9)
    assert opened(first).size == (900, 540)


def test_statistics_are_drawn_in_units_of_their_thresholds() -> None:
    """The clearest detector differs from window to window: 87 of one and 0.9 of another say nothing side by side."""
    one, other = window(0, 0.05), dataclasses.replace(window(1, 5.0), detector="trend", threshold=2.0)
    assert (one.times_threshold, other.times_threshold) == (2.5, 2.5)
    same = dataclasses.replace(other, statistic=0.05, threshold=0.02)
    pictures = [
        history_plot([one, each], title="digits", alert_index=None, reference_accuracy=0.97) for each in (other, same)
    ]
    assert pictures[0] == pictures[1]


def test_an_interval_and_labels_are_drawn_where_there_are_any() -> None:
    bare = [window(i, 0.01, estimated_accuracy=0.9) for i in range(5)]
    full = [
        window(i, 0.01, estimated_accuracy=0.9, accuracy_low=0.8, accuracy_high=0.95, labelled_accuracy=0.85)
        for i in range(5)
    ]
    drawn = [history_plot(each, title="digits", alert_index=None, reference_accuracy=0.97) for each in (bare, full)]
    assert drawn[0] != drawn[1]


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(DetectorError, match="at least one window"):
        history_plot([], title="", alert_index=None, reference_accuracy=None)
