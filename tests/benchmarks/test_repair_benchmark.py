from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.case import load_case
from benchmarks.network import ResNet8
from benchmarks.one_repair import Request, measure
from benchmarks.records import read_records, with_gaps
from benchmarks.repair import main, parse_budget
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, TabularInput

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


def request(case_file: Path, strategy: str, budget: int, keeps: list[str], **more: object) -> Request:
    base = Request(str(case_file), str(case_file.parent), strategy, "paper", budget, 0, keeps, rounds=1, epochs=1)
    return replace(base, **more)  # type: ignore[arg-type]


def test_the_benchmark_measures_in_processes_of_their_own_and_nothing_twice(
    case_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "out" / "repair.json"
    options = ["--strategy", "random", "--budget", "10%", "--seed", "0", "--epochs", "1"]
    options += ["--keep-reference", "strict,off", "--json", str(result), "--models", str(tmp_path)]
    assert main([str(case_file), *options, "--plots", str(tmp_path / "plots")]) == 0
    records = read_records(result)
    assert [(each.strategy, each.budget, each.labels_used, each.keep_reference) for each in records] == [
        ("random", 6, 6, "strict"),
        ("random", 6, 6, "off"),
    ]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"labels_bars.png", "bars_bars.png"}
    for each in records:
        assert each.field_before == records[0].field_before
        assert each.gap_recovered is None, "there is no full run to measure the gap by"
        # A training step, the answers on the training data, and the pool with its one copy; and a single input, to
        # count the model's classes.
        assert each.backward_per_input > 0.5
        inputs = each.backward_per_input * SIZES["field"] + SIZES["train"] + 2 * SIZES["field"] + 1
        assert each.forward_per_input * SIZES["field"] == pytest.approx(inputs)
        assert 10**7 < each.peak_memory_bytes < 10**11
    capfd.readouterr()
    assert main([str(case_file), *options]) == 0
    assert "1 of" not in capfd.readouterr().out, "everything was there already"
    assert read_records(result) == records


def test_every_recipe_and_rounds_are_measured(case_file: Path, tmp_path: Path) -> None:
    case = load_case(case_file, tmp_path)
    paper, strict = measure(case, request(case_file, "hybridrepair", 6, ["off", "strict"]))
    assert (paper.labels_used, paper.recipe, paper.keep_reference) == (6, "paper", "off")
    assert paper.seconds == strict.seconds, "one training serves both"
    assert paper.propagation_accuracy is None or 0 <= paper.propagation_accuracy <= 1
    (default,) = measure(case, request(case_file, "hybridrepair", 6, ["strict"], recipe="default", rounds=2))
    assert (default.labels_used, default.rounds, default.recipe) == (6, 2, "default")
    assert 0 < default.select_seconds < default.seconds


def test_repairs_at_a_time_are_the_same_as_one_after_the_other(case_file: Path, tmp_path: Path) -> None:
    options = ["--strategy", "random,bn_adapt", "--budget", "10%", "--epochs", "1", "--keep-reference", "off"]
    options += ["--models", str(tmp_path), "--device", "cpu"]
    both = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, jobs in zip(both, ("1", "2"), strict=True):
        assert main([str(case_file), *options, "--json", str(file), "--jobs", jobs]) == 0
    one, two = ({each.key: each.field_after for each in read_records(file)} for file in both)
    assert len(one) == 2
    assert one == two
    assert {each.device for each in read_records(both[0])} == {"cpu"}


def test_no_more_labels_are_given_than_the_budget(case_file: Path, tmp_path: Path) -> None:
    (record,) = measure(load_case(case_file, tmp_path), request(case_file, "bn_adapt", 0, ["off"]))
    assert record.labels_used == 0
    with pytest.raises(InputError, match="budget"):
        measure(load_case(case_file, tmp_path), request(case_file, "random", 0, ["off"]))


def test_gaps_are_measured_against_the_best_full_run(case_file: Path, tmp_path: Path) -> None:
    (one,) = measure(load_case(case_file, tmp_path), request(case_file, "bn_adapt", 0, ["off"]))
    base = replace(one, field_before=0.2, field_after=0.5, strategy="random")
    full = replace(base, strategy="full", field_after=0.8)
    better = [replace(full, recipe="default", seed=seed, field_after=after) for seed, after in ((0, 0.9), (1, 0.7))]
    strict = replace(full, keep_reference="strict", field_after=0.99)
    gaps = [each.gap_recovered for each in with_gaps([base, full, *better, strict])]
    assert gaps[0] == pytest.approx(0.3 / 0.6)
    assert with_gaps([base])[0].gap_recovered is None
    assert with_gaps([base, replace(full, field_after=0.1)])[0].gap_recovered is None, "the ceiling is under the floor"


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('[{"case": "x"}]')
    with pytest.raises(InputError, match="not a file of repair records"):
        read_records(tmp_path / "other.json")


def test_a_table_case_is_cut_in_time_and_its_holdout_is_sealed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        f"{half}_x": random.normal(size=(size, 3)).astype(np.float32) for half, size in (("train", 50), ("test", 60))
    }
    labels = {f"{half}_y": (arrays[f"{half}_x"][:, 0] > 0).astype(np.int64) for half in ("train", "test")}
    path = tmp_path / "table.npz"
    np.savez(path, **arrays, **labels, columns=np.array(["a", "b", "c", "class"]))  # type: ignore[arg-type]
    case = load_case(path, tmp_path / "models")
    assert {part: len(rows) for part, rows in case.parts.items()} == {
        "train": 40,
        "val": 10,
        "field": 20,
        "holdout": 10,
    }
    rows = {part: {tuple(row) for row in case.parts[part].x.tolist()} for part in case.parts}
    assert not any(rows[one] & rows[other] for one, other in combinations(rows, 2))
    assert isinstance(case.model.input, TabularInput)
    assert case.model.input.features == ("a", "b", "c")
    (record,) = measure(case, replace(request(path, "random", 4, ["off"])))
    assert record.labels_used == 4


def test_a_model_beside_the_case_is_the_one_that_is_used(case_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = ResNet8(1, 3)
    checkpoint = {"state_dict": network.state_dict(), "mean": [0.25], "std": [0.5], "channels": 1, "classes": 3}
    torch.save({**checkpoint, "width": 32}, case_file.with_suffix(".pt"))
    case = load_case(case_file, tmp_path / "models")
    assert torch.equal(case.model.module.state_dict()["conv.weight"], network.state_dict()["conv.weight"])
    assert isinstance(case.model.input, ImageInput)
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
