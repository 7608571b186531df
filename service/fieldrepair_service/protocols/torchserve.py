"""TorchServe's predictions: ``POST /predictions/MODEL[/VERSION]``, as far as bodies and answers are JSON.

The protocol (https://docs.pytorch.org/serve/inference_api.html) leaves both to the model's handler. Read here is what
its own handlers and most others use: a list, ``{"instances": list}`` or ``{"data": list}``, answered by a list with one
entry for each instance, or, for a single instance, by its entry alone. Images as files and forms are not read.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols.base import DecodedExchange, Predictions, as_numbers, read_outputs, read_scores
from fieldrepair_service.protocols.bodies import (
    as_list,
    is_dict,
    is_list,
    media_type,
    only_tensor,
    parse_json,
    unpack,
)
from fieldrepair_service.protocols.named_outputs import read_named
from fieldrepair_service.routes import TORCHSERVE, model_in

_CLASS_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_SUM_TOLERANCE = 1e-5


class TorchServe:
    """Decoder of TorchServe's predictions in JSON."""

    name = TORCHSERVE

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under.
        """
        if media_type(exchange.request_type) != "application/json":
            raise DecodeError(f"content type {exchange.request_type[:80]!r} is not read", reason=drops.CONTENT_TYPE)
        request = unpack(exchange.request_body, exchange.request_encoding, drops.MALFORMED_REQUEST)
        sent, is_batch = _instances(parse_json(request, drops.MALFORMED_REQUEST))
        answer = _entries(
            parse_json(
                unpack(exchange.answer_body, exchange.answer_encoding, drops.MALFORMED_ANSWER), drops.MALFORMED_ANSWER
            )
        )
        # An answer that is no list is the answer to one instance, so the list that was sent is that instance.
        instances: list[object] = sent if is_list(answer) or is_batch else [sent]
        inputs = _numbers(instances)
        predictions = _read_predictions(answer if is_list(answer) else [answer], len(inputs))
        name, version = model_in(exchange.request_path)
        return DecodedExchange(inputs, predictions, model_name=name, model_version=version)


def _instances(request: object) -> tuple[list[object], bool]:
    """The list in a request, and whether it is a batch for certain, rather than possibly a single instance."""
    if not is_dict(request):
        return as_list(request, drops.MALFORMED_REQUEST), False
    forms = [form for form in ("instances", "data") if form in request]
    if len(forms) != 1:
        raise DecodeError(f"need one of instances, data, got {forms or 'none'}", reason=drops.MALFORMED_REQUEST)
    content = as_list(request[forms[0]], drops.MALFORMED_REQUEST)
    return [only_tensor(each) if is_dict(each) else each for each in content], forms[0] == "instances"


def _numbers(instances: list[object]) -> npt.NDArray[np.generic]:
    inputs = as_numbers(instances, "the instances")
    if inputs.size == 0:
        raise DecodeError(f"a batch of shape {inputs.shape} has no values", reason=drops.EMPTY)
    return inputs


def _entries(answer: object) -> object:
    if is_dict(answer) and is_list(answer.get("predictions")):
        return answer["predictions"]
    return answer


def _read_predictions(entries: list[object], count: int) -> Predictions:
    if count == 1 and len(entries) > 1 and all(type(entry) in (int, float) for entry in entries):
        entries = [entries]  # the scores of one instance, without a list around them
    if len(entries) != count:
        raise DecodeError(f"{len(entries)} predictions for {count} instances", reason=drops.OUTPUTS_MISMATCH)
    if all(isinstance(entry, str) for entry in entries):
        return Predictions(None, None, None)  # names of classes; which is which is not known here
    labelled = [entry for entry in entries if is_dict(entry)]
    if not labelled:
        return read_outputs(as_numbers(entries, "the predictions"))
    if len(labelled) < count:
        raise DecodeError("some predictions are JSON objects and some are not", reason=drops.MALFORMED_ANSWER)
    return read_named(entries) or _read_labelled(labelled)


def _read_labelled(entries: list[dict[str, object]]) -> Predictions:
    """Probabilities by label: scores if the labels are the numbers of all classes; otherwise nothing is certain.

    TorchServe names the few most likely classes, by number or, given a file of names, by name. Only where the numbers
    0, 1, ... are all there, and their probabilities sum to 1, is each probability's class known. (The most likely five,
    say, of more classes pass for all if they are 0 to 4 and leave less than 0.00001 to the others. The class
    and the confidence are right then too.)
    """
    rows: list[object] = []
    for entry in entries:
        if not all(_CLASS_NUMBER.fullmatch(label) for label in entry) or len(entry) < 2:
            return Predictions(None, None, None)
        numbers = sorted(map(int, entry))
        if numbers != list(range(len(numbers))) or len(entry) != len(entries[0]):
            return Predictions(None, None, None)
        rows.append([entry[str(number)] for number in numbers])
    scores = as_numbers(rows, "the probabilities")
    if scores.ndim != 2:
        raise DecodeError(f"probabilities of shape {scores.shape}", reason=drops.OUTPUT_SHAPE)
    wide = scores.astype(np.float64)
    with np.errstate(invalid="ignore"):
        if not (bool(np.all(wide >= 0)) and bool(np.all(np.abs(wide.sum(axis=1) - 1) <= _SUM_TOLERANCE))):
            return Predictions(None, None, None)
    return read_scores(scores.astype(np.float32))
