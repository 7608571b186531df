"""A loaded model version as monitor and repair engine see it: scores, logits and embeddings of served inputs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldrepair_monitoring.class_scores import embedding_of, scores_tensor, to_float
from fieldrepair_monitoring.errors import HandOverMismatchError, ModelRunError
from fieldrepair_monitoring.features import Features, FloatArray, Output
from fieldrepair_service.inputs import TabularInput

if TYPE_CHECKING:
    from fieldrepair_service.inputs import InputSpec


class ModelDescription(Protocol):
    """The part of a hand-over that running the model needs."""

    @property
    def input(self) -> InputSpec:
        """The served form of one instance."""
        ...

    @property
    def embedding_layer(self) -> str:
        """Dotted name of the layer whose input is the embedding."""
        ...

    @property
    def output(self) -> Output:
        """What the module returns."""
        ...


class ServedModel:
    """A module with its hand-over's description. The module is put into evaluation mode.

    Args:
        module: the loaded model.
        handover: how its inputs look, which layer is the embedding, what its outputs are.
        device: where to run it.
        batch_size: instances per forward pass.

    Raises:
        HandOverMismatchError: if the module has no layer of that name.
    """

    def __init__(
        self, module: nn.Module, handover: ModelDescription, *, device: str = "cpu", batch_size: int = 256
    ) -> None:
        self.module = module.to(device).eval()
        self.handover = handover
        self._device = torch.device(device)
        self._batch_size = batch_size
        try:
            self._layer = module.get_submodule(handover.embedding_layer)
        except AttributeError as error:
            raise HandOverMismatchError(
                f"the model has no layer {handover.embedding_layer!r}; pass embedding_layer as one of: "
                f"{layer_names(module)}"
            ) from error

    def outputs(self, x: npt.NDArray[np.generic]) -> FloatArray:
        """Raw outputs: ``(n, *served shape)`` to ``(n, classes)`` float32."""
        return self.features(x).outputs

    def logits(self, x: npt.NDArray[np.generic]) -> FloatArray:
        """Logits: ``(n, *served shape)`` to ``(n, classes)``; if it returns probabilities, their logarithm."""
        outputs = self.outputs(x)
        if self.handover.output == "logits":
            return outputs
        return np.log(np.clip(outputs, np.finfo(np.float32).tiny, None))

    def scores(self, x: npt.NDArray[np.generic]) -> FloatArray:
        """Probabilities: ``(n, *served shape)`` to ``(n, classes)`` float32, rows sum to 1."""
        return self.features(x).scores

    def embeddings(self, x: npt.NDArray[np.generic]) -> FloatArray:
        """Embeddings: ``(n, *served shape)`` to ``(n, d)`` float32."""
        return self.features(x).embeddings

    def features(self, x: npt.NDArray[np.generic]) -> Features:
        """Outputs, scores and embeddings in one pass, in batches, without gradients.

        Args:
            x: ``(n, *served shape)``, any numeric dtype; cast to the dtype that the hand-over names.

        Raises:
            HandOverMismatchError: if the instances do not have the served shape, or the module does not give one
                row of outputs and one embedding per instance.
            ModelRunError: if the module itself fails.
        """
        expected = self.handover.input.shape
        if x.shape[1:] != expected or len(x) == 0:
            raise HandOverMismatchError(f"expected at least one instance of shape {expected}, got shape {x.shape}")
        # Training code may have flipped the mode since construction; scores must never depend on the batch.
        self.module.eval()
        outputs: list[FloatArray] = []
        embeddings: list[FloatArray] = []
        with torch.inference_mode(), _capture_input(self._layer) as captured:
            for start in range(0, len(x), self._batch_size):
                batch = np.ascontiguousarray(x[start : start + self._batch_size], dtype=self.handover.input.dtype)
                outputs.append(_rows(self._run(batch), len(batch)))
                embeddings.append(self._embedding(captured, len(batch)))
                captured.clear()
        raw = np.concatenate(outputs)
        rows = np.asarray(x, dtype=np.float32) if isinstance(self.handover.input, TabularInput) else None
        return Features(raw, to_scores(raw, self.handover.output), np.concatenate(embeddings), rows)

    def _run(self, batch: npt.NDArray[np.generic]) -> object:
        try:
            return cast(object, self.module(torch.from_numpy(batch).to(self._device)))
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ModelRunError(
                f"the model fails on {len(batch)} instances of shape {batch.shape[1:]} as {batch.dtype}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _embedding(self, captured: list[torch.Tensor], size: int) -> FloatArray:
        name = self.handover.embedding_layer
        if not captured:
            raise HandOverMismatchError(
                f"layer {name!r} is not called with a tensor when the model runs; pass another embedding_layer, one "
                f"of: {layer_names(self.module)}"
            )
        # A layer that is called several times (weight sharing) counts with its last call, nearest the output.
        tensor = captured[-1]
        if tensor.ndim == 0 or tensor.shape[0] != size:
            raise HandOverMismatchError(
                f"the input of layer {name!r} has shape {tuple(tensor.shape)} for {size} instances, expected "
                f"({size}, ...); pass another embedding_layer, one of: {layer_names(self.module)}"
            )
        return _to_numpy(embedding_of(tensor, self._layer))


def to_scores(outputs: FloatArray, kind: Output) -> FloatArray:
    """Probabilities of raw outputs: ``(n, classes)`` to ``(n, classes)`` float32, rows sum to 1."""
    if kind == "probabilities":
        return outputs
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def layer_names(module: nn.Module, limit: int = 12) -> str:
    """The model's leaf layers nearest its output, for messages."""
    modules = cast("Iterator[tuple[str, nn.Module]]", module.named_modules())
    leaves = [name for name, child in modules if name and not any(child.children())]
    shown = leaves[-limit:]
    return ("..., " if len(leaves) > limit else "") + ", ".join(shown)


@contextmanager
def _capture_input(layer: nn.Module) -> Generator[list[torch.Tensor]]:
    captured: list[torch.Tensor] = []

    def remember(_layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], torch.Tensor):
            captured.append(arguments[0].detach())

    handle = layer.register_forward_pre_hook(remember)
    try:
        yield captured
    finally:
        handle.remove()


def _rows(output: object, size: int) -> FloatArray:
    scores = scores_tensor(output)
    if scores is None:
        raise HandOverMismatchError(
            f"the model returns a {type(output).__name__}, expected one tensor of shape (n, classes), or an object "
            "with such a tensor as its logits; wrap the model so that it returns its class scores"
        )
    if scores.ndim != 2 or scores.shape[0] != size or scores.shape[1] < 2:
        raise HandOverMismatchError(
            f"the model returns shape {tuple(scores.shape)} for {size} instances, expected ({size}, classes) with at "
            "least 2 classes"
        )
    return _to_numpy(scores)


def _to_numpy(tensor: torch.Tensor) -> FloatArray:
    return cast(FloatArray, to_float(tensor).numpy())
