"""Field inputs as requests for a version's own server: in the form that its signature asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import orjson

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def request_columns(model: Path) -> list[str] | None:
    """The columns that a model's signature names; None if it takes tensors, or has none. Imports mlflow.

    Args:
        model: the model's folder.

    Raises:
        MlflowException: it is not a model's folder.
    """
    from mlflow.models import Model

    signature = cast("ModelSignature | None", Model.load(str(model)).signature)
    if signature is None or signature.inputs is None or signature.inputs.is_tensor_spec():
        return None
    return cast("list[str]", signature.inputs.input_names())


def request_body(instances: npt.NDArray[np.generic], columns: list[str] | None) -> bytes:
    """JSON for ``/invocations``: tensors, or a data frame where there are columns.

    Args:
        instances: ``(n, *served shape)``.
        columns: from :func:`request_columns`.
    """
    if columns is None:
        return orjson.dumps({"inputs": instances.tolist()})
    rows = instances.reshape(len(instances), -1).tolist()
    return orjson.dumps({"dataframe_split": {"columns": columns, "data": rows}})
