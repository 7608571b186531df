"""Builds a hand-over from a model and its reference set, and refuses one that could only mislead later.

A hand-over is read months later, by a monitor at night. So everything that can be found out now is found out now:
the model is run on its own validation inputs, exactly as the model server would run it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fieldrepair_monitoring.class_scores import HEADS
from fieldrepair_monitoring.errors import HandOverMismatchError, ModelRunError, UnsupportedModelError
from fieldrepair_monitoring.features import Output
from fieldrepair_monitoring.handover import HandOver
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.served_model import FloatArray, ServedModel, layer_names
from fieldrepair_plugin.guess_input import guess_input, in_words
from fieldrepair_plugin.signatures import served_by
from fieldrepair_service.inputs import InputSpec

_AS_SERVED = "the reference set must hold inputs exactly as a client sends them to the model server"

MIN_TRAIN = 50
MIN_VALIDATION = 50


@dataclasses.dataclass(frozen=True)
class CheckedHandOver:
    """A hand-over that holds together, and what a person should know about it."""

    handover: HandOver
    notes: tuple[str, ...]
    """What was guessed, and what looks odd; one sentence each."""


def prepare_handover(
    module: nn.Module,
    reference: Reference,
    *,
    class_names: Sequence[str] | None = None,
    input: InputSpec | None = None,
    feature_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    embedding_layer: str | None = None,
    allow_poor_accuracy: bool = False,
    device: str = "cpu",
) -> CheckedHandOver:
    """Check a model against its reference set and measure what the hand-over holds.

    Args:
        module: the model as MLflow loads it; it takes served instances as a tensor and returns ``(n, classes)``.
        reference: training and validation samples in served form, with labels.
        class_names: one per output; default ``"0", "1", ...``.
        input: the served form; default: guessed from the reference set where that leaves no doubt.
        feature_names: names of a table row's numbers, for the guess.
        columns: names of the columns that the model's signature has, if it has any.
        embedding_layer: layer whose input is the embedding; default: the linear or convolutional one that runs last.
        allow_poor_accuracy: take a model that is right no more often than chance.
        device: where to run the model.

    Raises:
        HandOverMismatchError: the parts contradict each other; the message names both sides and the remedy.
        UnsupportedModelError: the module is of a kind that cannot be watched.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "the model is a TorchScript module, whose layers cannot be watched; pass the nn.Module it was made from"
        )
    notes: list[str] = []
    _check_counts(reference)
    if input is None:
        input = guess_input(reference, columns or feature_names)
        notes.append(f"guessed from the reference set: {in_words(input)}")
    elif input.shape != reference.shape:
        raise HandOverMismatchError(
            f"the input description gives instances of shape {input.shape}, but the reference set holds instances of "
            f"shape {reference.shape}; {_AS_SERVED}"
        )
    input = served_by(input, columns)
    with _evaluating(module):
        if embedding_layer is None:
            embedding_layer = _head(module, reference, input, device)
        draft = HandOver(input, (), embedding_layer, "logits", reference, {})
        outputs = _run(ServedModel(module, draft, device=device), reference)
    names = _class_names(class_names, outputs.shape[1], reference)
    right = outputs.argmax(axis=1) == reference.val_y
    accuracy = {world: float(right[reference.val_world == world].mean()) for world in np.unique(reference.val_world)}
    notes += _judge_accuracy(accuracy[0], reference, len(names), allow_poor_accuracy=allow_poor_accuracy)
    handover = dataclasses.replace(
        draft,
        class_names=names,
        output=_output_kind(outputs),
        accuracy_by_world={int(world): share for world, share in accuracy.items()},
    )
    return CheckedHandOver(handover, tuple(notes))


def _check_counts(reference: Reference) -> None:
    original = int((reference.val_world == 0).sum())
    for name, count, least in (
        ("training inputs", len(reference.train_x), MIN_TRAIN),
        ("validation inputs of the original world", original, MIN_VALIDATION),
    ):
        if count < least:
            raise HandOverMismatchError(f"the reference set needs at least {least} {name}, got {count}")


