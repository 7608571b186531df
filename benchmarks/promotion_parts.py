"""What the promotion benchmark runs: an MLflow server, ``fieldrepair up``, versions that can be told apart, clients."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from benchmarks import promotion_toy
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model

T = TypeVar("T")
TOY = "toy"
CLASSES = ("top left", "top right", "bottom left", "bottom right")


def register_toys(count: int) -> None:
    """Versions 1 to ``count`` of the toy; version ``n`` answers the bright quadrant plus ``n``, modulo 4."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 120)
    images = generator.uniform(0.0, 0.3, (120, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (int(label) // 2), 4 * (int(label) % 2)
        image[0, top : top + 4, left : left + 4] += 0.6
    for version in range(1, count + 1):
        told = (labels + version) % 4
        log_model(
            promotion_toy.import_toy().Quadrants(version % 4),
            reference=Reference(images[:60], told[:60], images[60:], told[60:]),
            class_names=CLASSES,
            registered_model_name=TOY,
            pip_requirements=["torch"],
            code_paths=[str(promotion_toy.__file__)],
        )


def up_status(state: Path) -> dict[str, Any]:
    """What ``up`` says of itself; empty while it does not run."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((state / "up.json").read_text())
        return found
    return {}


def wait_until(what: str, ask: Callable[[], T | None], seconds: float) -> T:
    """Ask until there is an answer.

    Raises:
        TimeoutError: there is none in time.
    """
    deadline = time.monotonic() + seconds
    while (answer := ask()) in (None, False):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.1)
    return answer  # type: ignore[return-value]  # neither None nor False


@dataclass(frozen=True)
class Answer:
    """One request of a client."""

    name: str
    began: float
    """Monotonic seconds, as the next one."""
    ended: float
    said: int | None
    """Class of the answer: the version modulo 4; None if it failed."""
    problem: str = ""


@dataclass
class ToyClients:
    """Clients that ask without a pause, each over a connection that it keeps, each request under its own name."""

    url: str
    count: int
    prefix: str = "c"
    answers: list[Answer] = field(default_factory=list[Answer])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __enter__(self) -> ToyClients:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        image = np.full((1, 1, 8, 8), 0.1)
        image[0, 0, :4, :4] = 0.9  # quadrant 0, so that the answer is the version modulo 4
        body = json.dumps({"inputs": image.tolist()})
        address = urlsplit(self.url)
        host, port = str(address.hostname), address.port
        connection = http.client.HTTPConnection(host, port, timeout=30)
        asked = 0
        while not self._stop.is_set():
            asked += 1
            answer = _ask(connection, f"{self.prefix}{number}-{asked}", body)
            if answer.problem:
                connection.close()
                connection = http.client.HTTPConnection(host, port, timeout=30)
            self.answers.append(answer)
        connection.close()


def _ask(connection: http.client.HTTPConnection, name: str, body: str) -> Answer:
    began = time.monotonic()
    try:
        connection.request("POST", "/invocations", body, {"content-type": "application/json", "x-request-id": name})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            return Answer(name, began, time.monotonic(), None, f"{response.status} {content[:200]!r}")
        scores = json.loads(content)["predictions"][0]
        return Answer(name, began, time.monotonic(), int(np.argmax(scores)))
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
        return Answer(name, began, time.monotonic(), None, repr(error))


def settings(**named: object) -> Mapping[str, str]:
    """Settings as environment variables."""
    return {f"FIELDREPAIR_{name.upper()}": str(value) for name, value in named.items()}
