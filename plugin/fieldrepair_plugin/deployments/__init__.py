"""The deployment target ``fieldrepair`` of MLflow: ``mlflow deployments create -t fieldrepair --name ...``

A deployment is a model server with sidecar, monitor and repair worker on this machine, kept running by a process of its
own (:mod:`fieldrepair_plugin.deployments.keeper`) that outlives the command which made it. MLflow loads this module
and expects in it one client class, ``run_local`` and ``target_help``.
"""

from fieldrepair_plugin.deployments.client import FieldRepairDeploymentClient, run_local, target_help

__all__ = ["FieldRepairDeploymentClient", "run_local", "target_help"]