def _class_names(given: Sequence[str] | None, outputs: int, reference: Reference) -> tuple[str, ...]:
    names = tuple(given) if given is not None else tuple(str(index) for index in range(outputs))
    if len(names) != outputs:
        raise HandOverMismatchError(f"the model has {outputs} outputs, but {len(names)} class names were given")
    if len(set(names)) != len(names) or not all(names):
        raise HandOverMismatchError(f"class names must be distinct and not empty, got {list(names)}")
    highest = int(max(reference.train_y.max(), reference.val_y.max()))
    if highest >= outputs:
        raise HandOverMismatchError(
            f"the model has {outputs} outputs, so labels go from 0 to {outputs - 1}, but the reference set holds label "
            f"{highest}; number the classes from 0 in the order of the model's outputs"
        )
    return names


def _run(model: ServedModel, reference: Reference) -> FloatArray:
    """Outputs on all validation inputs, through the same code that the monitor uses."""
    try:
        outputs = model.features(reference.val_x).outputs
    except ModelRunError as error:
        raise HandOverMismatchError(f"{error}; {_AS_SERVED}") from error
    if not np.isfinite(outputs).all():
        raise HandOverMismatchError("the model returns NaN or infinity on the reference set's validation inputs")
    return outputs


def _head(module: nn.Module, reference: Reference, spec: InputSpec, device: str) -> str:
    """Name of the linear or convolutional layer that runs last; the order of definition can differ from that of use."""
    called: list[str] = []
    modules = cast("Iterator[tuple[str, nn.Module]]", module.named_modules())
    heads = {name: layer for name, layer in modules if isinstance(layer, HEADS)}
    if not heads:
        raise HandOverMismatchError(
            "the model has no linear or convolutional layer (nn.Linear, nn.Conv2d, ...) whose input could be the "
            f"embedding; pass embedding_layer (or --embedding-layer), one of: {layer_names(module)}"
        )
    handles = [layer.register_forward_pre_hook(_note(name, called)) for name, layer in heads.items()]
    sample = torch.from_numpy(np.ascontiguousarray(reference.val_x[:2], dtype=spec.dtype)).to(device)
    try:
        with torch.inference_mode():
            module.to(device)(sample)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise HandOverMismatchError(
            f"the model fails on the reference set's instances of shape {spec.shape} as {spec.dtype}: {error}; "
            f"{_AS_SERVED}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise HandOverMismatchError(
            "none of the model's linear and convolutional layers is called when it runs; pass embedding_layer (or "
            f"--embedding-layer), one of: {layer_names(module)}"
        )
    return called[-1]


def _note(name: str, called: list[str]) -> Any:
    def hook(_layer: nn.Module, _arguments: tuple[Any, ...]) -> None:
        called.append(name)

    return hook


def _output_kind(outputs: FloatArray) -> Output:
    sums = outputs.sum(axis=1)
    return "probabilities" if outputs.min() >= -1e-6 and np.abs(sums - 1.0).max() < 1e-3 else "logits"


def _judge_accuracy(accuracy: float, reference: Reference, classes: int, *, allow_poor_accuracy: bool) -> list[str]:
    """Catch a reference set in the wrong layout, scale or label order: the model then answers by chance."""
    labels = reference.val_y[reference.val_world == 0]
    chance = 1.0 / classes
    # Two standard errors above guessing: a model that is any good lies far above it.
    limit = chance + 2.0 * math.sqrt(chance * (1.0 - chance) / len(labels))
    if accuracy <= limit:
        message = (
            f"the model is right on {accuracy:.1%} of the {len(labels)} validation inputs, which is chance level for "
            f"{classes} classes ({chance:.1%}). Usual causes: the reference set is scaled or laid out differently from "
            "what the model was trained on (0..255 instead of 0..1, HWC instead of CHW, normalisation left out), or "
            "its labels are numbered differently from the model's outputs"
        )
        if not allow_poor_accuracy:
            raise HandOverMismatchError(f"{message}. If this is right, pass allow_poor_accuracy")
        return [message]
    commonest = float(np.bincount(labels).max() / len(labels))
    if accuracy < commonest:
        return [
            f"the model is right on {accuracy:.1%} of the validation inputs; always answering the commonest class "
            f"would be right on {commonest:.1%}. Check that the reference set is scaled and labelled as in training"
        ]
    return []


@contextmanager
def _evaluating(module: nn.Module) -> Generator[None]:
    """Run in evaluation mode and give the module back in the mode it came in."""
    modes = {child: child.training for child in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for child, training in modes.items():
            child.training = training
