"""``fieldrepair rollout``: what ``fieldrepair up`` does on one machine, done by Kubernetes.

An approval moves the alias; the alias moves the annotation of the Deployment's pods; Kubernetes starts new pods and
stops old ones as they become ready; and when all serve the new version, the case book says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_monitoring.lifecycle import stopped_by_signals
from fieldrepair_plugin.approval import act_on_approvals
from fieldrepair_plugin.errors import ClusterError, ModelUriError
from fieldrepair_plugin.kubernetes.api import DeploymentApi, DeploymentView
from fieldrepair_plugin.kubernetes.metrics import RolloutMetrics, serve_rollout_metrics
from fieldrepair_plugin.kubernetes.settings import RolloutSettings
from fieldrepair_plugin.model_uri import ModelTarget, parse_model_uri
from fieldrepair_plugin.promotion import AliasWatcher, settle_promotion
from fieldrepair_service.case_book import CaseBook, open_case_book
from fieldrepair_service.errors import FieldRepairError, StoreError

logger = logging.getLogger(__name__)


class Rollout:
    """Keeps one Deployment at the version that an alias names.

    Args:
        target: the alias.
        watcher: asks the registry for it.
        deployment: what serves it.
        case_book_url: where approvals come from and promotions are recorded.
        metrics: where to count.
    """

    def __init__(
        self,
        target: ModelTarget,
        watcher: AliasWatcher,
        deployment: DeploymentApi,
        *,
        case_book_url: str,
        metrics: RolloutMetrics,
    ) -> None:
        self._target = target
        self._watcher = watcher
        self._deployment = deployment
        self._case_book_url = case_book_url
        self._metrics = metrics
        self._book: CaseBook | None = None
        self._recorded: tuple[str, str] | None = None
        self._said = ""

    @property
    def pause(self) -> float:
        """Seconds to wait before the next look; longer while the registry does not answer."""
        return self._watcher.pause

    def look(self) -> None:
        """One round. Blocks. What does not answer is counted, said once, and asked again the next time."""
        self._attempt("case_book", self._carry_out_approvals)
        if self._attempt("cluster", self._follow):
            self._metrics.last_success.set_to_current_time()

    def close(self) -> None:
        """Close the case book."""
        if self._book is not None:
            self._book.close()

    def _attempt(self, of: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except (StoreError, ClusterError, RegistryError) as error:
            kind = "registry" if isinstance(error, RegistryError) else of
            kind = "case_book" if isinstance(error, StoreError) else kind
            self._metrics.errors.labels(kind).inc()
            self._say(logging.WARNING, str(error))
            return False
        return True

    def _carry_out_approvals(self) -> None:
        for line in act_on_approvals(self._open_book(), self._target):
            logger.info(line)

    def _follow(self) -> None:
        sighting = asyncio.run(self._watcher.look())
        view = self._deployment.read()
        if sighting.problem:
            self._metrics.errors.labels("registry").inc()
            self._say(logging.WARNING, f"{sighting.problem}; the pods go on serving version {view.version or '?'}")
            return
        if view.version != sighting.version:
            logger.info(
                "%s is version %s; rolling %s from version %s to it",
                self._target,
                sighting.version,
                self._deployment.name,
                view.version or "(none)",
            )
            view = self._deployment.set_version(sighting.version, view.version)
        self._account(view)

    def _account(self, view: DeploymentView) -> None:
        self._metrics.pending.set(not view.complete)
        self._metrics.stuck.set(bool(view.problem))
        if view.problem:
            self._say(
                logging.ERROR,
                f"version {view.version} does not become ready: {view.problem}. The old pods go on serving; move the "
                f"alias back, or see `kubectl describe pods` and their logs",
            )
        elif view.complete and self._recorded != (view.version, view.previous):
            for line in settle_promotion(self._open_book(), self._target.name, view.version, view.previous or None):
                logger.info(line)
            if self._recorded is not None:
                self._metrics.done.inc()
            self._recorded = (view.version, view.previous)
            self._say(logging.INFO, f"all pods of {self._deployment.name} serve version {view.version}")

    def _open_book(self) -> CaseBook:
        if self._book is None:
            self._book = open_case_book(self._case_book_url)
        return self._book

    def _say(self, level: int, what: str) -> None:
        """Once, until there is something else to say."""
        if what != self._said:
            self._said = what
            logger.log(level, "%s", what)


def run_rollout(settings: RolloutSettings) -> None:
    """The command: run until SIGTERM or SIGINT.

    Raises:
        ModelUriError: the model is no URI with an alias.
        ClusterError: this is no pod with a service account, and no API server was named.
        ConfigurationError: the metrics' address cannot be bound.
    """
    target = parse_model_uri(settings.model)
    if target.alias is None:
        raise ModelUriError(f"a rollout follows an alias: expected models:/NAME@ALIAS, got {settings.model!r}")
    settings.use_registry()
    metrics = RolloutMetrics()
    with ExitStack() as stack:
        stop = stack.enter_context(stopped_by_signals("stopping; the pods go on serving"))
        stack.enter_context(
            serve_rollout_metrics(metrics, settings.rollout_metrics_host, settings.rollout_metrics_port)
        )
        deployment = DeploymentApi(
            settings.deployment, settings.namespace, settings.service_account_dir, settings.kubernetes_api
        )
        stack.callback(deployment.close)
        watcher = AliasWatcher(target, "", poll_seconds=settings.rollout_poll_seconds)
        rollout = Rollout(target, watcher, deployment, case_book_url=settings.case_book_url, metrics=metrics)
        stack.callback(rollout.close)
        logger.info("%s follows %s", f"{deployment.namespace}/{deployment.name}", target)
        _go_round(rollout, stop)


def _go_round(rollout: Rollout, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            rollout.look()
        except FieldRepairError as error:
            logger.warning("%s", error)
        stop.wait(rollout.pause)
