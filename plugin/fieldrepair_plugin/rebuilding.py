"""Makes a version that was logged as an exported graph (pt2) repairable: the same network, as a trainable module.

MLflow's format ``pt2`` holds a graph and its weights, but not the code that made them, and what is loaded from it
cannot be put into training mode. Whoever has the code can name a factory; the weights are then in the version itself.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import mlflow
import numpy as np
import torch
from mlflow import pytorch as mlflow_pytorch
from mlflow.models import Model
from torch import Tensor, nn

from fieldrepair_monitoring.class_scores import scores_tensor
from fieldrepair_monitoring.errors import HandOverMismatchError, UnsupportedModelError
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.registry import MODULE_TAG, download, registry_errors
from fieldrepair_plugin.handover_store import ARTIFACT_FOLDER
from fieldrepair_plugin.repairable import inference

Factory: TypeAlias = Callable[[], nn.Module]

_BATCHES = (8, 1)
"""Instances per comparison; an exported graph may take one number of them only."""
_TOLERANCE = 1e-3
"""Largest difference of an output, as a share of the largest output, that counts as the same: rounding differs."""


@dataclass(frozen=True)
class Rebuilt:
    """A trainable module that answers as the version does."""

    module: nn.Module
    code_paths: tuple[str, ...]
    """What must be importable where it is loaded."""
    requirements: tuple[str, ...]
    """The version's list of packages."""
    notes: tuple[str, ...]
    """What could not be checked."""


def rebuild(
    name: str,
    version: str,
    factory: Factory | str | None,
    state_dict: str | Path | None,
    code_paths: Sequence[str | Path],
    reference: Reference,
) -> Rebuilt:
    """Make the version's network anew, give it its weights, and compare it with the version.

    Args:
        name: registered model.
        version: its version, logged as pt2.
        factory: makes the untrained network, or ``"MODULE:FUNCTION"``.
        state_dict: file with the weights; default: those in the version.
        code_paths: files or folders that define the network.
        reference: some of its validation inputs are what the two are compared on.

    Raises:
        UnsupportedModelError: the version is not pt2, the factory cannot be used, or its network takes other weights.
        HandOverMismatchError: the network answers differently.
        RegistryError: MLflow could not answer.
    """
    uri = f"models:/{name}/{version}"
    if factory is None:
        raise UnsupportedModelError("a state_dict alone is no network: name the factory that makes it (--factory)")
    paths = tuple(str(Path(path).resolve()) for path in code_paths)
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UnsupportedModelError(f"code_paths names {missing[0]}, which does not exist")
    module = _made(factory, paths)
    with tempfile.TemporaryDirectory(prefix="fieldrepair-model-") as scratch:
        folder = download(uri, Path(scratch))
        exported = _exported(uri, folder)
        weights = exported.state_dict() if state_dict is None else _weights(Path(state_dict))
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            why = " ".join(str(error).split())
            raise UnsupportedModelError(f"the network that the factory makes takes other weights: {why}") from error
        notes = _compare(uri, module.eval(), exported, reference)
        listed = folder / "requirements.txt"
        requirements = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
        return Rebuilt(module, paths, tuple(line for line in requirements if line.strip()), notes)


def store_module(run_id: str, name: str, version: str, rebuilt: Rebuilt) -> str:
    """Store the module in a run, and point the version's tag at it: monitor and worker load it from then on.

    Returns:
        Its URI.

    Raises:
        RegistryError: MLflow could not take it.
    """
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory(prefix="fieldrepair-module-") as scratch:
        folder = Path(scratch) / "module"
        mlflow_pytorch.save_model(
            rebuilt.module,
            str(folder),
            code_paths=list(rebuilt.code_paths) or None,
            pip_requirements=list(rebuilt.requirements) or ["torch"],
            serialization_format="pickle",
        )
        place = f"{ARTIFACT_FOLDER}/module-{_digest(rebuilt.module)}"
        with registry_errors(f"artifacts of run {run_id}"):
            client.log_artifacts(run_id, str(folder), place)
    uri = f"runs:/{run_id}/{place}"
    with registry_errors(f"model version models:/{name}/{version}"):
        client.set_model_version_tag(name, version, MODULE_TAG, uri)
    return uri


def _made(factory: Factory | str, code_paths: Sequence[str]) -> nn.Module:
    """What the factory makes; found by name as the model server finds code: beside the folders of ``code_paths``."""
    what = factory if isinstance(factory, str) else getattr(factory, "__name__", "factory")
    if isinstance(factory, str):
        where, _, function = factory.partition(":")
        if not where or not function:
            raise UnsupportedModelError(f"expected a factory as MODULE:FUNCTION, got {factory!r}")
        sys.path[:0] = [str(Path(path).parent) for path in code_paths]
        try:
            found = cast(object, getattr(importlib.import_module(where), function))
        except (ImportError, AttributeError) as error:
            raise UnsupportedModelError(f"the factory {factory} cannot be imported: {error}") from error
        finally:
            del sys.path[: len(code_paths)]
        if not callable(found):
            raise UnsupportedModelError(f"the factory {factory} is a {type(found).__name__}, expected a function")
        factory = cast(Factory, found)
    try:
        made = cast(object, factory())
    except Exception as error:
        raise UnsupportedModelError(f"the factory {what} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, torch.jit.ScriptModule) or not isinstance(made, nn.Module):
        raise UnsupportedModelError(f"the factory {what} makes a {type(made).__name__}, expected a torch.nn.Module")
    return made


def _exported(uri: str, folder: Path) -> nn.Module:
    flavours = cast(dict[str, dict[str, Any]], Model.load(str(folder)).flavors)
    data = folder / str(flavours.get("pytorch", {}).get("model_data", "data"))
    if not (data / "model.pt2").exists():
        raise UnsupportedModelError(f"{uri} was not logged as pt2: a factory is for those only, leave it out")
    return cast(nn.Module, mlflow_pytorch.load_model(str(folder)))


def _weights(path: Path) -> Mapping[str, Tensor]:
    try:
        loaded = cast(object, torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UnsupportedModelError(
            f"cannot read {path} as what torch.save(module.state_dict()) writes: {error}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise UnsupportedModelError(f"{path} holds a {type(loaded).__name__}, expected a state dict")
    return cast("Mapping[str, Tensor]", loaded)


def _compare(uri: str, module: nn.Module, exported: nn.Module, reference: Reference) -> tuple[str, ...]:
    """Run both on validation inputs; a note if the graph takes none of our batches."""
    problem = ""
    for size in _BATCHES:
        x = reference.val_x[:size]
        batch = torch.from_numpy(x.astype(np.float32) if x.dtype.kind == "f" else np.ascontiguousarray(x))
        try:
            with torch.no_grad():
                wanted = scores_tensor(cast(object, exported(batch)))
            with inference(module):
                got = scores_tensor(cast(object, module(batch)))
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        if wanted is None or got is None or wanted.shape != got.shape:
            raise HandOverMismatchError(f"the network that the factory makes gives something else than {uri}")
        difference = float((wanted - got).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise HandOverMismatchError(
                f"the network that the factory makes differs from {uri} by up to {difference:.3g} on {size} validation "
                "inputs; are these its weights, and is it the same network?"
            )
        return ()
    return (f"it could not be compared with the exported graph, which refuses batches of 8 and of 1: {problem}",)


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256(str(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
