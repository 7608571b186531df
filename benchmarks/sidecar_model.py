"""Models for :mod:`benchmarks.sidecar`: one that answers at once, and a small CNN for MLflow's scoring server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_ANSWER = b'{"predictions": [[0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.55]]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]


async def answer_at_once(scope: Any, receive: Any, send: Any) -> None:
    """A trivial ASGI application."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


def save_cnn(folder: Path) -> None:
    """Save a CNN of about 50,000 weights for rows of 784 values, as an MLflow model."""
    import numpy as np
    import torch
    from mlflow import pytorch  # pyright: ignore[reportPrivateImportUsage]  # these take seconds, and only this needs them
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1),
    )  # fmt: skip
    rows, scores = (Schema([TensorSpec(np.dtype(np.float32), (-1, width))]) for width in (784, 10))
    signature = ModelSignature(rows, scores)
    pytorch.save_model(model, folder, signature=signature, serialization_format="pickle", pip_requirements=[])


if __name__ == "__main__":
    save_cnn(Path(sys.argv[1]))
