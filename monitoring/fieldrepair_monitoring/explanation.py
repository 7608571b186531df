"""What a drift event is about: which answers, regions or columns moved, and which field inputs are like nothing known.

Everything here is computed from the field inputs of the event and the version's reference set, and from nothing else:
the same event always gets the same explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.feature_changes import FeatureChange, feature_changes
from fieldrepair_monitoring.handover import HandOver
from fieldrepair_monitoring.image_grid import Tile, image_grid
from fieldrepair_monitoring.reference import Inputs, Reference
from fieldrepair_monitoring.reference_map import Neighbours, ReferenceMap
from fieldrepair_monitoring.served_model import Features, ServedModel
from fieldrepair_monitoring.share_changes import ShareChange, share_changes
from fieldrepair_monitoring.windows import FieldWindow
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput

IntArray = npt.NDArray[np.int64]

UNLIKE_PICTURE = "unlike.png"
USUAL_SHARE = 0.99
"""A field input lies outside the reference if it is farther from it than this share of reference inputs are."""
MOST_UNLIKE = 8
NEIGHBOURS = 3
MOST_LISTED = 20
"""Changes of classes, regions or columns that are stored, the most certain first."""
ENOUGH_HELD_OUT = 200
MOST_REFERENCE = 2000
UNLABELLED = -1


@dataclass(frozen=True)
class KnownInputs:
    """The reference inputs that field inputs are compared with, held-out ones where there are enough."""

    x: Inputs
    """``(n, *served shape)``."""
    labels: IntArray
    """``(n,)`` class index, or -1 for inputs without a label."""
    worlds: IntArray
    """``(n,)``."""
    parts: tuple[str, ...]
    """Which array of the reference set each is from: ``val``, ``normal`` or ``train``."""
    indices: IntArray
    """``(n,)`` row in that array."""


@dataclass(frozen=True)
class Explanation:
    """One event's explanation."""

    content: dict[str, object]
    """JSON: ``summary``, ``classes``, ``regions`` (images) or ``features`` (tables), ``unlike``, ``outside``."""
    pictures: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """PNG files by name."""


def explain(model: ServedModel, handover: HandOver, window: FieldWindow, *, seed: int = 0) -> Explanation:
    """Explain what is different about some field inputs.

    Args:
        model: the version, running.
        handover: its hand-over.
        window: the field inputs since the shift began.
        seed: of the sample of the reference and of the regions.

    Raises:
        ModelRunError: the model fails on the inputs.
        DetectorError: it gives NaN or infinity on all of them, or the reference is too small.
    """
    known = known_inputs(handover.reference, seed)
    old = model.features(known.x)
    new = model.features(window.inputs)
    sound = np.flatnonzero(np.isfinite(new.scores).all(axis=1) & np.isfinite(new.embeddings).all(axis=1))
    if len(sound) == 0:
        raise DetectorError(f"the model gives NaN or infinity on all {len(window.inputs)} field inputs")
    embeddings, scores = new.embeddings[sound], new.scores[sound]
    everything = ReferenceMap(old.embeddings, _answers(old), seed=seed)
    near = everything.neighbours(embeddings, NEIGHBOURS)
    world = _nearest_world(known, near)
    here = known.worlds == world
    names = handover.class_names
    classes = share_changes(names, _counts(_answers(old)[here], len(names)), _counts(scores.argmax(axis=1), len(names)))
    content: dict[str, object] = {
        "field_inputs": len(sound),
        "reference_inputs": int(here.sum()),
        "world": world,
        "classes": [change.to_json() for change in classes[:MOST_LISTED]],
        "classes_moved": sum(change.moved for change in classes),
    }
    moved: Sequence[ShareChange | FeatureChange]
    columns = column_names(handover.input)
    if columns is None:
        moved = ReferenceMap(old.embeddings[here], _answers(old)[here], seed=seed).region_changes(embeddings, names)
        content["regions"] = [change.to_json() for change in moved[:MOST_LISTED]]
    else:
        flat = known.x[here].reshape(int(here.sum()), -1), window.inputs[sound].reshape(len(sound), -1)
        moved = feature_changes(columns, *flat)
        content["features"] = [change.to_json() for change in moved[:MOST_LISTED]]
    limit = everything.usual_distance(USUAL_SHARE)
    outside = float((near.distances[:, 0] > limit).mean())
    content["outside"] = {"share": outside, "usual_share": 1 - USUAL_SHARE, "distance": limit}
    chosen = _most_unlike(window.inputs[sound], near)
    content["unlike"] = [_unlike(i, window.keys[int(sound[i])], scores[i], near, known, names) for i in chosen]
    content["summary"] = _summary(len(sound), outside, classes, moved)
    shown = [(i, window.inputs[sound[i]], scores[i]) for i in chosen]
    return Explanation(content, _pictures(handover.input, names, shown, near, known))


