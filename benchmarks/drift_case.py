"""What the drift benchmark measures on: features of an image case or of the electricity market, computed once.

The validation part is split. Two thirds are what the monitor would be handed over (reference and labels); unchanged
traffic is drawn from the other third, which neither a detector nor an estimate has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.case import load_case
from fieldrepair_monitoring.features import Features, FloatArray
from fieldrepair_monitoring.served_model import ServedModel, to_scores
from fieldrepair_service.errors import InputError

IntArray = npt.NDArray[np.int64]

TRAINING_SAMPLE = 2000
WINDOW = 500
"""Inputs in a window, where a case has them."""


@dataclass(frozen=True)
class Labelled:
    """Features of some inputs and their labels."""

    features: Features
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: npt.NDArray[np.integer[Any]]) -> Labelled:
        """The chosen inputs only."""
        return Labelled(self.features.take(which), self.labels[which])

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the model's answer is right."""
        return self.features.scores.argmax(axis=1) == self.labels


@dataclass(frozen=True)
class DriftCase:
    """A world, what it shifted to, and a model's view of both."""

    name: str
    training: FloatArray
    """``(t, d)`` embeddings of inputs the model was trained on."""
    validation: Labelled
    """The old world; never trained on."""
    shifted: Labelled
    """In the order it comes in."""

    @property
    def tabular(self) -> bool:
        """Whether the inputs are rows of a table."""
        return self.validation.features.rows is not None

    def split(self, seed: int, reference_size: int) -> tuple[Labelled, Labelled]:
        """Reference (at most ``reference_size``) and unchanged traffic: two thirds of the validation part and one.

        Where a third is less than a window, traffic gets a window's worth, but never more than half.
        """
        order = np.random.default_rng([seed, len(self.validation)]).permutation(len(self.validation))
        end = len(order) - max(len(order) // 3, min(WINDOW, len(order) // 2))
        return self.validation.take(order[:end][:reference_size]), self.validation.take(order[end:])


def load_drift_case(path: Path, models: Path) -> DriftCase:
    """Read a case and run its model on all of it.

    Args:
        path: ``NAME.npz``: an image case, or a table with ``train_x, train_y, test_x, test_y``.
        models: where a model that had to be trained is kept.

    Raises:
        InputError: the file is neither.
    """
    with np.load(path, allow_pickle=False) as file:
        if "test_x" in file.files:
            return _tabular(path.stem, *(file[name] for name in ("train_x", "train_y", "test_x", "test_y")))
    case = load_case(path, models)
    model = ServedModel(case.model.module, case.model)
    train, val, field, holdout = (case.parts[part] for part in ("train", "val", "field", "holdout"))
    chosen = np.random.default_rng(0).permutation(len(train))[:TRAINING_SAMPLE]
    shifted_x, shifted_y = np.concatenate([field.x, holdout.x]), np.concatenate([field.y, holdout.y])
    order = np.random.default_rng(1).permutation(len(shifted_y))
    return DriftCase(
        path.stem,
        model.embeddings(train.x[chosen]),
        Labelled(model.features(val.x), val.y),
        Labelled(model.features(shifted_x[order]), shifted_y[order]),
    )


def _tabular(name: str, train_x: FloatArray, train_y: IntArray, test_x: FloatArray, test_y: IntArray) -> DriftCase:
    """A table in time order: two thirds of the training rows train a small network, at random; the rest validate."""
    if train_x.ndim != 2 or len(train_x) != len(train_y) or train_x.shape[1] != test_x.shape[1]:
        raise InputError(f"{name}: expected rows with a label each, got {train_x.shape} with {len(train_y)} labels")
    order = np.random.default_rng(0).permutation(len(train_x))
    fitted, held = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
    mean, std = train_x[fitted].mean(axis=0), train_x[fitted].std(axis=0) + 1e-6
    network = _train(torch.from_numpy((train_x[fitted] - mean) / std), torch.from_numpy(train_y[fitted]))

    def features(rows: FloatArray) -> Features:
        with torch.inference_mode():
            hidden = network[:-1](torch.from_numpy(((rows - mean) / std).astype(np.float32)))
            outputs = network[-1](hidden).numpy()
        return Features(outputs, to_scores(outputs, "logits"), hidden.numpy(), rows.astype(np.float32))

    return DriftCase(
        name,
        features(train_x[fitted[:TRAINING_SAMPLE]]).embeddings,
        Labelled(features(train_x[held]), train_y[held].astype(np.int64)),
        Labelled(features(test_x), test_y.astype(np.int64)),
    )


def _train(x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, int(y.max()) + 1)
        )
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(15):
            order = torch.randperm(len(x))
            for start in range(0, len(x), 64):
                batch = order[start : start + 64]
                optimiser.zero_grad()
                F.cross_entropy(network(x[batch]), y[batch]).backward()
                optimiser.step()
    return network.eval()
