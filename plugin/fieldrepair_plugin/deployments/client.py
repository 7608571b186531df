"""MLflow's client for the target ``fieldrepair``, and the two functions MLflow expects beside it."""

# MLflow's base class says nothing about types, so that whatever its methods return looks wrong.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import mlflow
import numpy as np
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

from fieldrepair_plugin.deployments.config import checked, described
from fieldrepair_plugin.deployments.control import (
    description,
    hang_up,
    start_keeper,
    stop,
    wait_until,
    wait_until_served,
)
from fieldrepair_plugin.deployments.keeper import same_but_for_the_version, stop_seconds
from fieldrepair_plugin.deployments.records import HOME_VARIABLE, DeploymentFolder, Order, folders, home_of
from fieldrepair_plugin.errors import DeploymentError
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_plugin.settings import UpSettings
from fieldrepair_service.errors import FieldRepairError

FLAVOR = "pytorch"


class FieldRepairDeploymentClient(BaseDeploymentClient):
    """Deployments on this machine: model server, sidecar, monitor and repair worker, kept running.

    Args:
        target_uri: ``fieldrepair``, or ``fieldrepair:/FOLDER`` for another folder than the default.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._home = home_of(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model version, and return when it answers.

        Args:
            name: of the deployment.
            model_uri: ``models:/NAME@ALIAS`` (followed as the alias moves) or ``models:/NAME/VERSION``.
            flavor: ``pytorch``, or None.
            config: settings of the parts; see :func:`target_help`.
            endpoint: not used by this target; must be None.

        Returns:
            What :meth:`get_deployment` says.

        Raises:
            MlflowException: the name is taken, the model or a setting is wrong, or it does not come up; then the
                deployment is gone again, and the message ends with the end of its log.
        """
        _no_endpoint(endpoint)
        with _as_mlflow():
            folder = DeploymentFolder(self._home, name)
            if folder.exists:
                raise MlflowException(
                    f"deployment {name!r} exists already; update or delete it", error_code=RESOURCE_ALREADY_EXISTS
                )
            version = wanted_version(parse_model_uri(model_uri))
            order = Order(
                name=name,
                model_uri=model_uri,
                flavor=_flavor(flavor),
                tracking_uri=mlflow.get_tracking_uri(),
                working_dir=str(Path.cwd()),
                config=checked(config),
            )
            folder.place(order)
            try:
                start_keeper(folder)
                wait_until_served(folder, order, version)
            except BaseException:
                stop(folder, order)
                folder.withdraw()
                raise
        return self.get_deployment(name)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another version or with other settings, and return when that is so.

        Another version of the same registered model takes over without a lost request. Other settings, or another
        model, need the parts to be started anew: requests fail for the time that takes. Called without changes it
        starts a deployment that is down, after a reboot for example.

        Returns:
            What :meth:`get_deployment` says.

        Raises:
            MlflowException: no such deployment, a wrong model or setting, or it does not come up; the order then
                stands, so that the keeper goes on trying.
        """
        _no_endpoint(endpoint)
        with _as_mlflow():
            folder = DeploymentFolder(self._home, name)
            before = folder.order()
            if flavor is not None and model_uri is None:
                raise DeploymentError("a flavor without a model_uri: name the model, too")
            changes: dict[str, object] = {"config": checked({**before.config, **(config or {})})}
            if model_uri is not None:
                changes |= {"model_uri": model_uri, "flavor": _flavor(flavor)}
            order = before.model_copy(update=changes)
            version = wanted_version(parse_model_uri(order.model_uri))
            folder.place(order)
            if folder.keeper() is None:
                start_keeper(folder)
            elif order != before:
                former = None if same_but_for_the_version(before, order) else folder.up()
                hang_up(folder)
                wait_until(lambda: former is None or folder.up() != former, stop_seconds(before), "the old parts stop")
            wait_until_served(folder, order, version)
        return self.get_deployment(name)

    def delete_deployment(
        self, name: str, config: Mapping[str, object] | None = None, endpoint: str | None = None
    ) -> None:
        """Stop a deployment and forget it; once more does no harm.

        What it has collected (field log, case book, labels) stays in its folder, and a new deployment of this name
        goes on with it.

        Raises:
            MlflowException: it does not stop.
        """
        _no_endpoint(endpoint)
        if config:
            raise MlflowException(
                f"delete takes no configuration, got {dict(config)}", error_code=INVALID_PARAMETER_VALUE
            )
        with _as_mlflow():
            folder = DeploymentFolder(self._home, name)
            if folder.exists:
                stop(folder, folder.order())
                folder.withdraw()

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All deployments, by name."""
        _no_endpoint(endpoint)
        with _as_mlflow():
            return [description(folder) for folder in folders(self._home)]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """What is known of a deployment.

        Returns:
            ``name``, ``flavor``, ``model_uri``, ``state`` (``ready``, ``starting`` or ``down``), ``version`` served,
            ``traffic_url``, ``control_url``, ``tracking_uri``, ``parts``, ``starts``, ``last_end``, ``config``,
            ``folder`` and ``log``.

        Raises:
            MlflowException: there is no such deployment.
        """
        _no_endpoint(endpoint)
        with _as_mlflow():
            folder = DeploymentFolder(self._home, name)
            if not folder.exists:
                raise MlflowException(
                    f"there is no deployment {name!r} in {self._home}", error_code=RESOURCE_DOES_NOT_EXIST
                )
            return description(folder)

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Any:
        """Send inputs through the sidecar, as a client would: they are logged like any other.

        Args:
            deployment_name: the deployment.
            inputs: a DataFrame, an array, or whatever else MLflow's scoring client takes. A DataFrame with one column
                ``inputs`` or ``instances`` is what ``mlflow deployments predict`` makes of a JSON file with tensors
                in it; it is sent as the tensors.
            endpoint: not used by this target; must be None.

        Returns:
            MLflow's ``PredictionsResponse``.

        Raises:
            MlflowException: no such deployment, it is not ready, or it refuses the inputs.
        """
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

        _no_endpoint(endpoint)
        if deployment_name is None:
            raise MlflowException("name the deployment", error_code=INVALID_PARAMETER_VALUE)
        found = self.get_deployment(deployment_name)
        if found["state"] != "ready":
            raise MlflowException(f"deployment {deployment_name!r} is {found['state']}; log: {found['log']}")
        address = urlsplit(cast(str, found["traffic_url"]))
        return ScoringServerClient(address.hostname, address.port).invoke(_tensors(inputs))

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Not offered: this target judges models, it does not attribute single answers to features.

        Raises:
            MlflowException: always; it says where the explanation of a drift event is.
        """
        raise MlflowException(
            "the target fieldrepair does not explain single predictions; what a drift event is about stands on its "
            "case's page on the control port"
        )


def run_local(
    target: str,
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, object] | None = None,
) -> None:
    """Run a deployment in this terminal until Ctrl-C: ``fieldrepair up`` with a state folder named after it."""
    from fieldrepair_plugin.supervisor import run_up

    with _as_mlflow():
        folder = DeploymentFolder(home_of(target), name)
        if folder.exists:
            raise DeploymentError(f"deployment {name!r} exists already, and keeps the folder {folder.state}")
        _flavor(flavor)
        folder.state.mkdir(parents=True, exist_ok=True)
        run_up(UpSettings(model=model_uri, state_dir=folder.state, **cast(dict[str, Any], checked(config))))


def target_help() -> str:
    """What ``mlflow deployments help -t fieldrepair`` prints."""
    return f"""fieldrepair: a model server with sidecar, drift monitor and repair worker on this machine.

