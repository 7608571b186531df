"""``fieldrepair up``: model server, sidecar, monitor and worker on one machine, each a child process.

Everything happens on one event loop in the main thread: parts are started from there only (see
:mod:`fieldrepair_plugin.launch`), and what blocks (registry, case book) runs in threads.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_plugin.blue_green import BlueGreen
from fieldrepair_plugin.canary_stage import CanaryStage
from fieldrepair_plugin.errors import AlreadyRunningError, ModelUriError, PartError
from fieldrepair_plugin.last_served import LastServed
from fieldrepair_plugin.loop_status import LoopStatus
from fieldrepair_plugin.model_server import ServerOptions
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_plugin.parts import Part, PartPlan
from fieldrepair_plugin.processes import ProcessTable, free_port
from fieldrepair_plugin.promotion import AliasWatcher
from fieldrepair_plugin.serving import MODEL_SERVER, REGISTRY, Serving
from fieldrepair_plugin.settings import UpSettings
from fieldrepair_plugin.shadow_stage import SHADOW, ShadowPlan, ShadowStage
from fieldrepair_plugin.sidecar_control import SidecarControl
from fieldrepair_plugin.status import StatusBoard
from fieldrepair_service.errors import StoreError
from fieldrepair_service.tracing import check_tracing

SIDECAR, MONITOR, WORKER = "sidecar", "monitor", "worker"
PARTS = (REGISTRY, MODEL_SERVER, SIDECAR, MONITOR, WORKER, SHADOW)
STATUS_FILE = "up.json"
"""In the state folder while ``up`` runs: addresses, process ids and the state of each part, for scripts."""
MODEL_FILE = "model-uri"
"""In the state folder: after a SIGHUP, the URI in it is served instead. It must name the same registered model."""
_SIDECAR_START_SECONDS = 60.0
_TELL_SECONDS = 2.0
_EVENT_WAIT_SECONDS = 20.0
_EVENT_PAUSE_SECONDS = 2.0

logger = logging.getLogger(__name__)


def run_up(settings: UpSettings) -> None:
    """The command: run everything until Ctrl-C or SIGTERM, then stop everything.

    Raises:
        AlreadyRunningError: another ``up`` works in this state folder.
        ModelUriError: there is no such model, version or alias.
        PartError: the model server or the sidecar did not start.
        RegistryError: MLflow did not answer at the start.
        KeyboardInterrupt: stopped the hard way by a second Ctrl-C; everything was killed.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with only_one(settings.state_dir):
        asyncio.run(Supervisor(settings).run())


