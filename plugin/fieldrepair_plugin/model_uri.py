"""Which model ``up`` serves: ``models:/NAME@ALIAS`` (followed) or ``models:/NAME/VERSION`` (fixed)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.registry import model_version, registry_errors
from fieldrepair_plugin.errors import ModelUriError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
"""The alias of the version being served."""
CANDIDATE = "candidate"
"""The alias of the version waiting for approval."""

_PATTERN = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True)
class ModelTarget:
    """A registered model, and either the alias to follow or the one version to serve."""

    name: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def parse_model_uri(uri: str) -> ModelTarget:
    """Read a model URI.

    Raises:
        ModelUriError: it is neither ``models:/NAME@ALIAS`` nor ``models:/NAME/VERSION``.
    """
    match = _PATTERN.fullmatch(uri)
    if match is None:
        raise ModelUriError(
            f"expected models:/NAME@ALIAS (for example models:/digits@{CHAMPION}) or models:/NAME/VERSION, got {uri!r}"
        )
    return ModelTarget(match["name"], alias=match["alias"], version=match["version"])


def wanted_version(target: ModelTarget) -> str:
    """The version that the target means now. Blocks: it asks the registry.

    Raises:
        ModelUriError: there is no such model, alias or version; the message says how to set it.
        RegistryError: MLflow could not answer.
    """
    import mlflow

    client = mlflow.MlflowClient()
    try:
        if target.version is not None:
            return str(model_version(target.name, target.version).version)
        return _aliased_version(client, target.name, target.alias or CHAMPION)
    except ModelVersionMissingError as error:
        raise ModelUriError(_explain(client, target)) from error


def aliases_of(name: str) -> dict[str, str]:
    """Alias -> version, of a registered model; none if there is no such model. Blocks: it asks the registry.

    Raises:
        RegistryError: MLflow could not answer.
    """
    import mlflow

    try:
        with registry_errors(f"aliases of {name}"):
            found = cast(dict[str, object], mlflow.MlflowClient().get_registered_model(name).aliases)
    except ModelVersionMissingError:
        return {}
    return {alias: str(version) for alias, version in found.items()}


def _aliased_version(client: MlflowClient, name: str, alias: str) -> str:
    what = f"models:/{name}@{alias}"
    try:
        with registry_errors(what):
            return str(client.get_model_version_by_alias(name, alias).version)
    except RegistryError:
        # Stores do not agree on the error code of an alias that is not set; the model's list of aliases is plain.
        with registry_errors(what):
            aliases = cast(dict[str, object], client.get_registered_model(name).aliases)
        if alias in aliases:
            raise
        raise ModelVersionMissingError(f"{what}: the alias is not set") from None


def _explain(client: MlflowClient, target: ModelTarget) -> str:
    """What is missing, and the command that sets it."""
    import mlflow

    where = f"in the registry {mlflow.get_registry_uri()}"
    with registry_errors(str(target)):
        found = client.search_model_versions(f"name = '{target.name.replace(chr(39), '')}'", max_results=100)
    if not found:
        with registry_errors(str(target)):
            models = client.search_registered_models(max_results=20)
        names = [str(model.name) for model in cast("list[Any]", models)]
        others = " and others" if models.token else ""
        return (
            f"{target}: there is no model version {where} under the name {target.name!r}; it has: "
            f"{', '.join(names) or 'no models at all'}{others}. Is --tracking-uri (MLFLOW_TRACKING_URI) right?"
        )
    versions = sorted((int(version.version) for version in found), reverse=True)
    listed = ", ".join(str(version) for version in versions[:10])
    if target.version is not None:
        return f"{target}: there is no version {target.version} {where}; {target.name} has: {listed}"
    return (
        f"{target}: the alias {target.alias!r} is not set {where}; {target.name} has versions {listed}. Set it in the "
        f'MLflow UI, or with: python -c "import mlflow; mlflow.MlflowClient().set_registered_model_alias('
        f"'{target.name}', '{target.alias}', '{versions[0]}')\""
    )
