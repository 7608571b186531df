from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.case import load_case
from benchmarks.network import ResNet8
from benchmarks.repair import main, parse_budget
from fieldrepair_service.errors import InputError

SIZES = {"train": 60, "val": 30, "field": 60, "holdout": 30}


@pytest.fixture
def case_file(tmp_path: Path) -> Path:
    """A made case of three classes: bars at three heights, bright in the old world and dim in the field."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for part, size in SIZES.items():
        labels = generator.integers(0, 3, size)
        images = generator.integers(0, 40, (size, 12, 12))
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 3] += 200 if part in ("train", "val") else 60
        arrays[f"{part}_x"], arrays[f"{part}_y"] = images.astype(np.uint8), labels.astype(np.int64)
    path = tmp_path / "bars.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_case_without_a_model_gets_one_and_keeps_it(case_file: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = load_case(case_file, models)
    stored = (models / "bars.pt").read_bytes()
    second = load_case(case_file, models)
    assert (models / "bars.pt").read_bytes() == stored
    for name, value in first.model.module.state_dict().items():
        assert torch.equal(value, second.model.module.state_dict()[name])
    assert {part: len(first.parts[part]) for part in SIZES} == SIZES
    assert first.parts["field"].x.shape == (60, 1, 12, 12)


def test_the_benchmark_writes_one_record_per_setting_and_spends_no_more_than_the_budget(
    case_file: Path, tmp_path: Path
) -> None:
    result = tmp_path / "out" / "repair.json"
    options = ["--budget", "10%,4", "--seed", "0", "--epochs", "1", "--keep-reference", "strict,off"]
    assert main([str(case_file), *options, "--json", str(result), "--models", str(tmp_path)]) == 0
    records = json.loads(result.read_text())
    assert [(record["budget"], record["keep_reference"]) for record in records] == [
        (6, "strict"),
        (6, "off"),
        (4, "strict"),
        (4, "off"),
    ]
    for record in records:
        assert record["labels_used"] == record["budget"]
        assert 0 <= record["field_after"] <= 1
        assert record["field_before"] == records[0]["field_before"]


def test_a_model_beside_the_case_is_the_one_that_is_used(case_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = ResNet8(1, 3)
    checkpoint = {"state_dict": network.state_dict(), "mean": [0.25], "std": [0.5], "channels": 1, "classes": 3}
    torch.save({**checkpoint, "width": 32}, case_file.with_suffix(".pt"))
    case = load_case(case_file, tmp_path / "models")
    assert torch.equal(case.model.module.state_dict()["conv.weight"], network.state_dict()["conv.weight"])
    assert case.model.input.mean == (0.25,)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("case", ["mnist_writers", "cifar10_lowcontrast"])
def test_the_real_cases_load_with_their_models(data_dir: Path, tmp_path: Path, case: str) -> None:
    loaded = load_case(data_dir / f"{case}.npz", tmp_path)
    assert set(loaded.parts) == {"train", "val", "field", "holdout"}
    assert not list(tmp_path.iterdir())


def test_what_is_no_case_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "half.npz"
    np.savez(path, train_x=np.zeros((2, 4, 4), np.uint8), train_y=np.zeros(2, np.int64))
    with pytest.raises(InputError, match="lacks val_x, val_y, field_x, field_y, holdout_x, holdout_y"):
        load_case(path, tmp_path)


def test_a_budget_is_a_share_of_the_pool_or_a_number() -> None:
    assert parse_budget("5%", 4000) == 200
    assert parse_budget("30", 4000) == 30
    with pytest.raises(InputError, match=r"1\.\.40 labels"):
        parse_budget("41", 40)
