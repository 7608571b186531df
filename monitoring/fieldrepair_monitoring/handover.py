"""The hand-over: what is stored with a model version so that it can be watched and repaired, and how to read it back.

It lives as two files in an MLflow run, ``handover.json`` and ``reference.npz``; the model version's tag
``fieldrepair.handover`` holds the URI of their folder. The folder is complete before the tag points at it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fieldrepair_monitoring.errors import (
    HandOverError,
    HandOverMissingError,
    ModelVersionMissingError,
    ReferenceSetError,
    RegistryError,
)
from fieldrepair_monitoring.features import Output
from fieldrepair_monitoring.model_cache import recall, remember
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.registry import download, load_module, version_tag
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, InputSpec, read_input_spec

__all__ = ["HANDOVER_TAG", "HandOver", "load_handover", "load_module", "read_handover"]

HANDOVER_TAG = "fieldrepair.handover"
FORMAT_VERSION = 2
_OF_IMAGES = 1
"""Format of a hand-over for images: nothing about it has changed, and an older fieldrepair can read it."""
HANDOVER_FILE = "handover.json"
REFERENCE_FILE = "reference.npz"


@dataclass(frozen=True)
class HandOver:
    """What monitor and repair need to know about a model version."""

    input: InputSpec
    """The served form of one instance."""
    class_names: tuple[str, ...]
    """One per output of the model, in order."""
    embedding_layer: str
    """Dotted name of the layer whose input is the embedding."""
    output: Output
    """What the module returns: logits, or probabilities that sum to 1."""
    reference: Reference
    """Training and validation samples with labels."""
    accuracy_by_world: dict[int, float]
    """Share of right answers on the validation inputs of each world, measured when the hand-over was made."""

    @property
    def reference_accuracy(self) -> float:
        """Share of right answers on the validation inputs of world 0, the original one."""
        return self.accuracy_by_world[0]

    def save(self, folder: Path) -> None:
        """Write ``handover.json`` and ``reference.npz`` into an existing folder."""
        self.reference.save_npz(folder / REFERENCE_FILE)
        (folder / HANDOVER_FILE).write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """Everything but the reference set's arrays, ready for JSON."""
        return {
            "format_version": _OF_IMAGES if isinstance(self.input, ImageInput) else FORMAT_VERSION,
            "input": self.input.model_dump(mode="json"),
            "class_names": list(self.class_names),
            "embedding_layer": self.embedding_layer,
            "output": self.output,
            "accuracy_by_world": {str(world): accuracy for world, accuracy in self.accuracy_by_world.items()},
        }


class _Stored(BaseModel):
    """The layout of ``handover.json``."""

    model_config = ConfigDict(extra="ignore")

    format_version: int
    input: dict[str, Any]
    class_names: list[str] = Field(min_length=2)
    embedding_layer: str
    output: Output
    accuracy_by_world: dict[int, float]


def read_handover(folder: Path) -> HandOver:
    """Read the two files back from a folder.

    Raises:
        HandOverError: if a file is absent or unreadable, or was written by a newer fieldrepair.
        ReferenceSetError: if the reference set is damaged.
    """
    path = folder / HANDOVER_FILE
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HandOverError(f"{path} does not exist; run `fieldrepair attach` for this model version again") from error
    except (ValueError, OSError) as error:
        raise HandOverError(f"cannot read {path}: {error}; run `fieldrepair attach` again") from error
    version = cast(dict[str, object], raw).get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise HandOverError(
            f"{path} has format {version}, this fieldrepair reads up to {FORMAT_VERSION}; update fieldrepair here"
        )
    try:
        stored = _Stored.model_validate(raw)
        spec = read_input_spec(stored.input)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}" for problem in error.errors()
        )
        raise HandOverError(f"{path} is damaged ({problems}); run `fieldrepair attach` again") from error
    except InputError as error:
        raise HandOverError(f"{path} is damaged (input: {error}); run `fieldrepair attach` again") from error
    return HandOver(
        input=spec,
        class_names=tuple(stored.class_names),
        embedding_layer=stored.embedding_layer,
        output=stored.output,
        reference=Reference.load_npz(folder / REFERENCE_FILE),
        accuracy_by_world=stored.accuracy_by_world,
    )


def load_handover(name: str, version: str, cache_dir: Path | None = None) -> HandOver:
    """The hand-over of a registered model version.

    Args:
        name: registered model.
        version: its version, for example ``"3"``.
        cache_dir: keep downloads here between processes. A hand-over's folder never changes, so a hit needs only
            the version's tag from the registry; when that does not answer, the tag it had last counts. Default:
            download to a temporary folder.

    Raises:
        ModelVersionMissingError: there is no such version.
        HandOverMissingError: the version has no hand-over; the message says how to attach one.
        HandOverError: there is one, but it cannot be read.
        RegistryError: MLflow could not answer.
    """
    uri = _tag(name, version, cache_dir)
    if not uri:
        raise HandOverMissingError(
            f"model version models:/{name}/{version} has no hand-over (tag {HANDOVER_TAG}), so it can be neither "
            f"watched nor repaired; store one with: fieldrepair attach models:/{name}/{version} --reference FILE.npz"
        )
    if cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="fieldrepair-handover-") as scratch:
            return read_handover(download(uri, Path(scratch)))
    return _cached(uri, cache_dir)


def _tag(name: str, version: str, cache_dir: Path | None) -> str | None:
    try:
        uri = version_tag(name, version, HANDOVER_TAG)
    except ModelVersionMissingError:
        raise
    except RegistryError:
        known = recall(cache_dir, name, version) if cache_dir is not None else None
        if known is None:
            raise
        return known
    if uri and cache_dir is not None:
        remember(cache_dir, name, version, uri)
    return uri


def _cached(uri: str, cache_dir: Path) -> HandOver:
    home = cache_dir / uri.split(":", 1)[-1].strip("/").replace("/", "-")
    if (home / HANDOVER_FILE).exists():
        try:
            return read_handover(home)
        except (HandOverError, ReferenceSetError):
            shutil.rmtree(home)  # a damaged copy is fetched anew
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=cache_dir) as scratch:
        fetched = download(uri, Path(scratch))
        handover = read_handover(fetched)
        # Two processes may fetch at once: each moves a whole copy into place, and the first one's stays.
        if not home.exists():
            copied = Path(shutil.copytree(fetched, Path(scratch) / "whole"))
            try:
                copied.rename(home)
            except OSError:
                if not (home / HANDOVER_FILE).exists():
                    raise
    return handover
