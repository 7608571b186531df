"""The adaptation pool as a map in two dimensions: what the case page shows of regions and exemplars.

A picture for people, nothing more: no selection and no training step reads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.repairable import FloatArray, RepairableModel, Served
from fieldrepair_plugin.threshold import unit_rows

ATTACHMENT = "map.json"
LARGEST_MAP = 2000
"""Points that a map has at most; exemplars are always among them."""

_FEWEST_FOR_UMAP = 50

Method = Literal["pca", "umap"]


def embedding_map(
    model: RepairableModel, pool: Served, selection: Selection, *, seed: int, batch_size: int = 256
) -> bytes:
    """Project the pool's embeddings to two dimensions: UMAP where it is installed, else principal components.

    Args:
        model: the model before repair.
        pool: ``(n, *shape)`` field inputs in served form, as they were selected from.
        selection: exemplars, regions and unsmoothness of this pool.
        seed: of the subsample and of UMAP.
        batch_size: inputs per forward pass.

    Returns:
        JSON ``{"method": "pca" | "umap", "of": n, "tau": t, "points": [[x, y, unsmoothness, region, exemplar], ...]}``
        with at most 2,000 points, x and y in 0..1, region -1 for inputs in none, exemplar 0 or 1.
    """
    shown = _subsample(len(pool), selection, seed)
    _, embeddings = model.logits_and_embeddings(model.pixels(pool[shown], "field pool"), batch_size)
    method, places = _project(unit_rows(embeddings), seed)
    regions = np.full(len(pool), -1, dtype=np.int64)
    for number, members in enumerate(selection.regions):
        regions[members] = number
    exemplars = set(selection.exemplars.tolist())
    points = [
        [
            *(round(float(value), 4) for value in (x, y, selection.unsmoothness[at])),
            int(regions[at]),
            int(at in exemplars),
        ]
        for at, (x, y) in zip(shown.tolist(), places, strict=True)
    ]
    described = {"method": method, "of": len(pool), "tau": float(selection.tau), "points": points}
    return json.dumps(described, separators=(",", ":")).encode()


def _subsample(size: int, selection: Selection, seed: int) -> npt.NDArray[np.int64]:
    exemplars = selection.exemplars[:LARGEST_MAP]
    others = np.setdiff1d(np.arange(size), exemplars)
    room = min(LARGEST_MAP - len(exemplars), len(others))
    drawn = np.random.default_rng(seed).choice(others, size=room, replace=False)
    return np.sort(np.concatenate([exemplars, drawn])).astype(np.int64)


def _project(unit: FloatArray, seed: int) -> tuple[Method, npt.NDArray[np.float64]]:
    method: Method = "pca"
    if len(unit) >= _FEWEST_FOR_UMAP and importlib.util.find_spec("umap") is not None:
        umap: Any = importlib.import_module("umap")
        found: Any = umap.UMAP(n_components=2, metric="cosine", random_state=seed).fit_transform(unit)
        method = "umap"
    elif min(unit.shape) >= 2:
        found = PCA(n_components=2, random_state=seed).fit_transform(unit)
    else:  # one input, or one dimension: there is no plane to see
        found = np.stack([unit[:, 0], np.zeros(len(unit))], axis=1)
    places: npt.NDArray[np.float64] = np.asarray(found, dtype=np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    return method, ((places - low) / np.where(high > low, high - low, 1.0))
