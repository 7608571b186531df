"""Pictures of field inputs: the pixels the model saw, enlarged; read from the field log in few reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from deltalake import DeltaTable
from PIL import Image

from fieldrepair_service.errors import ImageUnavailable
from fieldrepair_service.field_log import FieldLog, FieldRows
from fieldrepair_service.images import InputCache, fitting_scale, image_input, render_png
from fieldrepair_service.inputs import ImageInput

Pixels = npt.NDArray[np.uint8]
Inputs = list[tuple[str, int, npt.NDArray[np.generic]]]
LogInputs = Callable[..., FieldLog]


def _pixels(png: bytes) -> Pixels:
    """(channels, height, width) of a PNG."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.mode in ("L", "RGB")
        values = np.asarray(picture)
    return values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1)


def _random_pixels(spec: ImageInput) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (1, spec.channels, spec.height, spec.width), dtype=np.uint8)


SPECS = [
    ImageInput(height=5, width=7),
    ImageInput(height=5, width=7, layout="HW", dtype="float64"),
    ImageInput(height=5, width=7, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    ImageInput(height=5, width=7, channels=3, layout="HWC", mean=(0.0,), std=(1 / 255,), dtype="uint8"),
    ImageInput(height=5, width=7, channels=3, layout="HWC", flat=True),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.layout}-{spec.channels}-{spec.dtype}-{spec.flat}")
@pytest.mark.parametrize("scale", [1, 3])
def test_a_picture_shows_the_pixels_the_model_saw(spec: ImageInput, scale: int) -> None:
    pixels = _random_pixels(spec)
    shown = _pixels(render_png(spec.from_pixels(pixels)[0], spec, scale))
    assert shown.shape == (spec.channels, spec.height * scale, spec.width * scale)
    for row in range(scale):
        for column in range(scale):  # nearest neighbour: each pixel is a square of one colour
            np.testing.assert_array_equal(shown[:, row::scale, column::scale], pixels[0])


@pytest.mark.parametrize(
    ("height", "width", "scale", "expected"),
    [
        (28, 28, None, 11),  # 308 pixels
        (32, 32, None, 10),
        (224, 224, None, 1),
        (1000, 10, None, 1),
        (1, 1, None, 32),
        (28, 28, 1, 1),
        (28, 28, 32, 32),
        (1000, 1000, 32, 4),  # not above 4096 pixels
        (10_000, 10, 32, 1),
    ],
)
def test_scale(height: int, width: int, scale: int | None, expected: int) -> None:
    assert fitting_scale(ImageInput(height=height, width=width), scale) == expected


def test_an_instance_of_another_shape_is_no_image_of_this_layout() -> None:
    with pytest.raises(ImageUnavailable, match=r"expected instances of shape \(1, 5, 7\)"):
        render_png(np.zeros((5, 7)), ImageInput(height=5, width=7))


@pytest.mark.parametrize("spec", [{}, {"kind": "table", "columns": 3}, {"kind": "image", "height": -1, "width": 2}])
def test_other_inputs_are_no_images(spec: dict[str, object]) -> None:
    with pytest.raises(ImageUnavailable, match="cannot be shown as images"):
        image_input(spec)


class _CountingLog(FieldLog):
    """The real field log, which counts how often it is read."""

    def __init__(self, table: DeltaTable, storage_options: dict[str, str] | None) -> None:
        super().__init__(table, storage_options)
        self.reads: list[int] = []

    def read_rows(self, keys: Sequence[tuple[str, int]], columns: Sequence[str] | None = None) -> FieldRows:
        self.reads.append(len(keys))
        return super().read_rows(keys, columns)


@pytest.fixture
def spec() -> ImageInput:
    return ImageInput(height=4, width=6)


@pytest.fixture
def inputs(spec: ImageInput) -> Inputs:
    return [(f"r{i // 2}", i % 2, np.full(spec.shape, i / 100, dtype=np.float32)) for i in range(20)]


@pytest.fixture
def log(log_inputs: LogInputs, inputs: Inputs) -> _CountingLog:
    counting = log_inputs(inputs, _CountingLog)
    assert isinstance(counting, _CountingLog)
    return counting


def test_neighbours_are_read_along(log: _CountingLog, inputs: Inputs, spec: ImageInput) -> None:
    cache = InputCache(log)
    keys = [(request_id, row) for request_id, row, _ in inputs]
    assert cache.cached(keys[3]) is None
    for key, (_, _, instance) in zip(keys, inputs, strict=True):
        np.testing.assert_array_equal(cache.read(key, keys, spec), instance)
    assert log.reads == [20]
    cached = cache.cached(keys[3])
    assert cached is not None
    np.testing.assert_array_equal(cached, inputs[3][2])


def test_memory_is_bounded(log: _CountingLog, inputs: Inputs, spec: ImageInput) -> None:
    cache = InputCache(log, max_bytes=5 * 24 * 4)  # five instances of 24 float32
    keys = [(request_id, row) for request_id, row, _ in inputs]
    for _ in range(2):
        for key, (_, _, instance) in zip(keys, inputs, strict=True):
            np.testing.assert_array_equal(cache.read(key, keys, spec), instance)
            assert sum(cache.cached(other) is not None for other in keys) <= 5
    assert max(log.reads) <= 5


def test_an_instance_larger_than_the_memory_is_still_shown(log: _CountingLog, inputs: Inputs, spec: ImageInput) -> None:
    cache = InputCache(log, max_bytes=1)
    for request_id, row, instance in inputs[:3]:
        np.testing.assert_array_equal(cache.read((request_id, row), [], spec), instance)


def test_one_missing_row_does_not_hide_the_others(log: _CountingLog, inputs: Inputs, spec: ImageInput) -> None:
    cache = InputCache(log)
    np.testing.assert_array_equal(cache.read(("r0", 0), [("gone", 7), ("r0", 1)], spec), inputs[0][2])
    assert log.reads == [3, 2]
    np.testing.assert_array_equal(cache.read(("r0", 1), [], spec), inputs[1][2])
    assert log.reads == [3, 2]
    with pytest.raises(ImageUnavailable, match=r"\(request gone, row 7\) is not in the field log any more"):
        cache.read(("gone", 7), [("r0", 1)], spec)


def test_each_row_has_its_own_dtype(log_inputs: LogInputs, spec: ImageInput) -> None:
    kinds = ("float32", "float64", "int64", "uint8")
    log = log_inputs([(kind, 0, np.ones(spec.shape, dtype=kind)) for kind in kinds])
    cache = InputCache(log)
    for kind in kinds:
        assert cache.read((kind, 0), [(other, 0) for other in kinds], spec).dtype == np.dtype(kind)


def test_a_row_that_cannot_be_read_does_not_hide_the_others(log_inputs: LogInputs, spec: ImageInput) -> None:
    good = np.ones(spec.shape, dtype=np.float32)
    broken = np.array(["text"] * 24).reshape(spec.shape)
    log = log_inputs([("good", 0, good), ("broken", 0, broken), ("also good", 0, good)])
    cache = InputCache(log)
    keys = [("good", 0), ("broken", 0), ("also good", 0)]
    np.testing.assert_array_equal(cache.read(keys[0], keys, spec), good)
    assert cache.cached(keys[2]) is not None
    with pytest.raises(ImageUnavailable):
        render_png(cache.read(keys[1], keys, spec), spec)
