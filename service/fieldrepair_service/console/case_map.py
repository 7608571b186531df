"""The map of a case's embedding that the worker attached, in the coordinates of an SVG."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from fieldrepair_service.case_book import CaseBook, Purpose, Task

logger = logging.getLogger(__name__)

ATTACHMENT = "map.json"
SIZE = 480
_MARGIN = 14
SHADES = 8


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore")

    method: str
    points: list[tuple[float, float, float, int, int]]
    of: int | None = None
    tau: float | None = None


@dataclass(frozen=True)
class Place:
    """One field input on the map."""

    x: float
    y: float
    text: str = ""


@dataclass(frozen=True)
class Region:
    """One region: a label speaks for all of it."""

    number: int
    inputs: int
    unsmoothness: float
    """Mean of those on the map."""
    label: str
    """What a person said, or how far that is."""


@dataclass(frozen=True)
class Map:
    """The whole map."""

    method: str
    shown: int
    of: int
    tau: float | None
    shades: list[list[Place]]
    """Places by unsmoothness, the steadiest first; the last shade is the most unsmooth."""
    exemplars: list[tuple[int, Place]]
    """(shade, place)."""
    regions: list[Region]
    noise: int
    """Places in no region."""
    steps: list[float]
    """Upper end of each shade's unsmoothness."""


def read_map(book: CaseBook, case_id: int, tasks: Sequence[Task], class_names: Sequence[str]) -> Map | None:
    """The map of a case; None if the worker has attached none, or one that cannot be read."""
    attachment = book.attachment(case_id, ATTACHMENT)
    if attachment is None:
        return None
    try:
        stored = _Stored.model_validate_json(attachment.content)
    except ValidationError as error:
        logger.warning("case %d: its map cannot be read: %s", case_id, error.errors()[0]["msg"])
        return None
    return _layout(
        stored, {t.region: t for t in tasks if t.purpose is Purpose.REPAIR and t.region is not None}, class_names
    )


def _layout(stored: _Stored, tasks: dict[int, Task], class_names: Sequence[str]) -> Map:
    top = max((point[2] for point in stored.points), default=1.0) or 1.0
    steps = [top * (i + 1) / SHADES for i in range(SHADES)]
    shades: list[list[Place]] = [[] for _ in range(SHADES)]
    exemplars: list[tuple[int, Place]] = []
    members: dict[int, list[float]] = {}
    for x, y, unsmooth, region, is_exemplar in stored.points:
        shade = min(SHADES - 1, max(0, int(SHADES * unsmooth / top)))
        place = Place(round(_MARGIN + x * (SIZE - 2 * _MARGIN), 1), round(_MARGIN + (1 - y) * (SIZE - 2 * _MARGIN), 1))
        if region >= 0:
            members.setdefault(region, []).append(unsmooth)
        if is_exemplar:
            label = _label(tasks.get(region), class_names)
            text = f"exemplar of region {region + 1}, unsmoothness {unsmooth:.2f}, {label}"
            exemplars.append((shade, Place(place.x, place.y, text)))
        else:
            shades[shade].append(place)
    regions = [
        Region(number, len(values), sum(values) / len(values), _label(tasks.get(number), class_names))
        for number, values in sorted(members.items())
    ]
    return Map(
        method=stored.method,
        shown=len(stored.points),
        of=stored.of or len(stored.points),
        tau=stored.tau,
        shades=shades,
        exemplars=exemplars,
        regions=regions,
        noise=sum(1 for point in stored.points if point[3] < 0),
        steps=steps,
    )


def _label(task: Task | None, class_names: Sequence[str]) -> str:
    if task is None:
        return "not asked"
    if task.label is not None and task.label < len(class_names):
        return f"labelled {class_names[task.label]}"
    return "waits for its label" if str(task.state) == "open" else str(task.state)
