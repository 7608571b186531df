"""What every part that serves metrics says of its own process."""

from __future__ import annotations

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector


def process_registry() -> CollectorRegistry:
    """A registry of its own, so that two parts (or a test) in one process do not meet in the global one.

    It has ``fieldrepair_build_info`` and the numbers of the process, ``process_*``.
    """
    registry = CollectorRegistry(auto_describe=False)
    names = ["version", "python_version"]
    info = Gauge("fieldrepair_build_info", "What runs here; always 1.", names, registry=registry)
    info.labels(version("fieldrepair"), platform.python_version()).set(1)
    ProcessCollector(registry=registry)
    return registry
