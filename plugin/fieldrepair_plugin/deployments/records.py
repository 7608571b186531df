"""What is known of each deployment, in a folder of its own: the order, the keeper's word, and everything ``up`` keeps.

HOME/NAME/deployment.json   what was asked for; gone once the deployment is deleted
HOME/NAME/keeper.lock       held by the keeper while it lives, with its process id in it
HOME/NAME/keeper.json       how the keeper is doing
HOME/NAME/keeper.log        its output and that of ``up``
HOME/NAME/state/            the state folder of ``up``: field log, case book, spool, logs, up.json
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fieldrepair_plugin.errors import AlreadyRunningError, DeploymentError
from fieldrepair_plugin.supervisor import STATUS_FILE

HOME_VARIABLE = "FIELDREPAIR_DEPLOYMENTS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Order(BaseModel):
    """What was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model_uri: str
    flavor: str
    tracking_uri: str
    working_dir: str
    """Where relative paths in it (a ``sqlite:///mlflow.db``) are meant from."""
    config: dict[str, str]
    """Settings of the parts, by the names of their settings classes."""


class KeeperStatus(BaseModel):
    """How the keeper is doing."""

    model_config = ConfigDict(frozen=True)

    starts: int
    """Times it has started ``up``."""
    ended: int
    """Times ``up`` has ended without being asked to."""
    last_end: str
    """Why, with the end of the log; empty if it never did."""


class DeploymentFolder:
    """One deployment's folder.

    Args:
        home: folder of all deployments.
        name: the deployment's.

    Raises:
        DeploymentError: a name that is no file name.
    """

    def __init__(self, home: Path, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise DeploymentError(
                f"a deployment's name has up to 63 letters, digits, dots, dashes and underscores and starts with a "
                f"letter or digit, got {name!r}"
            )
        self.name = name
        self.path = home / name
        self.state = self.path / "state"
        self.log = self.path / "keeper.log"
        self._order = self.path / "deployment.json"
        self._status = self.path / "keeper.json"
        self._lock = self.path / "keeper.lock"

    @property
    def exists(self) -> bool:
        """Whether there is a deployment of this name."""
        return self._order.exists()

    def order(self) -> Order:
        """What was asked for.

        Raises:
            DeploymentError: there is no such deployment, or its file cannot be read.
        """
        try:
            return Order.model_validate_json(self._order.read_bytes())
        except FileNotFoundError:
            raise DeploymentError(f"there is no deployment {self.name!r} in {self.path.parent}") from None
        except ValidationError as error:
            raise DeploymentError(f"{self._order} cannot be read: {error}") from error

    def place(self, order: Order) -> None:
        """Ask for something, or for something else."""
        self.state.mkdir(parents=True, exist_ok=True)
        _replace(self._order, order.model_dump_json(indent=2))

    def withdraw(self) -> None:
        """The deployment is deleted; what it has collected stays."""
        self._order.unlink(missing_ok=True)
        self._status.unlink(missing_ok=True)

    def report(self, status: KeeperStatus) -> None:
        """The keeper says how it is doing."""
        _replace(self._status, status.model_dump_json(indent=2))

    def status(self) -> KeeperStatus | None:
        """What the keeper last said; None if there was none yet."""
        try:
            return KeeperStatus.model_validate_json(self._status.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def up_status(self) -> dict[str, Any]:
        """What ``up`` says of its parts; empty while it does not run."""
        try:
            found: dict[str, Any] = json.loads((self.state / STATUS_FILE).read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found if holder(self.state / "up.lock") is not None else {}

    def keeper(self) -> int | None:
        """Process id of the living keeper; None if there is none."""
        return holder(self._lock)

    def up(self) -> int | None:
        """Process id of the living ``up``; None if there is none. It may outlive a keeper that was killed."""
        return holder(self.state / "up.lock")

    @contextmanager
    def kept(self) -> Generator[None]:
        """Be the keeper. The kernel lets go of this when the process ends, however it ends.

        Raises:
            AlreadyRunningError: there is one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a+") as lock:
            if not _taken(lock):
                raise AlreadyRunningError(f"deployment {self.name!r} has a keeper already (process {self.keeper()})")
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def home_of(target_uri: str) -> Path:
    """The folder of all deployments that a target URI means: ``fieldrepair`` or ``fieldrepair:/FOLDER``."""
    _, _, folder = target_uri.partition(":")
    if folder:
        # fieldrepair:/tmp/x and fieldrepair:///tmp/x mean the same folder.
        return Path("/" + folder.lstrip("/"))
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else Path.home() / ".fieldrepair" / "deployments"


def folders(home: Path) -> list[DeploymentFolder]:
    """Every deployment, by name."""
    if not home.is_dir():
        return []
    names = sorted(entry.name for entry in home.iterdir() if _NAME.fullmatch(entry.name))
    return [folder for folder in (DeploymentFolder(home, name) for name in names) if folder.exists]


def holder(lock_file: Path) -> int | None:
    """Process id in a lock file that somebody holds; None if nobody does."""
    try:
        with lock_file.open("r+") as lock:
            if _taken(lock):
                return None
            return int(lock.read().strip() or 0) or None
    except (FileNotFoundError, ValueError):
        return None


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, text: str) -> None:
    """Readers see the old text or the new one, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)
