"""A new version on its way in, with real parts: MLflow's webhook, the shadow, and canaries that pass and go back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import mlflow
import pytest
from cryptography.fernet import Fernet
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

from benchmarks import promotion_toy
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.processes import child_environment, free_port
from fieldrepair_service.case_book import CaseBook, Trial, TrialKind, TrialState, open_case_book
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.trial_reports import CanaryReport, ShadowReport, read_report
from tests.plugin.conftest import CLASSES, quadrants, running_mlflow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

T = TypeVar("T")
NAME = "quadrants"
SECRET = "a-secret-that-both-know"
# MLflow refuses plain http and loopback addresses unless it is told otherwise.
WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
}
POLL_SECONDS = 120.0


def register(shift: int, *, fails: bool = False) -> str:
    train, validation = quadrants(60, seed=1), quadrants(60, seed=2)
    labels = [(part[1] + shift) % 4 for part in (train, validation)]
    info = log_model(
        promotion_toy.import_toy().Quadrants(shift, fails),
        reference=Reference(train[0], labels[0], validation[0], labels[1]),
        class_names=CLASSES,
        registered_model_name=NAME,
        pip_requirements=["torch"],
        code_paths=[str(promotion_toy.__file__)],
    )
    return str(info.version)


class Promotion:
    """``up`` with a canary, on a registry that is polled so seldom that only the webhook can be quick."""

    def __init__(self, folder: Path, server: running_mlflow) -> None:
        self.state = folder / "state"
        self.log = folder / "up.log"
        self.control_port = free_port()
        environment = child_environment(
            MLFLOW_TRACKING_URI=server.url,
            FIELDREPAIR_STATE_DIR=str(self.state),
            FIELDREPAIR_TRAFFIC_PORT="0",
            FIELDREPAIR_CONTROL_PORT=str(self.control_port),
            FIELDREPAIR_MONITOR_METRICS_PORT="0",
            FIELDREPAIR_MLFLOW_WEBHOOK_SECRET=SECRET,
            FIELDREPAIR_ALIAS_POLL_SECONDS=str(POLL_SECONDS),
            FIELDREPAIR_SHADOW_INPUTS_PER_SECOND="200",
            FIELDREPAIR_CANARY_PERCENT="40",
            FIELDREPAIR_CANARY_SECONDS="2",
            FIELDREPAIR_CANARY_REQUESTS="20",
            FIELDREPAIR_CANARY_MAX_SLOWDOWN="50",  # the machine is busy with other things
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldrepair_service.cli", "up", f"models:/{NAME}@champion"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.sent = 0
        self.told: dict[str, int] = {}

    def status(self) -> dict[str, Any]:
        path = self.state / "up.json"
        return json.loads(path.read_text()) if path.exists() else {"ready": False}

    def part(self, name: str) -> str:
        part = self.status()["parts"][name]
        return f"{part['state']}: {part['text']}"

    def wait_for(self, what: str, ask: Callable[[], T | None], seconds: float = 90.0) -> T:
        deadline = time.monotonic() + seconds
        while (answer := ask()) in (None, False):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {what}\n{self.log.read_text()}"
            time.sleep(0.1)
        assert answer is not None
        return answer

    def ask(self, *, times: int = 10, brightness: float = 1.0) -> Counter[int]:
        """Status codes of some requests, one image of the first quadrant each."""
        image = quadrants(1, seed=7)[0]
        image[:] = 0.1
        image[0, 0, :4, :4] = 0.9 * brightness
        codes: Counter[int] = Counter()
        with httpx.Client(timeout=30, trust_env=False) as client:
            for _ in range(times):
                self.sent += 1
                name = f"request-{self.sent}"
                answer = client.post(
                    f"{self.status()['traffic_url']}/invocations",
                    json={"inputs": image.tolist()},
                    headers={"x-request-id": name},
                )
                codes[answer.status_code] += 1
                if answer.status_code == 200:
                    scores = answer.json()["predictions"][0]
                    self.told[name] = scores.index(max(scores))
        return codes

    def metrics(self) -> str:
        return httpx.get(f"{self.status()['monitor_metrics_url']}", trust_env=False, timeout=30).text


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promotion]:
    folder = tmp_path_factory.mktemp("promotion")
    (folder / "mlflow").mkdir()
    key = Fernet.generate_key().decode()
    server = running_mlflow(folder / "mlflow", free_port(), MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=key, **WEBHOOKS)
    before = str(mlflow.get_tracking_uri())
    with server as url:
        mlflow.set_tracking_uri(url)
        mlflow.set_experiment(NAME)
        assert [register(0), register(1), register(0, fails=True)] == ["1", "2", "3"]
        client = MlflowClient()
        client.set_registered_model_alias(NAME, "champion", "1")
        up = Promotion(folder, server)
        client.create_webhook(
            name="fieldrepair",
            url=f"http://127.0.0.1:{up.control_port}/mlflow/webhook",
            events=[WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)],
            secret=SECRET,
        )
        try:
            up.wait_for("ready line", lambda: up.status()["ready"])
            yield up
        finally:
            if up.process.poll() is None:
                up.process.send_signal(signal.SIGINT)
                up.process.wait(90)
            mlflow.set_tracking_uri(before)


@pytest.fixture
def book(up: Promotion) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{up.state}/case_book.db") as book:
        yield book


def move(alias: str, version: str) -> None:
    MlflowClient().set_registered_model_alias(NAME, alias, version)


def alias_of(alias: str) -> str:
    return str(MlflowClient().get_model_version_by_alias(NAME, alias).version)


def latest(book: CaseBook, kind: TrialKind, candidate: str) -> Trial | None:
    return next(iter(book.trials(kind, NAME, candidate)), None)


def test_a_candidate_answers_a_copy_of_the_traffic(up: Promotion, book: CaseBook) -> None:
    move("candidate", "2")
    up.wait_for("shadow", lambda: up.part("shadow").startswith("ready: v2 answers a copy") or None)
    assert up.ask(times=30) == {200: 30}  # by the champion alone

    def compared() -> ShadowReport | None:
        up.ask(times=5)
        trial = latest(book, TrialKind.SHADOW, "2")
        report = read_report(ShadowReport, trial.report) if trial else ShadowReport()
        return report if report.compared >= 60 and report.candidate_accuracy else None

    report = up.wait_for("a report", compared)
    assert set(up.told.values()) == {0}
    # Version 2 names every quadrant one further than version 1 does.
    assert report.agreed == 0
    example = report.disagreements[-1]
    assert (example.champion, example.candidate) == (0, 1)
    assert FieldLog.open(up.state / "field_log").read_rows([(example.request_id, example.row)]).keys
    assert report.class_names == list(CLASSES)
    assert report.champion_accuracy is not None
    assert report.candidate_timing.count > 0
    assert report.candidate_timing.mean_ms > 0
    assert report.seen == report.compared + sum(report.dropped.values())
    labels = f'candidate_version="2",model_name="{NAME}",model_version="1"'
    up.wait_for("metrics", lambda: f"fieldrepair_shadow_disagreed_total{{{labels}}}" in up.metrics())


def test_a_canary_gets_its_share_and_then_everything(up: Promotion, book: CaseBook) -> None:
    move("champion", "2")
    up.wait_for("canary", lambda: "v2 gets 40 % as a canary" in up.part("model server") or None)
    before = dict(up.told)

    def over() -> Trial | None:
        assert up.ask(times=10) == {200: 10}
        trial = latest(book, TrialKind.CANARY, "2")
        return trial if trial is not None and trial.state is not TrialState.RUNNING else None

    trial = up.wait_for("end of the canary", over)
    assert trial.state is TrialState.PASSED, trial.reason
    report = read_report(CanaryReport, trial.report)
    assert report.canary.requests >= 20
    assert report.champion.requests > 0
    assert {up.told[name] for name in up.told.keys() - before.keys()} == {0, 1}  # both have answered
    up.wait_for("all traffic", lambda: up.status()["version"] == "2")
    already = len(up.told)
    up.ask(times=10)
    assert set(list(up.told.values())[already:]) == {1}
    up.wait_for("candidate alias to go", lambda: "candidate" not in MlflowClient().get_registered_model(NAME).aliases)
    up.wait_for("shadow's end", lambda: up.part("shadow") == "waiting: no version has the alias candidate")
    shadow = latest(book, TrialKind.SHADOW, "2")
    assert shadow is not None
    assert shadow.state is TrialState.ENDED


def test_a_canary_that_fails_goes_back_and_so_does_the_alias(up: Promotion, book: CaseBook) -> None:
    move("champion", "3")
    up.wait_for("canary", lambda: "v3 gets 40 % as a canary" in up.part("model server") or None)

    def over() -> Trial | None:
        codes = up.ask(times=5, brightness=3.0)
        assert codes.keys() <= {200, 400, 500}
        trial = latest(book, TrialKind.CANARY, "3")
        return trial if trial is not None and trial.state is not TrialState.RUNNING else None

    trial = up.wait_for("end of the canary", over)
    assert trial.state is TrialState.ROLLED_BACK
    assert "requests failed" in trial.reason
    up.wait_for("the alias to go back", lambda: alias_of("champion") == "2")
    up.wait_for("calm", lambda: up.part("model server").startswith("ready: quadrants v2"))
    assert up.ask(times=20, brightness=3.0) == {200: 20}
    assert read_report(CanaryReport, book.trials(TrialKind.CANARY, NAME, "3")[0].report).alias_restored
    up.wait_for("metrics", lambda: 'fieldrepair_canaries_total{outcome="rolled_back"} 1.0' in up.metrics())


def test_the_way_back_is_no_canary(up: Promotion) -> None:
    move("champion", "1")
    up.wait_for("version 1", lambda: up.status()["version"] == "1")
    already = len(up.told)
    assert up.ask(times=10) == {200: 10}
    assert set(list(up.told.values())[already:]) == {0}


def test_every_answer_is_logged_with_the_version_that_gave_it(up: Promotion) -> None:
    """Of everything that was asked above: version 2 answers 1, the others 0."""
    log = FieldLog.open(up.state / "field_log")

    def logged() -> dict[str, str] | None:
        rows = log.read_after({}, limit=100_000, columns=["client_request_id", "model_version"]).to_table().to_pylist()
        found = {str(row["client_request_id"]): str(row["model_version"]) for row in rows}
        return found if len(found) >= len(up.told) else None

    found = up.wait_for("rows", logged)
    assert found.keys() == up.told.keys()
    wrong = {name: (answer, found[name]) for name, answer in up.told.items() if (answer == 1) != (found[name] == "2")}
    assert wrong == {}


def test_the_registry_was_asked_because_of_the_webhook(up: Promotion) -> None:
    control = httpx.get(f"http://127.0.0.1:{up.control_port}/metrics", trust_env=False, timeout=30).text
    taken = next(line for line in control.splitlines() if 'mlflow_webhooks_total{outcome="taken"}' in line)
    assert float(taken.split()[-1]) >= 4