def known_inputs(reference: Reference, seed: int) -> KnownInputs:
    """Held-out reference inputs of all worlds; training inputs only where a version has fewer than 200 of those.

    A model has fitted its training inputs more tightly than anything it will see, so everything in the field would
    look far from them.
    """
    parts = {
        "val": (reference.val_x, reference.val_y, reference.val_world),
        "normal": (reference.normal_x, np.full(len(reference.normal_x), UNLABELLED), reference.normal_world),
        "train": (reference.train_x, reference.train_y, reference.train_world),
    }
    held_out = len(reference.val_x) + len(reference.normal_x)
    used = [name for name in parts if len(parts[name][0]) and (name != "train" or held_out < ENOUGH_HELD_OUT)]
    origin: list[tuple[str, int]] = [(name, row) for name in used for row in range(len(parts[name][0]))]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(origin))[:MOST_REFERENCE])
    places: list[int] = chosen.tolist()
    return KnownInputs(
        x=np.concatenate([parts[name][0] for name in used])[chosen],
        labels=np.concatenate([parts[name][1] for name in used])[chosen].astype(np.int64),
        worlds=np.concatenate([parts[name][2] for name in used])[chosen].astype(np.int64),
        parts=tuple(origin[i][0] for i in places),
        indices=np.asarray([origin[i][1] for i in places], dtype=np.int64),
    )


def column_names(spec: ImageInput | TabularInput | TextInput) -> tuple[str, ...] | None:
    """Names of the columns, if inputs are rows of a table; None for images and texts, whose columns mean nothing."""
    return spec.features if isinstance(spec, TabularInput) else None


def _nearest_world(known: KnownInputs, near: Neighbours) -> int:
    """The world that most field inputs have their nearest neighbour in."""
    return int(np.bincount(known.worlds[near.indices[:, 0]]).argmax())


def _most_unlike(inputs: Inputs, near: Neighbours) -> list[int]:
    """The field inputs farthest from the reference, each different one once."""
    chosen: list[int] = []
    seen: set[bytes] = set()
    for i in np.argsort(-near.distances[:, 0], kind="stable").tolist():
        content = inputs[i].tobytes()
        if content not in seen:
            seen.add(content)
            chosen.append(i)
        if len(chosen) == MOST_UNLIKE:
            break
    return chosen


def _unlike(
    i: int,
    key: tuple[str, int],
    scores: npt.NDArray[np.float32],
    near: Neighbours,
    known: KnownInputs,
    names: tuple[str, ...],
) -> dict[str, object]:
    neighbours: list[dict[str, object]] = [
        {
            "part": known.parts[j],
            "index": int(known.indices[j]),
            "label": None if known.labels[j] == UNLABELLED else names[int(known.labels[j])],
            "distance": float(distance),
        }
        for j, distance in zip(near.indices[i].tolist(), near.distances[i].tolist(), strict=True)
    ]
    return {
        "request_id": key[0],
        "row": key[1],
        "distance": float(near.distances[i, 0]),
        "predicted_class": names[int(scores.argmax())],
        "confidence": float(scores.max()),
        "neighbour_index": neighbours[0]["index"],
        "neighbours": neighbours,
    }


def _pictures(
    spec: ImageInput | TabularInput | TextInput,
    names: tuple[str, ...],
    shown: Sequence[tuple[int, Inputs, npt.NDArray[np.float32]]],
    near: Neighbours,
    known: KnownInputs,
) -> dict[str, bytes]:
    """Of images: each field input (its place in ``near``, itself, its scores) beside its nearest neighbours."""
    if not isinstance(spec, ImageInput):
        return {}
    rows: list[list[Tile]] = []
    for i, instance, scores in shown:
        answer = int(scores.argmax())
        row = [Tile(spec.to_pixels(instance[None])[0], (f"says {names[answer]}, {scores[answer]:.0%}",), framed=True)]
        for j, distance in zip(near.indices[i].tolist(), near.distances[i].tolist(), strict=True):
            label = "no label" if known.labels[j] == UNLABELLED else names[int(known.labels[j])]
            row.append(Tile(spec.to_pixels(known.x[j : j + 1])[0], (f"{label}, {distance:.3g} away",)))
        rows.append(row)
    return {UNLIKE_PICTURE: image_grid(rows, headings=("field input", *("reference",) * NEIGHBOURS))}


def _summary(
    count: int, outside: float, classes: Sequence[ShareChange], moved: Sequence[ShareChange | FeatureChange]
) -> str:
    """A few sentences for people."""
    said = [
        f"Of {count} field inputs since the shift began, {outside:.0%} lie farther from the reference than "
        f"{USUAL_SHARE:.0%} of the reference itself."
    ]
    certain = sorted((change for change in classes if change.moved), key=lambda change: -abs(change.change))
    if certain:
        listed = ", ".join(f"{c.name} {c.field_share:.0%} (reference {c.reference_share:.0%})" for c in certain[:3])
        said.append(f"Answers whose share moved most: {listed}.")
    else:
        said.append("The shares of the answers are as on the reference.")
    features = [change for change in moved if isinstance(change, FeatureChange) and change.moved]
    if features:
        listed = ", ".join(f"{f.name} ({f.change:+.1f} standard deviations)" for f in features[:3])
        said.append(f"Columns that moved: {len(features)}, most of all {listed}.")
    regions = [change for change in moved if isinstance(change, ShareChange) and change.moved]
    if regions:
        most = max(regions, key=lambda region: region.change)
        said.append(f"Fuller than it was: {most.name}, {most.field_share:.0%} (reference {most.reference_share:.0%}).")
    return " ".join(said)


def _answers(features: Features) -> IntArray:
    return features.scores.argmax(axis=1).astype(np.int64)


def _counts(values: npt.NDArray[np.integer[Any]], size: int) -> IntArray:
    return np.bincount(values, minlength=size).astype(np.int64)
