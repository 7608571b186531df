"""Starting, stopping and looking at a deployment's processes, from the outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from fieldrepair_plugin.deployments.config import numeric
from fieldrepair_plugin.deployments.keeper import stop_seconds
from fieldrepair_plugin.deployments.records import DeploymentFolder, Order
from fieldrepair_plugin.errors import DeploymentError
from fieldrepair_plugin.settings import UpSettings

_LOOK_SECONDS = 0.2
_KEEPER_SECONDS = 60.0


def description(folder: DeploymentFolder) -> dict[str, Any]:
    """What :meth:`FieldRepairDeploymentClient.get_deployment` says."""
    order, up, status = folder.order(), folder.up_status(), folder.status()
    state = "ready" if up.get("ready") else "starting" if folder.keeper() or folder.up() else "down"
    return {
        "name": order.name,
        "flavor": order.flavor,
        "model_uri": order.model_uri,
        "state": state,
        "version": up.get("version"),
        "traffic_url": up.get("traffic_url"),
        "control_url": up.get("control_url"),
        "tracking_uri": order.tracking_uri,
        "parts": {name: f"{part['state']}: {part['text']}" for name, part in up.get("parts", {}).items()},
        "starts": status.starts if status else 0,
        "last_end": status.last_end if status else "",
        "config": order.config,
        "folder": str(folder.path),
        "log": str(folder.log),
    }


def start_keeper(folder: DeploymentFolder) -> None:
    """Start a keeper that belongs to nobody here: not to this terminal, and not waited for by this process.

    Raises:
        DeploymentError: it does not come up.
    """
    command = [sys.executable, "-m", "fieldrepair_plugin.deployments", str(folder.path.parent), folder.name]
    # A process in between, which ends at once: the keeper then has no parent here that would have to reap it.
    script = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    with folder.log.open("ab") as log:
        subprocess.run(
            [sys.executable, "-c", script, *command], check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    wait_until(lambda: folder.keeper() is not None, _KEEPER_SECONDS, f"the keeper is there; log: {folder.log}")


def stop(folder: DeploymentFolder, order: Order) -> None:
    """End keeper and ``up``.

    Raises:
        DeploymentError: they do not end in time.
    """
    seconds = stop_seconds(order)
    for what, pid_of in (("the keeper stops", folder.keeper), ("up stops", folder.up)):
        pid = pid_of()
        if pid is not None:
            _signal(pid, signal.SIGTERM)
            wait_until(lambda pid=pid, pid_of=pid_of: pid_of() != pid, seconds, what)


def hang_up(folder: DeploymentFolder) -> None:
    """Tell the keeper that another order was placed."""
    pid = folder.keeper()
    if pid is not None:
        _signal(pid, signal.SIGHUP)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has just ended by itself


def wait_until_served(folder: DeploymentFolder, order: Order, version: str) -> None:
    """Return when the version answers.

    Raises:
        DeploymentError: ``up`` ends instead, or it takes too long; the message says why.
    """
    ended_before = status.ended if (status := folder.status()) else 0
    seconds = 2 * numeric(order.config, UpSettings, "server_start_seconds") + 60.0

    def served() -> bool:
        status = folder.status()
        if status is not None and status.ended > ended_before:
            raise DeploymentError(f"deployment {order.name!r} does not come up: {status.last_end}")
        up = folder.up_status()
        part = up.get("parts", {}).get("model server", {})
        if part.get("state") == "failed":
            raise DeploymentError(f"deployment {order.name!r}: version {version} does not come up: {part['text']}")
        return bool(up.get("ready")) and up.get("version") == version

    wait_until(served, seconds, f"version {version} is served; log: {folder.log}")


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Look again and again.

    Raises:
        DeploymentError: ``seconds`` have passed.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise DeploymentError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(_LOOK_SECONDS)
