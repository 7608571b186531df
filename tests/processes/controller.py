"""A stand-in for the Deployment controller, for one Deployment of one replica: surge one, none missing."""

from __future__ import annotations

import threading
import time

from tests.cluster.standin import StandIn
from tests.processes.pods import Cluster, Pod, Service

VERSION = "fieldrepair.io/model-version"


class RollingUpdate:
    """Starts a pod whenever the template has changed; stops the old one when the new one is ready.

    Args:
        standin: holds the Deployment.
        cluster: runs the pods.
        services: told which pods take connections.
    """

    def __init__(self, standin: StandIn, cluster: Cluster, services: list[Service]) -> None:
        strategy = standin.deployment["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxSurge": 1, "maxUnavailable": 0}, "this stand-in knows no other strategy"
        self._standin = standin
        self._cluster = cluster
        self._services = services
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.serving: Pod | None = None
        self.coming: Pod | None = None
        self.history: list[str] = []
        """Versions in the order in which they came to serve."""

    def __enter__(self) -> RollingUpdate:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._step()
            time.sleep(0.2)

    def _step(self) -> None:
        version = self._standin.version
        newest = self.coming or self.serving
        if newest is None or newest.annotations.get(VERSION, "") != version:
            if self.coming is not None:
                self.coming.stop()
            template = self._standin.deployment["spec"]["template"]
            self.coming = self._cluster.start(template)
        if self.coming is not None and self.coming.ready():
            old, self.serving, self.coming = self.serving, self.coming, None
            self.history.append(version)
            for service in self._services:
                service.pods = [self.serving]
            if old is not None:
                old.stop()
        done = self.coming is None
        count = 1 if done or self.serving is None else 2
        self._standin.report(updated=1, replicas=count, available=1 if self.serving else 0)
