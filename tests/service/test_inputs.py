from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, Layout, TabularInput, TextInput, arranged, read_input_spec


def colour(height: int, width: int, layout: Layout, *, flat: bool = False) -> ImageInput:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    return ImageInput(height=height, width=width, channels=3, layout=layout, flat=flat, mean=mean, std=std)


def pixels_of(spec: ImageInput, count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    size = (count, spec.channels, spec.height, spec.width)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (ImageInput(height=5, width=4), (1, 5, 4)),
        (ImageInput(height=5, width=4, layout="HW"), (5, 4)),
        (colour(5, 4, "HWC"), (5, 4, 3)),
        (colour(5, 4, "CHW"), (3, 5, 4)),
        (colour(5, 4, "HWC", flat=True), (60,)),
        (ImageInput(height=5, width=4, dtype="uint8", std=(1 / 255,)), (1, 5, 4)),
    ],
)
def test_pixels_survive_the_way_to_the_served_form_and_back(spec: ImageInput, shape: tuple[int, ...]) -> None:
    pixels = pixels_of(spec)
    served = spec.from_pixels(pixels)
    assert spec.shape == shape
    assert served.shape == (3, *shape)
    assert served.dtype == np.dtype(spec.dtype)
    np.testing.assert_array_equal(spec.to_pixels(served), pixels)


def test_served_values_are_what_the_formula_says() -> None:
    spec = colour(1, 1, "HWC")
    served = spec.from_pixels(np.array([[[[255]], [[0]], [[51]]]]))
    np.testing.assert_allclose(served[0, 0, 0], [(1 - 0.4) / 0.2, -0.5 / 0.25, (0.2 - 0.6) / 0.3], rtol=1e-6)


@given(st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_any_number_becomes_a_pixel(value: float) -> None:
    spec = ImageInput(height=1, width=1)
    pixel = int(spec.to_pixels(np.full((1, 1, 1, 1), value))[0, 0, 0, 0])
    expected = 0.0 if np.isnan(value) else min(max(value * 255, 0), 255)
    assert abs(pixel - expected) <= 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "HW", "channels": 3}, "layout HW is for grey images"),
        ({"mean": (0.1, 0.2)}, "mean needs 1 or 1 values, got 2"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"height": 0}, "greater than 0"),
        ({"dtype": "pixels"}, "pixels"),
        ({"colour": "blue"}, "Extra inputs are not permitted"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises((ValidationError, TypeError), match=message):
        ImageInput.model_validate({"height": 8, "width": 8, **wrong})


@pytest.mark.parametrize("layout", ["CHW", "HWC", "HW"])
def test_other_shapes_are_refused_by_name(layout: Layout) -> None:
    spec = ImageInput(height=8, width=8, layout=layout)
    with pytest.raises(InputError, match=r"got an array of shape \(2, 7\)"):
        spec.to_pixels(np.zeros((2, 7)))
    with pytest.raises(InputError, match=r"got \(2, 1, 8, 9\)"):
        spec.from_pixels(np.zeros((2, 1, 8, 9)))


def test_every_kind_of_layout_is_read_back() -> None:
    specs = [
        ImageInput(height=4, width=6),
        TabularInput(features=("age", "plan"), units=("years", ""), categories={"plan": ("free", "paid")}),
        TextInput(length=16, vocabulary=("", "good", "bad")),
    ]
    for spec in specs:
        assert read_input_spec(spec.model_dump(mode="json")) == spec
    assert [spec.shape for spec in specs] == [(1, 4, 6), (2,), (16,)]


def test_a_layout_without_a_kind_is_an_images() -> None:
    """Hand-overs written before there were other kinds."""
    assert read_input_spec({"height": 4, "width": 6}) == ImageInput(height=4, width=6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "sound"}, "no layout of an image, a table row or a text: .*'sound'"),
        ({"kind": "tabular", "features": []}, "features"),
        ({"kind": "tabular", "features": ["a", "a"]}, r"distinct names, got \['a', 'a'\]"),
        ({"kind": "tabular", "features": ["a"], "units": ["m", "s"]}, "all 1 features or none, got 2"),
        ({"kind": "tabular", "features": ["a"], "categories": {"b": []}}, r"categories are of features, got \['b'\]"),
        ({"kind": "text", "length": 4, "dtype": "float32"}, "whole numbers, got dtype float32"),
    ],
)
def test_what_describes_no_input_is_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_input_spec(spec)


def test_a_row_is_read_by_the_names_that_the_client_gave_its_columns() -> None:
    spec = TabularInput(features=("age", "income"), by_name=True)
    row = np.array([7.0, 1.5, 30.0])
    assert arranged(spec, row, ["row_number", "income", "age"]).tolist() == [30.0, 1.5]
    assert arranged(spec, row[1:], ["age", "income"]).tolist() == [1.5, 30.0]
    assert arranged(spec, row[1:], None).tolist() == [1.5, 30.0], "a tensor has places only"
    with pytest.raises(InputError, match=r"columns \['income', 'height'\] lacks \['age'\]"):
        arranged(spec, row[:2], ["income", "height"])
    by_place = spec.model_copy(update={"by_name": False})
    assert arranged(by_place, row[:2], ["income", "age"]).tolist() == [7.0, 1.5], "as its model server reads it"
    assert arranged(ImageInput(height=1, width=2, flat=True), row[:2], ["b", "a"]).tolist() == [7.0, 1.5]
