"""Every error the monitoring package raises on purpose, in one tree.

FieldRepairError (fieldrepair_service.errors)
└── MonitoringError
    ├── ReferenceSetError           a reference set cannot be read, or its parts do not fit together
    ├── DetectorError               a detector was given data it cannot work with
    ├── HandOverError               what was stored with a model version cannot be used
    │   ├── HandOverMissingError    nothing was stored with it
    │   └── HandOverMismatchError   model, reference set and description contradict each other
    ├── ModelRunError               a model fails when it is run
    │   └── WindowNotJudgedError    it cannot be run on the field inputs of one window
    ├── FieldInputsMissingError     the field log no longer has the inputs that are asked about
    ├── UnsupportedModelError       the logged model is of a kind that cannot be watched and repaired
    └── RegistryError               MLflow could not answer (may pass)
        └── ModelVersionMissingError    MLflow answered: there is no such model version
"""

from fieldrepair_service.errors import FieldRepairError


class MonitoringError(FieldRepairError):
    """The root of this package's errors."""


class ReferenceSetError(MonitoringError):
    """A reference set cannot be read, or its parts do not fit together."""


class DetectorError(MonitoringError):
    """A detector was given data it cannot work with."""


class HandOverError(MonitoringError):
    """What was stored with a model version cannot be used."""


class HandOverMissingError(HandOverError):
    """Nothing was stored with the model version; the message says how to store it."""


class HandOverMismatchError(HandOverError):
    """Model, reference set and description contradict each other; the message names both sides and the remedy."""


class ModelRunError(MonitoringError):
    """A model fails when it is run; the message gives the shape it was given and its own words."""


class WindowNotJudgedError(ModelRunError):
    """A model version cannot be run on the field inputs of one window, so nothing can be said about them.

    Attributes:
        reason: short word for metrics.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class FieldInputsMissingError(MonitoringError):
    """The field log no longer has the inputs that are asked about; retention has deleted them."""


class UnsupportedModelError(MonitoringError):
    """The logged model is of a kind that cannot be watched and repaired; the message says how to log it."""


class RegistryError(MonitoringError):
    """MLflow could not answer. The cause may pass, so callers that run for long try again."""


class ModelVersionMissingError(RegistryError):
    """MLflow answered: there is no such model version."""
