"""Every error the plugin raises on purpose, in one tree.

FieldRepairError (fieldrepair_service.errors)
└── PluginError
    ├── ModelUriError            a model URI cannot be read, or its alias is not set
    ├── PartError                a part (model server, sidecar, ...) did not start or did not do what was asked
    │   └── AlreadyRunningError  another ``fieldrepair up`` or worker works in this state folder
    ├── ClusterError             the Kubernetes API server does not answer, or refuses
    ├── DeploymentError          a deployment cannot be made, changed or found
    ├── TrainingError            a model cannot be trained, or its training diverged
    ├── MissingExtraError        an optional package that something needs is not installed
    ├── TrainingStopped          a stop was asked for in the middle of training; the checkpoint is on disk
    └── CaseLeft                 somebody else moved a case on, or took it over, while it was worked on
"""

from fieldrepair_service.errors import FieldRepairError


class PluginError(FieldRepairError):
    """The root of this package's errors."""


class ModelUriError(PluginError):
    """A model URI cannot be read, or its alias is not set; the message says how to write or set it."""


class PartError(PluginError):
    """A part did not start or did not do what was asked; the message ends with the last lines of its log."""


class ClusterError(PluginError):
    """The Kubernetes API server does not answer, or refuses; the message says what was asked and what it said."""


class DeploymentError(PluginError):
    """A deployment cannot be made, changed or found; the message says what was expected."""


class AlreadyRunningError(PartError):
    """Another process does this work in this state folder; the message names it."""


class TrainingStopped(PluginError):  # noqa: N818 - a request that was followed, not a mistake
    """A stop was asked for in the middle of training; what was trained so far is in the checkpoint."""


class TrainingError(PluginError):
    """A model cannot be trained, or its training diverged; the message says where."""


class MissingExtraError(PluginError):
    """An optional package that something needs is not installed; the message says how to install it."""


class CaseLeft(PluginError):  # noqa: N818 - nothing went wrong
    """Somebody else moved a case on, or took it over, while it was worked on: this work is void."""