Target URI
  fieldrepair             deployments are kept in ${HOME_VARIABLE}, else in ~/.fieldrepair/deployments
  fieldrepair:/FOLDER     ... in FOLDER

Models
  models:/NAME@ALIAS      served as the alias moves: approving a repaired version is moving the alias
  models:/NAME/VERSION    fixed
  The version needs a hand-over (fieldrepair_plugin.log_model, or fieldrepair attach) to be watched and repaired.

A deployment outlives the command that made it. Its parts are started again when they die. After a reboot,
  mlflow deployments update -t fieldrepair --name NAME
starts it again. Deleting a deployment keeps its field log and case book in its folder.

Configuration (-C name=value); every other setting of a part is taken from its FIELDREPAIR_ environment variable
{described()}
"""


@contextmanager
def _as_mlflow() -> Generator[None]:
    """MLflow's callers expect MLflow's exception."""
    try:
        yield
    except FieldRepairError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


def _no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise MlflowException(
            f"the target fieldrepair has no endpoints, got endpoint={endpoint!r}", error_code=INVALID_PARAMETER_VALUE
        )


def _tensors(inputs: Any) -> Any:
    """The tensors that MLflow's CLI has put into a DataFrame; anything else as it is."""
    columns = [str(column) for column in getattr(inputs, "columns", ())]
    if columns not in (["inputs"], ["instances"]):
        return inputs
    return np.asarray(inputs[columns[0]].tolist())


def _flavor(flavor: str | None) -> str:
    if flavor not in (None, FLAVOR):
        raise DeploymentError(f"the target fieldrepair serves and repairs the flavor {FLAVOR}, got {flavor!r}")
    return FLAVOR
