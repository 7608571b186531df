"""Commands for Kubernetes. Light on purpose: mlflow is imported when a command runs."""

from __future__ import annotations

import logging

from fieldrepair_plugin.kubernetes.settings import RolloutSettings, ServeSettings

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ServeCommand(ServeSettings):
    """Serve one model version in a pod, behind the sidecar beside it.

    Starts MLflow's model server, sends it requests made of its own reference inputs, and then tells the sidecar to send
    the traffic there: until then the pod is not ready. Ends when the model server does.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT, or until the model server ends."""
        from fieldrepair_plugin.kubernetes.serve import run_serve

        logging.basicConfig(level=logging.INFO, format=_FORMAT)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run_serve(self)


class RolloutCommand(RolloutSettings):
    """Roll a Deployment's pods whenever the alias moves in the MLflow registry.

    The Deployment's pod template gets the annotation fieldrepair.io/model-version; Kubernetes does the rest, and the
    old pods go on serving until the new ones are ready. Moving the alias back rolls back. Approvals given in the
    console move the alias.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT."""
        from fieldrepair_plugin.kubernetes.rollout import run_rollout

        logging.basicConfig(level=logging.INFO, format=_FORMAT)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run_rollout(self)
