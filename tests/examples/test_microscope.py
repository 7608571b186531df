from __future__ import annotations

import numpy as np

from examples.microscope.data import SCALE, feature_names, rescaled, split_rows


def test_parts_share_no_row_and_the_scale_touches_lengths_and_areas_only() -> None:
    parts = split_rows()
    assert {name: len(part.labels) for name, part in parts.items()} == {
        "train": 200, "validation": 129, "before": 60, "after": 180,
    }  # fmt: skip
    rows = np.concatenate([part.rows for part in parts.values()])
    assert len({row.tobytes() for row in rows}) == 569
    ratio = dict(zip(feature_names(), np.median(rescaled(rows) / np.where(rows == 0, 1, rows), axis=0), strict=True))
    assert ratio["mean radius"] == np.float32(SCALE)
    assert abs(ratio["worst area"] - SCALE**2) < 1e-6
    assert ratio["mean texture"] == 1.0
