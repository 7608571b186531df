"""One model version served by ``mlflow models serve`` as a child process: start, wait, warm, stop."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.errors import HandOverError, ReferenceSetError
from fieldrepair_monitoring.handover import load_handover
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.processes import ManagedProcess, ProcessTable, child_environment, free_port

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

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


def prepare_warm_up(name: str, version: str, batches: Sequence[int], cache_dir: Path | None = None) -> WarmUp:
    """Requests made of the version's own reference sample. Blocks: it asks the registry and may download.

    Raises:
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not answer.
    """
    import orjson
    from mlflow.models import get_model_info

    try:
        sample = load_handover(name, version, cache_dir).reference.val_x
    except (HandOverError, ReferenceSetError) as error:
        return WarmUp((), (), skipped=str(error))
    uri = f"models:/{name}/{version}"
    with registry_errors(f"model {uri}"):
        signature = cast("ModelSignature | None", get_model_info(uri).signature)
    columns: list[str] | None = None
    if signature is not None and signature.inputs is not None and not signature.inputs.is_tensor_spec():
        columns = cast(list[str], signature.inputs.input_names())
    rows = tuple(min(size, len(sample)) for size in batches)
    return WarmUp(tuple(orjson.dumps(_request(sample[:count], columns)) for count in rows), rows)


def _request(instances: npt.NDArray[np.generic], columns: list[str] | None) -> dict[str, Any]:
    """The body MLflow's scoring server takes: tensors by default, a data frame where the signature has columns."""
    if columns is None:
        return {"inputs": instances.tolist()}
    return {"dataframe_split": {"columns": columns, "data": instances.reshape(len(instances), -1).tolist()}}


class ModelServer:
    """A running server of one version. Make one with :meth:`start`; it takes traffic after :meth:`wait_until_warm`."""

    def __init__(
        self, name: str, version: str, url: str, process: ManagedProcess, options: ServerOptions, scratch: Path
    ) -> None:
        self.name = name
        self.version = version
        self.url = url
        self.process = process
        self._options = options
        self._scratch = scratch

    @classmethod
    async def start(
        cls, name: str, version: str, *, processes: ProcessTable, tracking_uri: str, options: ServerOptions
    ) -> ModelServer:
        """Start the process. Returns at once; call :meth:`wait_until_ready` next."""
        port = options.port or free_port()
        scratch_root = processes.state_dir / "tmp"
        scratch_root.mkdir(parents=True, exist_ok=True)
        # MLflow downloads the model to its temporary folder and leaves it there; this one goes with the server.
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
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("-m", f"models:/{name}/{version}", "--host", options.host, "-p", str(port)),
            *("--workers", str(options.workers), "--timeout", str(options.request_seconds)),
        ]
        process = await processes.start(
            f"model server v{version}", command, environment, log_name=f"model-server-v{version}"
        )
        # One that listens on every address is reached from beside it like one that listens on the loopback address.
        reached = "127.0.0.1" if options.host == "0.0.0.0" else options.host  # noqa: S104 - compared, not bound
        return cls(name, version, f"http://{reached}:{port}", process, options, scratch)

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
    preparing = asyncio.create_task(
        asyncio.to_thread(
            prepare_warm_up, name, version, options.warm_batches, processes.state_dir / "cache" / "handovers"
        )
    )
    server = await ModelServer.start(name, version, processes=processes, tracking_uri=tracking_uri, options=options)
    try:
        warm_up = await preparing  # a version that is not there ends here, before the long wait
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
