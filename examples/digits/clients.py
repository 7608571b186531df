"""The two people of the story: a client that sends scans, and a labeller who looks at pictures."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from types import TracebackType

import httpx
import numpy as np
from PIL import Image

from examples.digits.data import SERVED_AS, Images, Labels, Part


@dataclass
class Client:
    """Sends scans to the sidecar as any client of an MLflow model server would, and counts what fails."""

    traffic_url: str
    images_per_request: int = 10
    sent_requests: int = 0
    failed_requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def classify(self, images: Images) -> Labels:
        """Predicted classes (n,) of ``images`` (n, 1, 8, 8); -1 where the request failed."""
        predicted = np.full(len(images), -1, dtype=np.int64)
        with httpx.Client(base_url=self.traffic_url, timeout=30.0) as http:
            for start in range(0, len(images), self.images_per_request):
                part = images[start : start + self.images_per_request]
                scores = self._ask(http, part)
                if scores is not None:
                    predicted[start : start + len(part)] = scores.argmax(axis=1)
        return predicted

    def accuracy(self, part: Part) -> float:
        """Share of ``part`` that the served model gets right; a failed request counts as wrong."""
        return float((self.classify(part.images) == part.labels).mean())

    def _ask(self, http: httpx.Client, images: Images) -> np.ndarray[tuple[int, int], np.dtype[np.float64]] | None:
        try:
            answer = http.post("/invocations", json={"inputs": images.tolist()})
            answer.raise_for_status()
            scores = np.asarray(answer.json()["predictions"], dtype=np.float64)
        except (httpx.HTTPError, ValueError, KeyError):
            scores = None
        with self._lock:
            self.sent_requests += 1
            self.failed_requests += scores is None
        return scores


class SteadyTraffic:
    """A client in the background that asks without pause while something is switched under it."""

    def __init__(self, client: Client, images: Images) -> None:
        self._client = client
        self._images = images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-traffic", daemon=True)

    def __enter__(self) -> SteadyTraffic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            start = np.random.default_rng(self._client.sent_requests).integers(len(self._images))
            self._client.classify(self._images[start : start + self._client.images_per_request])
            self._stop.wait(0.05)


class Labeller:
    """Answers annotation tasks through the public API, from the picture alone, as a person does.

    It knows the true label of every scan that was sent, and recognises each by its pixels. It asks for nothing that
    the labelling page does not show.
    """

    def __init__(self, control: httpx.Client, sent: list[Part]) -> None:
        self._control = control
        self._label_of: dict[bytes, int] = {}
        for part in sent:
            for pixels, label in zip(SERVED_AS.to_pixels(part.images), part.labels, strict=True):
                self._label_of[pixels.tobytes()] = int(label)

    def answer_all(self, case_id: int) -> int:
        """Label every open task of the case; returns how many."""
        answered = 0
        while (task := self._next_task(case_id)) is not None:
            picture = self._control.get(str(task["image_url"]), params={"scale": 1})
            picture.raise_for_status()
            pixels = np.asarray(Image.open(io.BytesIO(picture.content)).convert("L"), dtype=np.uint8)
            label = self._label_of[pixels[None].tobytes()]
            self._control.post(
                f"/api/tasks/{task['task_id']}/label", json={"label": str(label), "labeller": "demo"}
            ).raise_for_status()
            answered += 1
        return answered

    def _next_task(self, case_id: int) -> dict[str, object] | None:
        answer = self._control.get(f"/api/cases/{case_id}/tasks/next", params={"labeller": "demo"})
        answer.raise_for_status()
        return None if answer.status_code == 204 else answer.json()
