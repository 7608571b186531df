from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldrepair_monitoring.errors import ReferenceSetError
from fieldrepair_monitoring.reference import Reference


def arrays(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "train_x": generator.random((6, 1, 4, 4), dtype=np.float32),
        "train_y": np.arange(6) % 3,
        "val_x": generator.random((5, 1, 4, 4), dtype=np.float32),
        "val_y": np.arange(5) % 3,
        **changes,
    }


def test_parts_left_out_are_the_original_world() -> None:
    reference = Reference(**arrays(train_y=np.arange(6, dtype=np.uint8)))
    assert reference.shape == (1, 4, 4)
    assert reference.worlds == (0,)
    assert reference.train_world.tolist() == [0] * 6
    assert reference.val_world.tolist() == [0] * 5
    assert reference.normal_x.shape == (0, 1, 4, 4)
    assert reference.train_y.dtype == np.int64


def test_an_npz_gives_back_what_was_saved(tmp_path: Path) -> None:
    saved = Reference(
        **arrays(
            train_world=np.array([0, 0, 0, 0, 1, 1]),
            val_world=np.array([0, 0, 0, 1, 2]),
            normal_x=np.ones((2, 1, 4, 4), np.float32),
            normal_world=np.array([1, 2]),
        )
    )
    saved.save_npz(tmp_path / "reference.npz")
    loaded = Reference.load_npz(tmp_path / "reference.npz")
    assert loaded.worlds == (0, 1, 2)
    for name in Reference.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert [file.name for file in tmp_path.iterdir()] == ["reference.npz"], "no draft is left behind"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_x": np.zeros((6,))},
            r"train_x must be \(n, \*served shape\) with n >= 1, got an array of shape \(6,\)",
        ),
        ({"val_x": np.zeros((0, 1, 4, 4))}, r"val_x must be .* got an array of shape \(0, 1, 4, 4\)"),
        ({"train_x": np.full((6, 1, 4, 4), "a")}, "train_x must hold numbers, got dtype <U1"),
        ({"val_x": np.zeros((5, 4, 4))}, r"val_x holds instances of shape \(4, 4\), train_x of shape \(1, 4, 4\)"),
        ({"normal_x": np.zeros((1, 2)), "normal_world": np.ones(1, int)}, r"normal_x holds instances of shape \(2,\)"),
        ({"train_x": np.where(np.arange(96).reshape(6, 1, 4, 4) == 40, np.nan, 0)}, "finite, but instance 2 holds NaN"),
        (
            {"val_y": np.arange(4)},
            r"val_y must hold one whole number for each of the 5 instances of val_x, got .*\(4,\)",
        ),
        ({"train_y": np.zeros(6)}, "train_y must hold whole numbers, got dtype float64"),
        ({"train_y": np.array([0, 1, 2, -1, 0, 1])}, "train_y must not be negative, got -1"),
        ({"val_world": np.array([0, 0, 0, 0, 2])}, r"worlds must be numbered 0, 1, 2, ... without gaps, got \[0, 2\]"),
        (
            {"normal_x": np.zeros((1, 1, 4, 4)), "normal_world": np.zeros(1, int)},
            "normal_world must be at least 1, got 0",
        ),
        ({"normal_x": np.zeros((2, 1, 4, 4)), "normal_world": np.ones(1, int)}, "each of the 2 instances of normal_x"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReferenceSetError, match=message):
        Reference(**arrays(**changes))


def test_a_file_without_labels_is_told_what_labels_are(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, **{name: value for name, value in arrays().items() if name.endswith("_x")})
    with pytest.raises(ReferenceSetError, match=r"lacks train_y, val_y \(found: train_x, val_x\); .* needs labels"):
        Reference.load_npz(path)


def test_a_file_that_is_no_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceSetError, match=r"reference file .*absent.npz does not exist"):
        Reference.load_npz(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(
        ReferenceSetError, match=r"cannot read .*text.npz as an .npz with train_x, train_y, val_x, val_y"
    ):
        Reference.load_npz(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ReferenceSetError, match=r"single array \(.npy\)"):
        Reference.load_npz(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", **arrays(train_y=np.array([None] * 6, dtype=object)))
    with pytest.raises(ReferenceSetError, match="allow_pickle"):
        Reference.load_npz(tmp_path / "objects.npz")
    whole = tmp_path / "whole.npz"
    np.savez(whole, **arrays())
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ReferenceSetError, match=r"cannot read .*cut.npz"):
        Reference.load_npz(tmp_path / "cut.npz")
    np.savez(tmp_path / "misfit.npz", **arrays(val_y=np.arange(4)))
    with pytest.raises(ReferenceSetError, match=r"misfit.npz: val_y must hold one whole number"):
        Reference.load_npz(tmp_path / "misfit.npz")
