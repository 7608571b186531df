"""What we ask of MLflow's registry, with its exceptions turned into ours. mlflow is imported at first use."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError, UnsupportedModelError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from torch import nn

MODULE_TAG = "fieldrepair.module"
"""Of a version that cannot be trained itself (pt2): URI of the same network as a pickled module."""
_LOGGED_MODEL = re.compile(r"models:/(m-[^/@]+)$")
_RELOG = (
    "log it again with fieldrepair_plugin.log_model(...), or with "
    'mlflow.pytorch.log_model(..., serialization_format="pickle"), and attach the new version'
)


@contextmanager
def registry_errors(what: str) -> Generator[None]:
    """Turn MLflow's exceptions into :class:`RegistryError` (or :class:`ModelVersionMissingError`) naming ``what``."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        code = str(error.error_code)
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise ModelVersionMissingError(f"{what}: {error.message}") from error
        raise RegistryError(f"{what}: MLflow answered {code}: {error.message}") from error
    except OSError as error:  # connection refused, artifact store unreachable, disk full
        raise RegistryError(f"{what}: {error}") from error


def model_version(name: str, version: str) -> ModelVersion:
    """The registry's entry of a model version.

    Raises:
        ModelVersionMissingError: there is no such version, or it was deleted.
        RegistryError: MLflow could not answer.
    """
    import mlflow

    with registry_errors(f"model version models:/{name}/{version}"):
        return mlflow.MlflowClient().get_model_version(name, version)


def version_tag(name: str, version: str, tag: str) -> str | None:
    """A model version's tag; if the version lacks it, the tag of the logged model it was registered from.

    Raises:
        ModelVersionMissingError: there is no such version, or it was deleted.
        RegistryError: MLflow could not answer.
    """
    import mlflow

    entry = model_version(name, version)
    value = entry.tags.get(tag)
    # MLflow's own stores name the logged model in the source, models:/m-..., and leave model_id empty.
    logged = entry.model_id or _LOGGED_MODEL.match(str(entry.source))
    if value or not logged:
        return value
    model_id = logged if isinstance(logged, str) else logged[1]
    try:
        with registry_errors(f"logged model {model_id}"):
            return mlflow.MlflowClient().get_logged_model(model_id).tags.get(tag)
    except ModelVersionMissingError:
        return None  # the version has outlived the logged model


def download(uri: str, folder: Path) -> Path:
    """Fetch an artifact folder and return where it lies (the store's own path if that is local).

    Raises:
        RegistryError: it is not there or cannot be fetched.
    """
    import mlflow.artifacts

    with registry_errors(f"artifacts {uri}"):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def version_signature(name: str, version: str) -> ModelSignature | None:
    """What the version's model server takes and gives, as it was logged; None if that was not.

    Raises:
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not answer.
    """
    from mlflow.models import get_model_info

    uri = f"models:/{name}/{version}"
    with registry_errors(f"model {uri}"):
        return cast("ModelSignature | None", get_model_info(uri).signature)


def module_uri(name: str, version: str) -> str:
    """Where the version's trainable module is: with the version itself, unless another one was attached to it.

    Raises:
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not answer.
    """
    return version_tag(name, version, MODULE_TAG) or f"models:/{name}/{version}"


def load_module(name: str, version: str, folder: Path | None = None) -> nn.Module:
    """The version's PyTorch module on the CPU, in evaluation mode.

    Args:
        name: registered model.
        version: its version.
        folder: where its (trainable) model is on this machine, from a cache. Default: it is fetched and deleted again.

    Raises:
        UnsupportedModelError: the version is no pickled PyTorch module; the message says how to log it.
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not answer.
    """
    import torch
    from mlflow import pytorch as mlflow_pytorch
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    uri = f"models:/{name}/{version}"
    with tempfile.TemporaryDirectory(prefix="fieldrepair-model-") as scratch:
        if folder is None:  # a missing version is reported as such, not as a missing artifact
            folder = download(module_uri(name, version), Path(scratch))
        flavours = cast(dict[str, dict[str, Any]], Model.load(str(folder)).flavors)
        if "pytorch" not in flavours:
            found = ", ".join(sorted(set(flavours) - {"python_function"})) or "none"
            raise UnsupportedModelError(
                f"{uri} is not a PyTorch model (MLflow flavours: {found}); fieldrepair repairs PyTorch classifiers "
                f"only: {_RELOG}"
            )
        data = folder / str(flavours["pytorch"].get("model_data", "data"))
        if (data / "model.pt2").exists():
            raise UnsupportedModelError(
                f'{uri} was logged with serialization_format="pt2" (MLflow\'s default since 3.17); an exported graph '
                f"cannot be trained any further, so it cannot be repaired: {_RELOG}; or name what makes its network: "
                f"fieldrepair attach {uri} --factory MODULE:FUNCTION"
            )
        try:
            loaded = cast(object, mlflow_pytorch.load_model(str(folder), map_location="cpu"))
        except (ImportError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{uri} cannot be loaded here: {error}; log it with code_paths=[...] naming the files that define its "
                "classes, or install their package"
            ) from error
        except MlflowException as error:
            raise RegistryError(f"{uri} cannot be loaded: {error.message}") from error
    if isinstance(loaded, torch.jit.ScriptModule):
        raise UnsupportedModelError(f"{uri} is a TorchScript module, whose layers cannot be watched: {_RELOG}")
    if not isinstance(loaded, torch.nn.Module):
        raise UnsupportedModelError(f"{uri} holds a {type(loaded).__name__}, expected a torch.nn.Module: {_RELOG}")
    return loaded.eval()
