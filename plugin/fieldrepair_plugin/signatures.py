"""The signature of a model version: what its server takes, and so how a table row is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from fieldrepair_monitoring.errors import HandOverMismatchError
from fieldrepair_service.inputs import InputSpec, TabularInput

if TYPE_CHECKING:
    from fieldrepair_monitoring.handover import HandOver

FRAME_DTYPE = "float32"
"""What MLflow's PyTorch server makes of a data frame, whatever types its columns have."""


def feature_columns(signature: ModelSignature | None) -> tuple[str, ...] | None:
    """Names of the columns that a server takes, in order; None if it takes tensors, or columns without names."""
    if signature is None or signature.inputs is None or signature.inputs.is_tensor_spec():
        return None
    return tuple(map(str, signature.inputs.input_names())) if signature.inputs.has_input_names() else None


def served_by(spec: InputSpec, columns: Sequence[str] | None) -> InputSpec:
    """The spec as a server with these columns reads it: of a table row, by name or by place.

    Args:
        spec: how an instance is laid out.
        columns: see :func:`feature_columns`.

    Raises:
        HandOverMismatchError: features and columns differ, or the dtype is not what the server makes of a data frame.
    """
    if not isinstance(spec, TabularInput):
        return spec
    if columns is None:
        return spec.model_copy(update={"by_name": False})
    if tuple(columns) != spec.features:
        raise HandOverMismatchError(
            f"the model's signature has the columns {list(columns)}, but the input description has the features "
            f"{list(spec.features)}; the same names are needed, in the same order"
        )
    if spec.dtype != FRAME_DTYPE:
        raise HandOverMismatchError(
            f"MLflow hands data frames over as {FRAME_DTYPE}, but the input description says dtype {spec.dtype}; leave "
            "it out, or log the model with a tensor signature"
        )
    return spec.model_copy(update={"by_name": True})


def default_signature(handover: HandOver) -> ModelSignature:
    """Any number of instances: named columns where rows are read by name, else tensors in and tensors out."""
    spec, classes = handover.input, len(handover.class_names)
    if isinstance(spec, TabularInput) and spec.by_name:
        inputs = Schema([ColSpec("float", name) for name in spec.features])
        return ModelSignature(inputs=inputs)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(spec.dtype), (-1, *spec.shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
