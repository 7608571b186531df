"""The field inputs of a case: gathered from the field log, and split so that what judges a repair never trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fieldrepair_plugin.repairable import IntArray, Served
from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import Cursor, FieldLog, FieldRows
from fieldrepair_service.inputs import InputSpec, arranged

Key = tuple[str, int]
"""(request_id, row): a field input's name in the field log and the case book."""

_COLUMNS = ("input", "dtype", "shape", "columns")
_READ_ROWS = 1000
"""Rows in memory at once in the form of the field log, which is several times that of the array."""


@dataclass(frozen=True)
class FieldPool:
    """Field inputs of one model version, in field log order."""

    keys: list[Key]
    x: Served
    """``(n, *served shape)`` of the dtype the model takes."""
    cursor_end: Cursor
    """Position in the field log just after the last one."""
    skipped: int
    """Rows in between that the model cannot take: another shape, no numbers, NaN or infinity, a column missing."""

    def __len__(self) -> int:
        return len(self.keys)


def count_inputs(log: FieldLog, name: str, version: str, start: Mapping[str, Sequence[int]], limit: int) -> int:
    """How many rows of a model version there are after ``start``, counted up to ``limit``; reads positions only."""
    return len(log.read_after(start, limit=limit, model_name=name, model_version=version, columns=[]))


def gather(
    log: FieldLog,
    name: str,
    version: str,
    spec: InputSpec,
    start: Mapping[str, Sequence[int]],
    *,
    limit: int,
    end: Mapping[str, Sequence[int]] | None = None,
) -> FieldPool:
    """Read a model version's field inputs.

    Args:
        log: the field log.
        name: registered model.
        version: its version.
        spec: what the model takes.
        start: position to begin after.
        limit: at most so many rows.
        end: position to stop at, of an earlier gathering with the same start; default: the end of the log.

    Raises:
        StoreError: the field log cannot be read.
    """
    cursor: Cursor = {writer: (at[0], at[1]) for writer, at in start.items()}
    keys: list[Key] = []
    blocks: list[Served] = [np.empty((0, *spec.shape), dtype=np.dtype(spec.dtype))]
    skipped = 0
    while (missing := limit - len(keys) - skipped) > 0:
        rows = log.read_after(
            cursor,
            limit=min(missing, _READ_ROWS),
            model_name=name,
            model_version=version,
            columns=["request_id", *_COLUMNS],
        )
        if len(rows) == 0:
            break
        cursor = rows.cursor_after(cursor)
        reached = end is not None and all(cursor.get(writer, (-1, -1)) >= tuple(at) for writer, at in end.items())
        if end is not None:
            rows = rows.take(_up_to(rows, end))
        usable, instances = decode(rows, spec)
        every = rows.keys
        keys += [every[index] for index in usable]
        blocks.append(instances)
        skipped += len(rows) - len(usable)
        if reached:
            break
    return FieldPool(keys, np.concatenate(blocks), cursor, skipped)


def decode(rows: FieldRows, spec: InputSpec) -> tuple[list[int], Served]:
    """Instances of those rows that the model can take.

    Returns:
        Their indices, and ``(k, *served shape)`` of the spec's dtype.
    """
    table = rows.to_table()
    columns = (table.column(column).to_pylist() for column in _COLUMNS)
    usable: list[int] = []
    instances: list[Served] = []
    for index, (raw, dtype, shape, names) in enumerate(zip(*columns, strict=True)):
        if np.dtype(dtype).kind not in "fiub":
            continue
        stored = np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
        try:
            taken = arranged(spec, stored, names)
        except InputError:  # a row without a column that the model takes
            continue
        instance = taken.astype(np.dtype(spec.dtype))
        if taken.shape == spec.shape and np.isfinite(instance).all():
            usable.append(index)
            instances.append(instance)
    block = np.stack(instances) if instances else np.empty((0, *spec.shape), dtype=np.dtype(spec.dtype))
    return usable, block


def read_inputs(log: FieldLog, keys: Sequence[Key], spec: InputSpec) -> Served:
    """Field inputs by name, in the order asked: ``(n, *served shape)``.

    Raises:
        RowsNotFound: the field log no longer has them.
        InputError: one of them is not what the model takes.
    """
    rows = log.read_rows(list(keys), columns=_COLUMNS)
    usable, block = decode(rows, spec)
    if len(usable) != len(keys):
        wrong = min(set(range(len(keys))) - set(usable))
        raise InputError(f"field input {keys[wrong]} is not a finite instance of shape {spec.shape}")
    return block


@dataclass(frozen=True)
class Split:
    """Indices into a pool; no index is in both."""

    acceptance: IntArray
    """Drawn at random, before anything else; labelled to judge, never to train."""
    adaptation: IntArray
    """What selection and training see."""
    by_request: bool
    """Whether no request has inputs in both. False where requests are so large that this would leave too little."""


def split(request_ids: Sequence[str], size: int, seed: int) -> Split:
    """Draw the acceptance sample at random, whole requests at a time.

    Inputs of one request resemble each other (neighbouring frames, one user's photos), so a sample that shares
    requests with the training data would flatter the repair. Rows of a request that is only used in part, because the
    sample is full, go to neither side.

    Args:
        request_ids: ``(n,)`` of the pool.
        size: inputs in the acceptance sample.
        seed: of the draw.

    Raises:
        InputError: fewer than ``2 * size`` inputs.
    """
    n = len(request_ids)
    if n < 2 * size:
        raise InputError(f"an acceptance sample of {size} needs at least {2 * size} field inputs, got {n}")
    generator = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, request in enumerate(request_ids):
        members.setdefault(request, []).append(index)
    requests = list(members)
    taken: list[int] = []
    used: set[str] = set()
    for at in generator.permutation(len(requests)):
        missing = size - len(taken)
        if missing == 0:
            break
        rows = members[requests[int(at)]]
        used.add(requests[int(at)])
        taken += [rows[int(i)] for i in generator.permutation(len(rows))[:missing]]
    rest = [index for index, request in enumerate(request_ids) if request not in used]
    if len(rest) >= n // 2:
        return Split(_sorted(taken), _sorted(rest), by_request=True)
    order = generator.permutation(n)
    return Split(_sorted(order[:size]), _sorted(order[size:]), by_request=False)


def _sorted(indices: Sequence[int] | npt.NDArray[np.int64]) -> IntArray:
    return np.sort(np.asarray(indices, dtype=np.int64))


def _up_to(rows: FieldRows, end: Mapping[str, Sequence[int]]) -> list[int]:
    table = rows.to_table()
    writers, seqs = table.column("writer").to_pylist(), table.column("seq").to_pylist()
    positions = zip(writers, seqs, rows.rows.tolist(), strict=True)
    return [
        index
        for index, (writer, seq, row) in enumerate(positions)
        if writer in end and (seq, row) <= (end[writer][0], end[writer][1])
    ]
