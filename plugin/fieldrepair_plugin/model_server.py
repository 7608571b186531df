"""One model version served by ``mlflow models serve`` as a child process: start, wait, warm, stop."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx

from fieldrepair_monitoring.errors import HandOverError, ReferenceSetError
from fieldrepair_monitoring.handover import load_handover
from fieldrepair_monitoring.model_cache import cached_model
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.processes import ManagedProcess, ProcessTable, child_environment, free_port
from fieldrepair_plugin.request_form import request_body, request_columns

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ServerOptions:
    """How model servers are run."""

    start_seconds: float = 180.0
    """How long a server may take from its start to its first ``/ping``."""
    request_seconds: int = 60
    """How long one request may take in the server."""
    workers: int = 1
    """Worker processes of the server."""
    stop_seconds: float = 30.0
    """How long a server may take to finish what it has begun when it is stopped."""
    warm_batches: tuple[int, ...] = (1, 1, 1, 32)
    """Instances in each of the requests that warm a server, in order."""
    niceness: int = 0
    """How far a server steps back for others where processors are short: 0 not at all, 19 as far as can be."""
    host: str = "127.0.0.1"
    """Address the server listens on."""
    port: int | None = None
    """Port the server listens on; None picks a free one."""


@dataclass(frozen=True)
class WarmUp:
    """Real requests for one model version, in the form its clients send."""

    bodies: tuple[bytes, ...] = field(repr=False)
    """JSON bodies for ``/invocations``; none where the version has no hand-over to take instances from."""
    rows: tuple[int, ...]
    """Predictions that each must be answered with."""
    skipped: str = ""
    """Why there are none."""


def prepare_warm_up(name: str, version: str, batches: Sequence[int], model: Path, cache_dir: Path) -> WarmUp:
    """Requests made of the version's own reference sample. Blocks: it asks the registry and may download.

    Args:
        name: registered model.
        version: its version.
        batches: instances in each of the requests.
        model: the version's model on this machine.
        cache_dir: where hand-overs are kept.

    Raises:
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not answer.
    """
    try:
        sample = load_handover(name, version, cache_dir).reference.val_x
    except (HandOverError, ReferenceSetError) as error:
        return WarmUp((), (), skipped=str(error))
    with registry_errors(f"model models:/{name}/{version}"):
        columns = request_columns(model)
    rows = tuple(min(size, len(sample)) for size in batches)
    return WarmUp(tuple(request_body(sample[:count], columns) for count in rows), rows)


class ModelServer:
    """A running server of one version. Make one with :meth:`start`; it takes traffic after :meth:`wait_until_warm`."""

    def __init__(
        self,
        name: str,
        version: str,
        url: str,
        process: ManagedProcess,
        options: ServerOptions,
        *,
        model: Path,
        scratch: Path,
    ) -> None:
        self.name = name
        self.version = version
        self.url = url
        self.process = process
        self.model = model
        self._options = options
        self._scratch = scratch

    @classmethod
    async def start(
        cls,
        name: str,
        version: str,
        model: Path,
        *,
        processes: ProcessTable,
        tracking_uri: str,
        options: ServerOptions,
    ) -> ModelServer:
        """Start the process. Returns at once; call :meth:`wait_until_ready` next.

        Args:
            name: registered model.
            version: its version.
            model: its model on this machine, so that a server can be started again without the registry.
            processes: where the process is kept.
            tracking_uri: MLflow's.
            options: how servers are run.
        """
        port = options.port or free_port()
        scratch_root = processes.state_dir / "tmp"
        scratch_root.mkdir(parents=True, exist_ok=True)
        # What MLflow leaves in its temporary folder goes with the server.
        scratch = Path(tempfile.mkdtemp(prefix=f"model-server-v{version}-", dir=scratch_root))
        environment = child_environment(
            MLFLOW_TRACKING_URI=tracking_uri,
            TMPDIR=str(scratch.absolute()),
            # One line per request would fill the disk; the sidecar counts and logs requests.
            UVICORN_ACCESS_LOG="false",
            # Longer than the sidecar keeps idle connections, so that never the server's end closes one in use.
            UVICORN_TIMEOUT_KEEP_ALIVE="120",
        )
        command = [
            *(("nice", "-n", str(options.niceness)) if options.niceness else ()),
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("-m", str(model), "--host", options.host, "-p", str(port)),
            *("--workers", str(options.workers), "--timeout", str(options.request_seconds)),
        ]
        process = await processes.start(
            f"model server v{version}", command, environment, log_name=f"model-server-v{version}"
        )
        # One that listens on every address is reached from beside it like one that listens on the loopback address.
        reached = "127.0.0.1" if options.host == "0.0.0.0" else options.host  # noqa: S104 - compared, not bound
        return cls(name, version, f"http://{reached}:{port}", process, options, model=model, scratch=scratch)

    @property
    def label(self) -> str:
        """The model version as people write it."""
        return f"{self.name} v{self.version}"

    async def wait_until_ready(self) -> None:
        """Wait until ``/ping`` answers.

        Raises:
            PartError: the process ended, or the time is up; with the end of its log.
        """
        deadline = asyncio.get_running_loop().time() + self._options.start_seconds
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                if self.process.returncode is not None:
                    raise self._error(f"ended with status {self.process.returncode} before it was ready")
                if await _answers(client, f"{self.url}/ping"):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise self._error(f"did not answer /ping within {self._options.start_seconds:g} s")
                await asyncio.sleep(_POLL_SECONDS)

    async def warm(self, warm_up: WarmUp) -> None:
        """Send real requests, so that the first client does not pay for lazy loading, and check the answers.

        Raises:
            PartError: an answer is not a 200 with one prediction per instance: this server must get no traffic.
        """
        async with httpx.AsyncClient(timeout=float(self._options.request_seconds), trust_env=False) as client:
            for body, rows in zip(warm_up.bodies, warm_up.rows, strict=True):
                try:
                    answer = await client.post(
                        f"{self.url}/invocations", content=body, headers={"content-type": "application/json"}
                    )
                except httpx.HTTPError as error:
                    raise self._error(f"did not answer a warm-up request: {error!r}") from error
                if answer.status_code != 200:
                    raise self._error(
                        f"answered {answer.status_code} to {rows} of its own reference inputs: {answer.text[:500]}"
                    )
                got = _count_predictions(answer)
                if got != rows:
                    raise self._error(f"answered {rows} reference inputs with {got} predictions")

    async def stop(self) -> bool:
        """Let it finish what it has begun, then stop it; True if it ended by itself in time."""
        try:
            return await self.process.stop(self._options.stop_seconds)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _error(self, what: str) -> PartError:
        log = self.process.log
        return PartError(f"the model server of {self.label} {what}; end of {log}:\n{self.process.last_log_lines()}")


async def start_warm_server(
    name: str, version: str, *, processes: ProcessTable, tracking_uri: str, options: ServerOptions
) -> tuple[ModelServer, WarmUp]:
    """Start a version's server and return it ready for traffic; a server that fails on the way is stopped.

    Raises:
        PartError: it did not start or does not answer its own reference inputs.
        RegistryError: MLflow could not answer (:class:`ModelVersionMissingError` if there is no such version).
    """
    cache = processes.state_dir / "cache"
    model = await asyncio.to_thread(cached_model, name, version, cache / "models")
    preparing = asyncio.create_task(
        asyncio.to_thread(prepare_warm_up, name, version, options.warm_batches, model, cache / "handovers")
    )
    server = await ModelServer.start(
        name, version, model, processes=processes, tracking_uri=tracking_uri, options=options
    )
    try:
        warm_up = await preparing
        await server.wait_until_ready()
        await server.warm(warm_up)
    except BaseException:
        await server.stop()
        raise
    return server, warm_up


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


def _count_predictions(answer: httpx.Response) -> int:
    try:
        body = cast(object, answer.json())
    except ValueError:
        return 0
    predictions = cast(dict[str, object], body).get("predictions") if isinstance(body, dict) else None
    return len(cast(list[object], predictions)) if isinstance(predictions, list) else 0
