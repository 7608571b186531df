"""``fieldrepair log export``: rows as a Parquet file, as NumPy arrays, or as a CSV file with pictures.

Rows pass through in pieces, so memory does not grow with the log.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from fieldrepair_service.errors import ConfigurationError, ImageUnavailable, InputError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, FieldRows
from fieldrepair_service.images import image_input, render_png
from fieldrepair_service.inputs import ImageInput
from fieldrepair_service.log_command.arrays import ArrayFile
from fieldrepair_service.log_command.labels import LABEL_FIELDS, Labels
from fieldrepair_service.log_command.settings import ExportOptions

_CSV_COLUMNS = [
    "file", "request_id", "row", "client_request_id", "trace_id", "time", "model_name", "model_version",
    "predicted_class", "confidence", "scores", "label", "label_source",
]  # fmt: skip
# Column, NumPy dtype, and what stands where a row has none.
_NUMBERS = (
    ("predicted_class", "<i4", -1),
    ("confidence", "<f4", np.nan),
    ("timestamp_ms", "<i8", 0),
    ("row", "<i4", 0),
)


def export(log: FieldLog, labels: Labels, options: ExportOptions, spec: ImageInput | None = None) -> int:
    """Write the chosen rows; how many.

    Nothing is left behind where it fails: a draft beside the target takes its place at the end.

    Args:
        log: where the rows are.
        labels: what to join to them.
        options: which rows, where to, and how.
        spec: how an input is an image; None tells from each input's shape.

    Raises:
        ConfigurationError: if the target is there already, or a time is none.
        InputError: if rows cannot be written in this format; the message names the first.
        StoreError: if the log cannot be read.
    """
    if options.to.exists():
        raise ConfigurationError(f"--to: {options.to} is there already")
    draft = options.to.with_name(f".{options.to.name}.part")
    try:
        options.to.parent.mkdir(parents=True, exist_ok=True)
        _remove(draft)
        pieces = _pieces(log, labels, options)
        if options.format == "parquet":
            count = _to_parquet(pieces, draft)
        elif options.format == "npz":
            count = _to_arrays(pieces, draft, options.dtype)
        else:
            count = _to_images(pieces, draft, spec)
        draft.rename(options.to)
    except OSError as error:
        raise ConfigurationError(f"--to: {options.to} cannot be written: {error}") from error
    finally:
        _remove(draft)
    return count


def _pieces(log: FieldLog, labels: Labels, options: ExportOptions) -> Iterator[pa.Table]:
    since_ms, until_ms = options.span_ms(datetime.now(timezone.utc))
    for piece in log.batches(
        since_ms=since_ms,
        until_ms=until_ms,
        model_name=options.model_name,
        model_version=options.model_version,
        batch_rows=500,
    ):
        yield labels.join(piece)


def _to_parquet(pieces: Iterator[pa.Table], path: Path) -> int:
    count = 0
    schema = pa.schema([*FIELD_LOG_SCHEMA, *LABEL_FIELDS])
    with pa_parquet.ParquetWriter(path, schema) as writer:
        for piece in pieces:
            writer.write_table(piece.cast(schema))
            count += piece.num_rows
    return count


def _to_arrays(pieces: Iterator[pa.Table], path: Path, dtype: str | None) -> int:
    count = 0
    shape: list[int] = []
    classes = 0
    found = ""
    with ArrayFile(path) as file:
        for piece in pieces:
            if not count:
                shape = piece.column("shape")[0].as_py()
                found = piece.column("dtype")[0].as_py()
                classes = max((len(scores) for scores in piece.column("scores").to_pylist() if scores), default=0)
            if dtype is None:
                _check_dtype(piece, found)
            file.add("inputs", FieldRows(piece).inputs(shape, dtype or found))
            file.add("scores", _scores(piece, classes))
            for name, kind, missing in _NUMBERS:
                values = [missing if value is None else value for value in piece.column(name).to_pylist()]
                file.add(name, np.array(values, dtype=kind))
            for name in ("request_id", "model_name", "model_version", "label", "label_source"):
                file.add_text(name, [value or "" for value in piece.column(name).to_pylist()])
            count += piece.num_rows
    return count


def _check_dtype(piece: pa.Table, expected: str) -> None:
    for at, dtype in enumerate(piece.column("dtype").to_pylist()):
        if dtype != expected:
            request_id = piece.column("request_id")[at].as_py()
            raise InputError(
                f"expected inputs of dtype {expected}, but request {request_id} has {dtype}; --dtype makes them one"
            )


def _scores(piece: pa.Table, classes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(n, classes) scores; NaN in rows without any."""
    filled = np.full((piece.num_rows, classes), np.nan, dtype=np.float32)
    for at, scores in enumerate(piece.column("scores").to_pylist()):
        if scores is not None and len(scores) != classes:
            request_id = piece.column("request_id")[at].as_py()
            raise InputError(f"expected {classes} scores per row, but request {request_id} has {len(scores)}")
        if scores is not None:
            filled[at] = scores
    return filled


def _to_images(pieces: Iterator[pa.Table], folder: Path, spec: ImageInput | None) -> int:
    count = 0
    (folder / "images").mkdir(parents=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for piece in pieces:
            for row in piece.to_pylist():
                name = f"images/{row['request_id']}-{row['row']}.png"
                (folder / name).write_bytes(_picture(row, spec))
                writer.writerow(_line(row, name))
                count += 1
    return count


def _line(row: dict[str, Any], name: str) -> dict[str, Any]:
    when = datetime.fromtimestamp(row["timestamp_ms"] / 1000, timezone.utc).isoformat(timespec="milliseconds")
    scores = None if row["scores"] is None else json.dumps(row["scores"])
    return {**row, "file": name, "time": when, "scores": scores}


def _picture(row: dict[str, Any], spec: ImageInput | None) -> bytes:
    instance = np.frombuffer(row["input"], np.dtype(row["dtype"]).newbyteorder("<")).reshape(row["shape"])
    try:
        return render_png(instance, spec or guess_spec(instance), scale=1)
    except ImageUnavailable as error:
        raise InputError(f"row {row['row']} of request {row['request_id']}: {error}") from error


def guess_spec(instance: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ImageInput:
    """How an input most likely is an image: two axes, or three with 1 or 3 channels; 0..255 if it exceeds 1, else 0..1.

    Raises:
        InputError: if its shape is not that of an image.
    """
    shape = instance.shape
    scale = 1 / 255 if instance.dtype.kind in "iub" or bool((instance.astype(np.float64) > 1.5).any()) else 1.0
    if len(shape) == 2:
        return ImageInput(height=shape[0], width=shape[1], layout="HW", std=(scale,))
    if len(shape) == 3 and shape[0] in (1, 3):
        return ImageInput(height=shape[1], width=shape[2], channels=shape[0], layout="CHW", std=(scale,))
    if len(shape) == 3 and shape[2] in (1, 3):
        return ImageInput(height=shape[0], width=shape[1], channels=shape[2], layout="HWC", std=(scale,))
    raise InputError(f"an input of shape {shape} does not look like an image; say how it is one by --input-spec")


def read_spec(path: Path) -> ImageInput:
    """How an input is an image, from a JSON file.

    Raises:
        ConfigurationError: if it cannot be read, or says something else.
    """
    try:
        return image_input(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, ImageUnavailable) as error:
        raise ConfigurationError(f"--input-spec: {path} does not describe images: {error}") from error


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)
