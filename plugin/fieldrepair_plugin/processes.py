"""A part of ``fieldrepair up`` as a process group: started, watched, stopped whole, its output in a log file."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LOG_LIMIT = 10 * 1024 * 1024
"""Bytes after which a log is set aside as ``NAME.log.1`` when its part starts again."""
_POLL_SECONDS = 0.05


class ManagedProcess:
    """A running command in a process group of its own, so that Ctrl-C in the terminal reaches only ``up``.

    The command ends when the process that started it dies, even by SIGKILL (see :mod:`fieldrepair_plugin.launch`).
    Start it from the main thread.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, log_start: int) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._log_start = log_start

    @classmethod
    async def start(cls, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> ManagedProcess:
        """Start ``command`` with exactly this environment; its output is appended to ``log``.

        Args:
            name: what people call this part.
            command: program and arguments.
            env: the whole environment.
            log: file for standard output and error; its folder is made if absent.
        """
        launched = [sys.executable, "-m", "fieldrepair_plugin.launch", str(os.getpid()), *command]
        with _open_log(log) as stream:
            log_start = stream.tell()
            process = await asyncio.create_subprocess_exec(
                *launched,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, process, log, log_start)

    @property
    def pid(self) -> int:
        """Process id of the command, which is also the id of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the command to end; its exit status."""
        return await self._process.wait()

    async def stop(self, grace: float) -> bool:
        """Stop the whole group: SIGTERM, and SIGKILL for what is left after ``grace`` seconds.

        The command itself is told first and ends its own children; what outlives it is told next.

        Returns:
            True if everything ended by itself.
        """
        try:
            await asyncio.wait_for(self._stop_gently(), grace)
        except asyncio.TimeoutError:
            return False
        finally:
            self.kill()
            await self._process.wait()
        return True

    def kill(self) -> None:
        """SIGKILL to the whole group, at once; nothing if it is gone."""
        if group_members(self.pid):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def last_log_lines(self, count: int = 15) -> str:
        """The end of what this run wrote, indented, for error messages."""
        with self.log.open("rb") as stream:
            stream.seek(max(self._log_start, self.log.stat().st_size - 64 * 1024))
            lines = stream.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-count:]) or "    (it wrote nothing)"

    async def _stop_gently(self) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            await self._process.wait()
        if group_members(self.pid):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
        while group_members(self.pid):
            await asyncio.sleep(_POLL_SECONDS)


class ProcessTable:
    """Every process that ``up`` has started and that may still run, so that none is forgotten at the end.

    Args:
        state_dir: logs go to its folder ``logs``.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._started: list[ManagedProcess] = []

    async def start(self, name: str, command: Sequence[str], env: Mapping[str, str], log_name: str) -> ManagedProcess:
        """Start ``command``; its output goes to ``logs/<log_name>.log``."""
        log = self.state_dir / "logs" / f"{log_name}.log"
        process = await ManagedProcess.start(name, command, env=env, log=log)
        self._started = [*self.alive(), process]
        return process

    def alive(self) -> list[ManagedProcess]:
        """Those with at least one live process in their group."""
        return [process for process in self._started if group_members(process.pid)]

    def kill_all(self) -> None:
        """SIGKILL to everything that still runs."""
        for process in self._started:
            process.kill()


def group_members(group: int) -> list[int]:
    """Ids of the live processes of a group. Dead ones that nobody has waited for (zombies) do not count.

    A container often has nobody to wait for orphans, so asking the kernel whether the group exists is not enough.
    Where there is no ``/proc`` it is all we have; the answer is then ``[group]`` or nothing.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return []
        return [group]
    members: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended while we were looking
            continue
        # "pid (name) state parent group ...": the name may itself hold spaces and brackets
        state, _parent, of_group = stat.rpartition(")")[2].split()[:3]
        if int(of_group) == group and state not in "ZX":
            members.append(int(entry.name))
    return members


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment for a child: its programs on PATH first, nothing reported to anybody.

    ``mlflow models serve`` looks for ``uvicorn`` on PATH, which is not there when an interpreter of a virtual
    environment was started without activating it.
    """
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    return {
        **os.environ,
        "PATH": path if path.split(os.pathsep)[0] == here else f"{here}{os.pathsep}{path}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    stream = path.open("ab")
    stream.seek(0, os.SEEK_END)
    return stream
