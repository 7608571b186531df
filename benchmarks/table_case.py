"""Benchmark cases that are tables in time order: the old world is the beginning, the field what came later.

``NAME.npz`` holds ``train_x (n, features)``, ``train_y``, ``test_x``, ``test_y`` and ``columns``, rows in time order.
Every fifth row of ``train`` is the validation set. Of ``test``, every other row is taken (neighbours are half an hour
apart and nearly equal); every third of these is the sealed holdout, the others are the field pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_service.inputs import TabularInput

Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


class RowNetwork(nn.Module):
    """Standardises its features, then two hidden layers of 64 with batch norm; gives ``(n, classes)`` logits."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.hidden = nn.Sequential(
            nn.Linear(features, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()
        )
        self.linear = nn.Linear(64, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of a batch."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return cast(Tensor, self.linear(self.hidden((rows - mean) / std)))


@dataclass(frozen=True)
class TableCase:
    """A table case, read."""

    model: RepairableModel
    parts: dict[str, Labelled]


def load_table(path: Path, models: Path) -> TableCase | None:
    """Read a table case, and train its model if it was not yet; none if the file is no table."""
    with np.load(path, allow_pickle=False) as file:
        if not {"columns", "train_x", "test_x"} <= set(file.files):
            return None
        arrays: dict[str, npt.NDArray[Any]] = {name: file[name] for name in file.files}
    validation = np.arange(len(arrays["train_y"])) % 5 == 4
    later = np.arange(0, len(arrays["test_y"]), 2)
    sealed = np.arange(len(later)) % 3 == 2
    rows = {
        "train": ("train", np.flatnonzero(~validation)),
        "val": ("train", np.flatnonzero(validation)),
        "field": ("test", later[~sealed]),
        "holdout": ("test", later[sealed]),
    }
    parts: dict[str, Labelled] = {
        part: (arrays[f"{half}_x"][which].astype(np.float32), arrays[f"{half}_y"][which].astype(np.int64))
        for part, (half, which) in rows.items()
    }
    features = parts["train"][0].shape[1]
    network = RowNetwork(features, int(max(y.max() for _, y in parts.values())) + 1)
    kept = models / f"{path.stem}.pt"
    if not kept.exists():
        _train(network, *(torch.from_numpy(part) for part in parts["train"]))
        models.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), kept)
    network.load_state_dict(torch.load(kept, weights_only=True))
    spec = TabularInput(features=tuple(str(name) for name in arrays["columns"][:features]))
    return TableCase(RepairableModel(network.eval(), spec, "linear"), parts)


def _train(network: RowNetwork, x: Tensor, y: Tensor, *, epochs: int = 20) -> None:
    """The fixed recipe of table cases: Adam, learning rate 1e-3, weight decay 5e-4, batches of 64, seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        network.get_buffer("mean").copy_(x.mean(dim=0))
        std = x.std(dim=0)
        # As scikit-learn's StandardScaler: a feature that never changed in training keeps its scale.
        network.get_buffer("std").copy_(torch.where(std > 1e-5, std, 1.0))
        optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=5e-4)
        network.train()
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(x)), 64):
                if len(batch) < 2:
                    continue
                optimizer.zero_grad()
                F.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
    network.eval()
