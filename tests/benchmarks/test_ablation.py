"""The ablation: one idea at a time, judged on inputs that no label was asked for."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ablation
from benchmarks.network import ResNet8
from fieldrepair_plugin.default_settings import DefaultSettings


def test_every_variant_differs_from_the_default_and_from_every_other() -> None:
    known = ablation.variants()
    assert known["default"] == DefaultSettings()
    assert len({repr(own) for own in known.values()}) == len(known)


def test_a_numeric_or_switched_idea_changes_one_setting_only() -> None:
    # Statistics and weights are kept per choice of the user; there one idea changes all three.
    grouped = {"strict", "balanced", "off"}
    # Models without batch norm have numbers of their own; there one idea changes both.
    pairs = [{name, f"{name}_without_batch_norm"} for name in ("learning_rate", "unlabelled_batch")]
    default = DefaultSettings()
    for name, own in ablation.variants().items():
        changed = {field.name for field in fields(own) if getattr(own, field.name) != getattr(default, field.name)}
        assert name == "default" or len(changed) == 1 or changed <= grouped or changed in pairs, (name, changed)


def test_trials_are_measured_on_inputs_without_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    sizes = {"train": 40, "val": 20, "field": 40, "holdout": 20}
    arrays = {f"{part}_x": random.integers(0, 255, (size, 12, 12)).astype(np.uint8) for part, size in sizes.items()}
    arrays |= {f"{part}_y": random.integers(0, 3, size) for part, size in sizes.items()}
    np.savez(tmp_path / "noise.npz", **arrays)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = ResNet8(1, 3, 4).state_dict()
    torch.save(
        {"state_dict": state, "mean": [0.5], "std": [0.3], "channels": 1, "classes": 3, "width": 4},
        tmp_path / "noise.pt",
    )
    own = DefaultSettings(steps_least=2, steps_most=2, unlabelled_batch=8, replay_batch=8, labelled_batch=4)
    monkeypatch.setattr(ablation, "variants", lambda: {"default": own})
    options = ["--budget", "25", "--part", "dev,holdout", "--epochs", "1", "--json", str(tmp_path / "out.json")]
    for _ in range(2):  # records are added
        assert ablation.main([str(tmp_path / "noise.npz"), *options]) == 0
    trials = json.loads((tmp_path / "out.json").read_text())
    assert [(each["part"], each["inputs"], each["budget"]) for each in trials] == [
        ("dev", 30, 10),
        ("holdout", 20, 10),
    ] * 2
    assert trials[0]["field_after"] == trials[2]["field_after"], "one seed, one result"
    assert "default" in capsys.readouterr().out
