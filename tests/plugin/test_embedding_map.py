"""The map of the pool: every exemplar is on it, it stays small, and it is the same for the same seed."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import nn

from fieldrepair_plugin.embedding_map import LARGEST_MAP, embedding_map
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_service.inputs import ImageInput

_SPEC = ImageInput(height=4, width=4)


def _model() -> RepairableModel:
    torch.manual_seed(0)
    return RepairableModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)), _SPEC, "3")


def _selection(size: int, exemplars: list[int]) -> Selection:
    regions = [np.array([at, (at + 1) % size], dtype=np.int64) for at in exemplars]
    unsmooth = np.linspace(0, 1, size)
    return Selection(np.array(exemplars, dtype=np.int64), regions, unsmooth, 0.4)


def _pool(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).random((size, *_SPEC.shape), dtype=np.float32)


def test_every_exemplar_is_on_the_map_with_its_region() -> None:
    made = embedding_map(_model(), _pool(40), _selection(40, [5, 20, 33]), seed=3)
    found = json.loads(made)
    assert (found["method"] in ("pca", "umap"), found["of"], found["tau"]) == (True, 40, 0.4)
    points = np.array(found["points"])
    assert points.shape == (40, 5)
    assert points[:, :2].min() >= 0.0
    assert points[:, :2].max() <= 1.0
    assert np.ptp(points[:, 0]) == 1.0  # it fills the plane
    assert np.flatnonzero(points[:, 4]).tolist() == [5, 20, 33]
    assert points[[5, 6, 20, 21, 33, 34], 3].tolist() == [0, 0, 1, 1, 2, 2]
    assert points[0, 3] == -1
    np.testing.assert_allclose(points[:, 2], np.linspace(0, 1, 40), atol=1e-4)
    assert made == embedding_map(_model(), _pool(40), _selection(40, [5, 20, 33]), seed=3)


def test_a_large_pool_is_thinned_out_but_keeps_its_exemplars() -> None:
    size = LARGEST_MAP + 500
    found = json.loads(embedding_map(_model(), _pool(size), _selection(size, [0, 1200, size - 1]), seed=3))
    assert found["of"] == size
    assert len(found["points"]) == LARGEST_MAP
    assert sum(point[4] for point in found["points"]) == 3


def test_a_pool_of_one_input_has_a_map_too() -> None:
    found = json.loads(embedding_map(_model(), _pool(1), _selection(1, [0]), seed=3))
    assert [point[3:] for point in found["points"]] == [[0, 1]]
