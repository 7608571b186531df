"""What every part that serves metrics says of its own process."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


def process_registry() -> CollectorRegistry:
    """A registry of its own, so that two parts (or a test) in one process do not meet in the global one.

    It has ``fieldrepair_build_info`` and the numbers of the process, ``process_*``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Build())
    ProcessCollector(registry=registry)
    return registry


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "fieldrepair_build_info", "What runs here; always 1.", labels=["version", "python_version"]
        )
        info.add_metric([version("fieldrepair"), platform.python_version()], 1)
        yield info