@contextmanager
def only_one(state_dir: Path) -> Generator[None]:
    """Hold the state folder for this process; the kernel lets go of it when the process ends, however it ends.

    Raises:
        AlreadyRunningError: another process holds it; the message names it.
    """
    with (state_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise AlreadyRunningError(
                f"another `fieldrepair up` (process {holder}) already works in {state_dir.absolute()}; stop it first, "
                "or give this one another folder with --state-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Supervisor:
    """Starts the parts in order, keeps them running, follows the alias, stops them in order."""

    def __init__(self, settings: UpSettings) -> None:
        self._settings = settings
        self._state_dir = settings.state_dir.absolute()
        self._target = parse_model_uri(settings.model)
        check_tracing(settings.otlp_endpoint)
        self._tracking_uri = settings.use_registry()
        self._token = settings.resolve_control_token()
        # A free port is picked here and kept, so that a restarted sidecar comes back where its clients look for it.
        self._traffic_port = settings.traffic_port or free_port()
        self._control_port = settings.control_port or free_port()
        self._metrics_port = settings.monitor_metrics_port or free_port()
        self._traffic_url = _url(settings.traffic_host, self._traffic_port)
        self._control_url = _url(settings.control_host, self._control_port)
        self._processes = ProcessTable(self._state_dir)
        self._board = StatusBoard(PARTS, changed=self._write_status)
        self._control = SidecarControl(self._control_url, self._token)
        self._last = LastServed(self._state_dir)
        options = ServerOptions(
            start_seconds=settings.server_start_seconds,
            request_seconds=settings.server_request_seconds,
            workers=settings.server_workers,
            stop_seconds=settings.stop_seconds,
        )
        self._servers = BlueGreen(
            self._target.name,
            self._control,
            options,
            self._processes,
            tracking_uri=self._tracking_uri,
            drain_seconds=settings.switch_drain_seconds,
        )
        self._canary = CanaryStage(self._servers, settings.canary_plan(), settings.case_book_url)
        shadow = ShadowPlan(
            settings.shadow,
            settings.shadow_inputs_per_second,
            settings.field_log_uri,
            settings.case_book_url,
            self._tracking_uri,
        )
        self._shadow = ShadowStage(self._servers, shadow, options, self._processes, self._board)
        self._parts = {plan.name: Part(plan, self._processes, self._board) for plan in self._plans()}
        self._ready = False
        self._watcher: AliasWatcher | None = None

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM."""
        stop = asyncio.Event()
        self._install_signals(stop)
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(stop.wait())
        with self._board:
            try:
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work  # it only ends by itself with an error
            finally:
                await self._stop_everything(work, stopped)

    async def _work(self) -> None:
        self._board.set(REGISTRY, "starting", f"{self._target} in {self._tracking_uri}")
        version = await self._first_version()
        self._watcher = AliasWatcher(self._target, version, poll_seconds=self._settings.alias_poll_seconds)
        serving = Serving(
            self._servers,
            self._watcher,
            self._shadow,
            self._canary,
            self._last,
            self._board,
            case_book_url=self._settings.case_book_url,
            retry_seconds=self._settings.retry_switch_seconds,
        )
        await serving.start(version)
        sidecar = self._parts[SIDECAR]
        running = [asyncio.create_task(sidecar.run())]
        try:
            await sidecar.wait_ready(_SIDECAR_START_SECONDS)
            self._ready = True
            self._board.headline(f"ready: send predictions to {self._traffic_url}/invocations")
            running += [asyncio.create_task(self._parts[name].run()) for name in (MONITOR, WORKER)]
            duties = (
                serving.run(),
                self._shadow.run(),
                self._listen_to_mlflow(serving),
                self._tell_about_the_loop(),
            )
            running += [asyncio.create_task(duty) for duty in duties]
            for ended in asyncio.as_completed(running):
                await ended  # none ends by itself unless something is badly wrong
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _first_version(self) -> str:
        """The version that is wanted; while the registry does not answer, the one that was served last.

        Raises:
            ModelUriError: there is no such model, version or alias.
            RegistryError: MLflow does not answer, and nothing was served before.
        """
        try:
            return await asyncio.to_thread(wanted_version, self._target)
        except RegistryError as error:
            version = self._last.read(self._target)
            if version is None:
                raise
            logger.warning("the registry does not answer, so version %s is served as before: %s", version, error)
            return version

    async def _listen_to_mlflow(self, serving: Serving) -> None:
        """An alias event that the sidecar was sent is a reason to look at once; the poll finds what no event tells."""
        known = -1
        while True:
            try:
                count = await self._control.alias_events(known, _EVENT_WAIT_SECONDS)
            except PartError:
                await asyncio.sleep(_EVENT_PAUSE_SECONDS)  # the sidecar is being started again
                continue
            if count != known and known != -1:
                serving.look_now()
                self._shadow.look_now()
            known = count

    async def _tell_about_the_loop(self) -> None:
        status = LoopStatus(self._settings.case_book_url, self._target.name)
        while True:
            active = self._servers.active
            if active is not None:
                try:
                    lines = await asyncio.to_thread(status.read, active.version)
                except StoreError as error:
                    logger.warning("the case book cannot be read: %s", error)
                else:
                    for name, text in zip((MONITOR, WORKER), lines, strict=True):
                        if self._parts[name].ready.is_set():
                            self._board.set(name, "ready", text)
            await asyncio.sleep(_TELL_SECONDS)

    async def _stop_everything(self, *tasks: asyncio.Task[object]) -> None:
        """The sidecar first, so that it can finish what it has taken in; then everything that stood behind it."""
        self._ready = False
        self._board.headline("stopping; Ctrl-C again kills everything")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        grace = self._settings.stop_seconds
        await self._parts[SIDECAR].stop(grace)
        self._board.set(MODEL_SERVER, "stopping", "")
        await self._shadow.stop()
        await asyncio.gather(*(self._parts[name].stop(grace) for name in (MONITOR, WORKER)), self._servers.stop())
        self._board.set(MODEL_SERVER, "stopped", "")
        await self._control.close()
        self._processes.kill_all()  # nothing is left unless a part was being started just now
        self._board.headline("stopped")
        (self._state_dir / STATUS_FILE).unlink(missing_ok=True)

    def _install_signals(self, stop: asyncio.Event) -> None:
        def asked() -> None:
            if stop.is_set():
                self._processes.kill_all()
                (self._state_dir / STATUS_FILE).unlink(missing_ok=True)
                os._exit(130)  # threads may hang in a registry that does not answer
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asked)
        loop.add_signal_handler(signal.SIGHUP, self._follow_another)

    def _follow_another(self) -> None:
        """Serve what :data:`MODEL_FILE` names; whoever wrote it finds in the log why that cannot be."""
        try:
            target = parse_model_uri((self._state_dir / MODEL_FILE).read_text(encoding="utf-8").strip())
        except (OSError, ModelUriError) as error:
            logger.warning("SIGHUP: %s", error)
            return
        if target.name != self._target.name or self._watcher is None:
            logger.warning("SIGHUP: %s cannot be followed in place of %s", target, self._target)
            return
        self._target = target
        self._watcher.follow(target)

    def _plans(self) -> list[PartPlan]:
        settings = self._settings
        stores = {
            "FIELDREPAIR_STATE_DIR": str(self._state_dir),
            "FIELDREPAIR_FIELD_LOG": settings.field_log_uri,
            "FIELDREPAIR_CASE_BOOK": settings.case_book_url,
            "FIELDREPAIR_MODEL_NAME": self._target.name,
            "FIELDREPAIR_TRACKING_URI": self._tracking_uri,
            "MLFLOW_TRACKING_URI": self._tracking_uri,
        }
        if settings.otlp_endpoint is not None:
            stores["FIELDREPAIR_OTLP_ENDPOINT"] = settings.otlp_endpoint

        ports = {
            "FIELDREPAIR_TRAFFIC_HOST": settings.traffic_host,
            "FIELDREPAIR_TRAFFIC_PORT": str(self._traffic_port),
            "FIELDREPAIR_CONTROL_HOST": settings.control_host,
            "FIELDREPAIR_CONTROL_PORT": str(self._control_port),
            "FIELDREPAIR_CONTROL_TOKEN": self._token,
        }

        def sidecar_settings() -> dict[str, str]:
            server = self._servers.active
            serves = {"FIELDREPAIR_UPSTREAM": server.url, "FIELDREPAIR_MODEL_VERSION": server.version} if server else {}
            return {**stores, **ports, **serves}

        def monitor_settings() -> dict[str, str]:
            return {**stores, "FIELDREPAIR_MONITOR_METRICS_PORT": str(self._metrics_port)}

        return [
            PartPlan(SIDECAR, sidecar_settings, self._control.ready, self._sidecar_text),
            PartPlan(MONITOR, monitor_settings, self._monitor_answers, lambda: "running"),
            PartPlan(WORKER, lambda: stores, _runs, lambda: "running"),
        ]

    async def _monitor_answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._metrics_port)
        except OSError:
            return False
        writer.close()
        return True

    def _sidecar_text(self) -> str:
        return f"traffic {self._traffic_url}, control {self._control_url} (token: {self._token_place()})"

    def _token_place(self) -> str:
        return "as given" if self._settings.control_token else str(self._state_dir / "control-token")

    def _write_status(self) -> None:
        """Replace the status file; readers see the old one or the new one, never half."""
        active = self._servers.active
        pids = {name: part.process.pid for name, part in self._parts.items() if part.process is not None}
        if active is not None:
            pids[MODEL_SERVER] = active.process.pid
        status = {
            "pid": os.getpid(),
            "ready": self._ready,
            "model": str(self._target),
            "version": active.version if active else None,
            "traffic_url": self._traffic_url,
            "control_url": self._control_url,
            "monitor_metrics_url": f"{_url('127.0.0.1', self._metrics_port)}/metrics",
            "model_server_url": active.url if active else None,
            "tracking_uri": self._tracking_uri,
            "field_log": self._settings.field_log_uri,
            "parts": {
                name: {"state": part.state, "text": part.text, "pid": pids.get(name)}
                for name, part in self._board.parts.items()
            },
            "processes": [process.pid for process in self._processes.alive()],
        }
        draft = self._state_dir / f".{STATUS_FILE}.part"
        draft.write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")
        draft.replace(self._state_dir / STATUS_FILE)


async def _runs() -> bool:
    """The worker has no port to ask; it does its work as long as it runs."""
    return True


def _url(host: str, port: int) -> str:
    """Where a part that listens on ``host`` is reached from this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
