"""Makes a classifier that answers with an object, as HuggingFace's do, one that MLflow's scoring server can serve.

The server hands a module one tensor, and takes one tensor from it. So the answer must be the class scores alone, and a
network for texts must find out by itself which tokens are padding.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from fieldrepair_monitoring.class_scores import scores_tensor
from fieldrepair_plugin.repairable import Served, inference
from fieldrepair_service.inputs import InputSpec, TextInput


class LogitsOnly(nn.Module):
    """A classifier whose answer has ``logits``, with nothing but these as its answer.

    Args:
        model: takes one batch of served instances first, and ``attention_mask`` where ``padding`` is given.
        padding: token that fills up a text; the mask is 0 where it stands.
    """

    def __init__(self, model: nn.Module, padding: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores ``(n, classes)`` of a batch of served instances."""
        if self.padding is None:
            return self.model(inputs).logits
        return self.model(inputs, attention_mask=(inputs != self.padding).long()).logits


def answers_with_object(module: nn.Module, instances: Served, spec: InputSpec | None) -> bool:
    """Whether a module's class scores are the ``logits`` of what it answers; False too where it fails.

    Args:
        module: the classifier.
        instances: one or two, ``(n, *served shape)``.
        spec: how they are served, if that is known.
    """
    dtype = np.dtype("float32" if instances.dtype.kind == "f" else instances.dtype) if spec is None else spec.dtype
    try:
        with inference(module):
            answer = cast(object, module(torch.from_numpy(np.ascontiguousarray(instances, dtype=dtype))))
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return False  # what is wrong with it is said where the model is checked
    return not isinstance(answer, Tensor) and scores_tensor(answer) is not None


def logits_only(module: nn.Module, spec: InputSpec | None) -> LogitsOnly:
    """The module behind :class:`LogitsOnly`, with a mask for padding where it reads texts and takes one."""
    takes_mask = "attention_mask" in inspect.signature(module.forward).parameters
    return LogitsOnly(module, spec.padding if isinstance(spec, TextInput) and takes_mask else None)


@contextmanager
def pickled_whole() -> Generator[None]:
    """Inside, :class:`LogitsOnly` is pickled with its code: a model server needs no fieldrepair to load it."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(here)
