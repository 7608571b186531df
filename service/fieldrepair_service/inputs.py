"""How one served input is laid out and scaled, so that monitor, labelling page and repair engine read it alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fieldrepair_service.errors import InputError

Layout = Literal["CHW", "HWC", "HW"]


class ImageInput(BaseModel):
    """The served form of one image, and how it maps to pixels.

    A model server receives plain numbers. This says how they stand (``layout``) and what they mean:
    per channel, ``served = (pixel / 255 - mean) / std`` with pixels in 0..255. A model that takes raw 0..255
    values has ``mean=(0,)`` and ``std=(1/255,)``; one that takes values in 0..1 has ``mean=(0,)`` and ``std=(1,)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["image"] = "image"
    height: int = Field(gt=0)
    """Rows of pixels."""
    width: int = Field(gt=0)
    """Pixels per row."""
    channels: Literal[1, 3] = 1
    """1 = grey, 3 = red, green, blue."""
    layout: Layout = "CHW"
    """Order of a served instance's axes. ``HW`` is grey without a channel axis."""
    flat: bool = False
    """True when an instance is served as one row of height * width * channels numbers (a data frame, say)."""
    dtype: str = "float32"
    """NumPy dtype of the tensor the model takes."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel (or one for all), on the 0..1 scale."""
    std: tuple[float, ...] = (1.0,)
    """Per channel (or one for all), on the 0..1 scale."""

    @model_validator(mode="after")
    def _consistent(self) -> ImageInput:
        if self.layout == "HW" and self.channels != 1:
            raise ValueError(f"layout HW is for grey images, got {self.channels} channels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} needs 1 or {self.channels} values, got {len(values)}")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        np.dtype(self.dtype)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one served instance."""
        full = {
            "CHW": (self.channels, self.height, self.width),
            "HWC": (self.height, self.width, self.channels),
            "HW": (self.height, self.width),
        }[self.layout]
        return (int(np.prod(full)),) if self.flat else full

    def to_pixels(self, served: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Pixels of served instances, rounded and clipped to 0..255.

        Args:
            served: ``(n, *shape)`` numbers as the model server receives them.

        Returns:
            ``(n, channels, height, width)`` uint8.

        Raises:
            InputError: if the instances do not have this shape.
        """
        if served.ndim == 0 or served.shape[1:] != self.shape:
            raise InputError(f"expected instances of shape {self.shape}, got an array of shape {served.shape}")
        values = served.astype(np.float64)
        if self.layout == "HWC":
            values = values.reshape(-1, self.height, self.width, self.channels).transpose(0, 3, 1, 2)
        else:
            values = values.reshape(-1, self.channels, self.height, self.width)
        pixels = (values * self._per_channel(self.std) + self._per_channel(self.mean)) * 255.0
        return np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8)

    def from_pixels(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Served instances of pixels; the inverse of :meth:`to_pixels`.

        Args:
            pixels: ``(n, channels, height, width)`` numbers in 0..255 (fractions allowed).

        Returns:
            ``(n, *shape)`` of this spec's dtype.

        Raises:
            InputError: if the pixels do not have this size.
        """
        expected = (self.channels, self.height, self.width)
        if pixels.ndim == 0 or pixels.shape[1:] != expected:
            raise InputError(f"expected pixels of shape (n, {expected}), got {pixels.shape}")
        values = (pixels.astype(np.float64) / 255.0 - self._per_channel(self.mean)) / self._per_channel(self.std)
        if self.layout == "HWC":
            values = values.transpose(0, 2, 3, 1)
        return values.reshape(-1, *self.shape).astype(np.dtype(self.dtype))

    @staticmethod
    def _per_channel(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64).reshape(1, -1, 1, 1)


class TabularInput(BaseModel):
    """The served form of one row of a table: one number per feature."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["tabular"] = "tabular"
    features: tuple[str, ...] = Field(min_length=1)
    """Names of the features, in the order in which they are served."""
    units: tuple[str, ...] = ()
    """Unit of each feature ("" = none), or nothing at all."""
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    """Of features that are codes 0, 1, 2 ...: what each code stands for."""
    dtype: str = "float32"
    """NumPy dtype of the tensor the model takes."""
    by_name: bool = False
    """True when the model server takes the columns of a data frame by their names, in any order and with others beside
    them; False when it takes them as they come."""

    @model_validator(mode="after")
    def _consistent(self) -> TabularInput:
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features need distinct names, got {list(self.features)}")
        if self.units and len(self.units) != len(self.features):
            raise ValueError(f"units are for all {len(self.features)} features or none, got {len(self.units)}")
        unknown = sorted(set(self.categories) - set(self.features))
        if unknown:
            raise ValueError(f"categories are of features, got {unknown}")
        np.dtype(self.dtype)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one served instance."""
        return (len(self.features),)

    def arranged(self, row: npt.NDArray[np.generic], columns: Sequence[str] | None) -> npt.NDArray[np.generic]:
        """A row as a client sent it, in the order in which the model takes it.

        Args:
            row: ``(columns,)`` numbers.
            columns: what the client called them; None if it did not say.

        Returns:
            ``(features,)``; the row as it is unless :attr:`by_name` is set and the columns have names.

        Raises:
            InputError: a feature is not among the columns.
        """
        if not self.by_name or columns is None or tuple(columns) == self.features:
            return row
        places = {name: place for place, name in enumerate(columns)}
        missing = [name for name in self.features if name not in places]
        if missing or len(row) != len(columns):
            raise InputError(f"a row with the columns {list(columns)[:10]} lacks {missing[:5] or 'numbers'}")
        return row[[places[name] for name in self.features]]


class TextInput(BaseModel):
    """The served form of one text: the numbers of its tokens, padded to one length."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["text"] = "text"
    length: int = Field(gt=0)
    """Tokens per instance, with padding."""
    vocabulary: tuple[str, ...] = ()
    """Text of each token, by number; nothing if the text cannot be told from the tokens."""
    joiner: str = " "
    """What stands between two tokens in the text: a space for words, nothing for characters or byte pairs."""
    padding: int = 0
    """The token that fills up an instance."""
    dtype: str = "int64"
    """NumPy dtype of the tensor the model takes."""

    @model_validator(mode="after")
    def _consistent(self) -> TextInput:
        if np.dtype(self.dtype).kind not in "iu":
            raise ValueError(f"tokens are whole numbers, got dtype {self.dtype}")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one served instance."""
        return (self.length,)


InputSpec: TypeAlias = Annotated[ImageInput | TabularInput | TextInput, Field(discriminator="kind")]
"""How inputs are served, told apart by ``kind``."""


def arranged(
    spec: ImageInput | TabularInput | TextInput, instance: npt.NDArray[np.generic], columns: Sequence[str] | None
) -> npt.NDArray[np.generic]:
    """A logged instance in the order in which the model takes it; see :meth:`TabularInput.arranged`.

    Raises:
        InputError: a feature is not among the columns of a table row.
    """
    return spec.arranged(instance, columns) if isinstance(spec, TabularInput) else instance


_ANY: TypeAdapter[ImageInput | TabularInput | TextInput] = TypeAdapter(InputSpec)


def read_input_spec(spec: Mapping[str, object]) -> ImageInput | TabularInput | TextInput:
    """The layout that ``model_dump`` of one of the kinds describes; without a ``kind`` it is an image's.

    Raises:
        InputError: if it describes none of them.
    """
    try:
        return _ANY.validate_python({"kind": "image", **spec})
    except ValidationError as error:
        problem = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:3])
        raise InputError(f"this is no layout of an image, a table row or a text: {problem}") from error
