"""Label Studio's JSON: tasks out, annotations in. As documented under "Import pre-annotated data", "Label Studio JSON
format of annotated tasks" and "Webhook event format".

A task carries the case book's number of its question in ``data.fieldrepair_task``; Label Studio gives ``data`` back
unchanged with the annotations, so answers find their way home whatever ids Label Studio uses itself.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldrepair_service.case_book import ImportedAnswer
from fieldrepair_service.errors import BadUpload
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput

ANNOTATION_CREATED = "ANNOTATION_CREATED"
_FROM_NAME = "label"
Spec = ImageInput | TabularInput | TextInput


class _Form(BaseModel):
    """Label Studio sends much more than is needed here; what is needed is checked."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Person(_Form):
    id: int | None = None
    email: str | None = None


class _Value(_Form):
    choices: list[str] = Field(min_length=1, max_length=1)


class _Result(_Form):
    from_name: str = _FROM_NAME
    type: Literal["choices"]
    value: _Value


class Annotation(_Form):
    """One person's answer."""

    result: list[_Result] = Field(max_length=1)
    completed_by: int | str | _Person | None = None
    was_cancelled: bool = False


class _Data(_Form):
    fieldrepair_task: int = Field(ge=1, le=2**31 - 1, strict=True)


class _Task(_Form):
    data: _Data
    annotations: list[Annotation] = Field(default_factory=list[Annotation])


class Webhook(_Form):
    """What Label Studio posts when something happened."""

    action: str = Field(max_length=100)
    task: _Task | None = None
    annotation: Annotation | None = None


def labelling_config(spec: Spec, class_names: Sequence[str]) -> str:
    """The labelling interface for a Label Studio project: the field input, and one choice of the classes."""
    kind, name, value = {
        "image": ("Image", "image", "$image"),
        "tabular": ("Table", "row", "$row"),
        "text": ("Text", "text", "$text"),
    }[spec.kind]
    choices = "\n".join(f"    <Choice value={quoteattr(choice)}/>" for choice in class_names)
    return (
        f'<View>\n  <{kind} name="{name}" value="{value}"/>\n'
        f'  <Choices name="{_FROM_NAME}" toName="{name}" choice="single" showInline="true">\n{choices}\n'
        "  </Choices>\n</View>\n"
    )


def choice(spec: Spec, class_name: str) -> dict[str, Any]:
    """A result that says: it is this class."""
    to_name = {"image": "image", "tabular": "row", "text": "text"}[spec.kind]
    return {"from_name": _FROM_NAME, "to_name": to_name, "type": "choices", "value": {"choices": [class_name]}}


def read_annotations(text: str, default_labeller: str) -> list[ImportedAnswer]:
    """Answers of an export of Label Studio ("JSON"), in its order. Tasks without annotations are passed over.

    Raises:
        BadUpload: it is not such an export; names the line.
    """
    answers: list[ImportedAnswer] = []
    for number, (line, element) in enumerate(_elements(text), start=1):
        try:
            task = _Task.model_validate(element)
        except ValidationError as error:
            raise BadUpload(line, f"task {number} of the list: {_first_problem(error)}") from error
        task_id = task.data.fieldrepair_task
        answers += [to_answer(line, task_id, annotation, default_labeller) for annotation in task.annotations]
    return answers


def to_answer(line: int, task_id: int, annotation: Annotation, default_labeller: str) -> ImportedAnswer:
    """An annotation as the case book takes it.

    Raises:
        BadUpload: it has neither a choice nor is it a skip.
    """
    who = annotation.completed_by
    if isinstance(who, _Person):
        who = who.email or who.id
    labeller = default_labeller if who is None else f"label-studio:{who}" if isinstance(who, int) else who
    if annotation.was_cancelled:
        return ImportedAnswer(line, task_id, labeller, None)
    if not annotation.result:
        raise BadUpload(line, f"the annotation of task {task_id} has no choice; skipped ones say was_cancelled")
    return ImportedAnswer(line, task_id, labeller, annotation.result[0].value.choices[0])


def _elements(text: str) -> Generator[tuple[int, object]]:
    """(line, element) of a JSON list; the standard parser does not say where an element stands."""
    decoder = json.JSONDecoder()
    at = _skip_space(text, 0)
    if text[at : at + 1] != "[":
        raise BadUpload(_line(text, at), "expected a JSON list of tasks")
    at = _skip_space(text, at + 1)
    if text[at : at + 1] == "]":
        at += 1
    else:
        while True:
            try:
                element, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise BadUpload(error.lineno, f"this is no JSON: {error.msg} (column {error.colno})") from error
            except RecursionError as error:
                raise BadUpload(_line(text, at), "this is nested too deep") from error
            yield _line(text, at), element
            at = _skip_space(text, end)
            mark = text[at : at + 1]
            if mark not in (",", "]"):
                raise BadUpload(_line(text, at), "expected a comma or the end of the list")
            at = _skip_space(text, at + 1)
            if mark == "]":
                break
    if _skip_space(text, at) != len(text):
        raise BadUpload(_line(text, at), "there is something after the end of the list")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
