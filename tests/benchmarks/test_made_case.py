from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.case import load_case
from benchmarks.made_case import SHIFTS, main, make_case
from fieldrepair_service.errors import InputError

SIZES = {"train": 40, "val": 10, "field": 12, "holdout": 8}


def case_file(folder: Path, shape: tuple[int, ...]) -> Path:
    """Random images; no model beside."""
    generator = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part, size in SIZES.items():
        arrays[f"{part}_x"] = generator.integers(20, 230, (size, *shape)).astype(np.uint8)
        arrays[f"{part}_y"] = generator.integers(0, 3, size)
    path = folder / "random.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("shape", [(12, 12), (12, 12, 3)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_made_case_shifts_field_and_holdout_and_nothing_else(
    shift: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = case_file(tmp_path, shape)
    made = make_case(path, shift, 0, tmp_path / "made")
    assert made.name == f"random_{shift}.npz"
    with np.load(path) as before, np.load(made) as after:
        assert sorted(after.files) == sorted(before.files)
        for name in before.files:
            assert after[name].dtype == before[name].dtype
            assert after[name].shape == before[name].shape
            shifted = name in ("field_x", "holdout_x")
            assert np.array_equal(after[name], before[name]) is not shifted, name


def test_one_seed_makes_one_case_and_another_seed_another(tmp_path: Path) -> None:
    path = case_file(tmp_path, (12, 12))
    images: list[npt.NDArray[np.uint8]] = []
    for number, seed in enumerate((0, 0, 1)):
        with np.load(make_case(path, "occluded", seed, tmp_path / str(number))) as file:
            images.append(file["field_x"])
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    blacked_out = (images[0] == 0).reshape(len(images[0]), -1).sum(axis=1)
    assert (blacked_out == 16).all(), "a rectangle of four by four of every image, and the images had no black"


def test_the_model_under_repair_stays_the_same(tmp_path: Path) -> None:
    path = case_file(tmp_path, (12, 12))
    load_case(path, tmp_path)  # writes random.pt beside it
    assert main([str(path), "--shift", "inverted,dark", "--to", str(tmp_path / "made")]) == 0
    for shift in ("inverted", "dark"):
        made = tmp_path / "made" / f"random_{shift}.pt"
        assert made.read_bytes() == path.with_suffix(".pt").read_bytes()


def test_an_unknown_shift_and_a_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a shift out of blur, .*; got fog"):
        make_case(case_file(tmp_path, (12, 12)), "fog", 0, tmp_path)
    table = tmp_path / "table.npz"
    np.savez(table, train_x=np.zeros((3, 2)), train_y=np.zeros(3))
    with pytest.raises(InputError, match="not an image case"):
        make_case(table, "blur", 0, tmp_path)
