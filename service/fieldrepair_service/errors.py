"""Every error the service raises on purpose, in one tree.

FieldRepairError
├── ConfigurationError          a setting is missing or cannot work
├── InputError                  what came in is not what was expected
│   └── DecodeError             a request or answer body cannot be read as field inputs
└── StoreError                  a store (spool, field log, case book) cannot do what was asked

The monitoring and plugin packages derive theirs from :class:`FieldRepairError`, so one ``except`` catches all.
"""


class FieldRepairError(Exception):
    """The root: everything fieldrepair raises on purpose."""


class ConfigurationError(FieldRepairError):
    """A setting is missing or cannot work; the message names it and the remedy."""


class InputError(FieldRepairError):
    """What came in is not what was expected; the message says both."""


class DecodeError(InputError):
    """A request or answer body cannot be read as field inputs."""


class StoreError(FieldRepairError):
    """A store (spool, field log or case book) cannot do what was asked."""
