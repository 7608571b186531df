"""Parts are killed at random while a repair case makes its way: does all heal, and is anything lost or done twice?

A deployment with its keeper serves the digits; a client sends scans of a scanner that was re-mounted; a labeller
answers; whoever approves, approves. Meanwhile supervisor, model server, sidecar, monitor, worker and registry are
killed with SIGKILL in random order. The registry stays away for some seconds; all else comes back by itself.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import mlflow
from mlflow import MlflowClient

from benchmarks.promotion_parts import settings, up_status, wait_until
from examples.digits.clients import Client, Labeller
from examples.digits.data import CLASS_NAMES, SERVED_AS, Part, RemountedScanner, split_scans
from examples.digits.model import train_network
from examples.digits.platform import DemoError, Platform
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.deployments.client import FieldRepairDeploymentClient
from fieldrepair_service.case_book import OPEN_STATES, Case, CaseBook, CaseState, open_case_book

MODEL = "digits"
VICTIMS = ("supervisor", "model server", "sidecar", "monitor", "worker", "registry")
HEALED_WITHIN = 30.0
_GIVE_UP = 180.0
_AWAY = (1.0, 8.0)
_BETWEEN = (0.5, 4.0)
_CLIENT_PAUSE = 1.0
_ANGLES = (18.0, -20.0, 40.0, -42.0)


@dataclass
class Killed:
    """One kill, and how long it took until everything was well again."""

    victim: str
    returned_after: float
    """From the kill until the part was back as a process."""
    healed_after: float
    """From its return until predictions are answered and every part says it is ready."""


@dataclass
class Chaos:
    """Everything that runs, and what was seen.

    Args:
        folder: an empty one.
    """

    folder: Path
    killed: list[Killed] = field(default_factory=list[Killed])
    problems: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.platform = Platform.start_mlflow(self.folder)
        self.state = self.folder / "home" / MODEL / "state"
        # A scan, because what is asked is logged, too, and may be chosen for a question to the labeller.
        self.probe = {"inputs": split_scans()["traffic"].images[:1].tolist()}
        self.client = FieldRepairDeploymentClient(f"fieldrepair:{self.folder / 'home'}")

    # -- what runs -----------------------------------------------------------------------------------------------

    def deploy(self) -> None:
        """Register the network and create the deployment."""
        mlflow.set_tracking_uri(self.platform.mlflow_url)
        mlflow.set_experiment(MODEL)
        scans = split_scans()
        train, validation = scans["train"], scans["validation"]
        log_model(
            train_network(train, epochs=30),
            registered_model_name=MODEL,
            reference=Reference(train.images, train.labels, validation.images, validation.labels),
            class_names=CLASS_NAMES,
            input=SERVED_AS,
            pip_requirements=["torch"],
        )
        MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
        chosen = settings(
            pool_minimum=400,
            pool_maximum=600,
            margin=0.05,
            epochs=6,
            repair_threads=1,
            monitor_threads=1,
            lease_seconds=10,
            shadow_inputs_per_second=5,
        )
        os.environ.update(chosen)
        self.client.create_deployment(MODEL, f"models:/{MODEL}@champion", config={})

    def stop(self) -> None:
        """Stop everything."""
        with suppress(Exception):  # the numbers are taken by now
            self.client.delete_deployment(MODEL)
        self.platform.stop()

    def healed(self) -> bool:
        """Whether predictions are answered and every part says that it is ready."""
        status = up_status(self.state)
        parts = status.get("parts", {})
        if not status.get("ready") or not _alive(status["pid"]):
            return False
        wanted = ("registry", "model server", "sidecar", "monitor", "worker")
        if any(parts.get(name, {}).get("state") != "ready" for name in wanted):
            return False
        with suppress(httpx.HTTPError):
            answer = httpx.post(f"{status['traffic_url']}/invocations", json=self.probe, timeout=5, trust_env=False)
            return answer.status_code == 200
        return False

    # -- what is done to it --------------------------------------------------------------------------------------

    def kill(self, victim: str, generator: random.Random) -> None:
        """Kill one part, and wait until it is back and all is well."""
        began = time.monotonic()
        if victim == "registry":
            process = self.platform.mlflow
            os.killpg(process.handle.pid, signal.SIGKILL)
            process.handle.wait()
            time.sleep(generator.uniform(*_AWAY))
            self.platform = Platform.start_mlflow(self.folder, urlsplit(self.platform.mlflow_url).port)
        else:
            pid = self._pid(victim)
            if victim == "supervisor":
                os.kill(pid, signal.SIGKILL)
            else:
                os.killpg(pid, signal.SIGKILL)
            wait_until(f"return of the {victim}", lambda: self._pid(victim, pid) != pid, _GIVE_UP)
        back = time.monotonic()
        wait_until(f"recovery from the end of the {victim}", self.healed, _GIVE_UP)
        self.killed.append(Killed(victim, back - began, time.monotonic() - back))

    def _pid(self, victim: str, former: int | None = None) -> int:
        """The part's process; the former one while there is no new one."""

        def found() -> int | None:
            status = up_status(self.state)
            pid = status.get("pid") if victim == "supervisor" else status.get("parts", {}).get(victim, {}).get("pid")
            return pid if isinstance(pid, int) and _alive(pid) else former

        return wait_until(f"process of the {victim}", found, _GIVE_UP)


@dataclass
class People:
    """Client, labeller and approver in one thread: they go on whatever happens, and try again what failed."""

    chaos: Chaos
    promoted: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until stopped."""
        scans = split_scans()["traffic"]
        sent: list[Part] = [scans]
        while not self.stop.is_set():
            scanner = RemountedScanner(angle=_ANGLES[self.promoted % len(_ANGLES)])
            seed = len(sent)
            part = Part(scanner.scan(scans.images, seed=seed), scans.labels)
            sent.append(part)
            try:
                self._round(part, sent)
            except (httpx.HTTPError, DemoError, OSError, KeyError, ValueError) as error:
                self.errors[type(error).__name__] += 1  # something was killed just now
            self.stop.wait(_CLIENT_PAUSE)

    def _round(self, part: Part, sent: list[Part]) -> None:
        status = up_status(self.chaos.state)
        Client(status["traffic_url"]).classify(part.images[:300])
        token = (self.chaos.state / "control-token").read_text().strip()
        with httpx.Client(
            base_url=status["control_url"], headers={"authorization": f"Bearer {token}"}, timeout=10, trust_env=False
        ) as control:
            for case in control.get("/api/cases").raise_for_status().json():
                if case["state"] == "annotating" and case["budget"] is not None:
                    Labeller(control, sent).answer_all(case["id"])
                if case["state"] == "accepted":
                    place = f"{case['state']}/{case['attempt']}/{case['candidate_version']}"
                    control.post(f"/cases/{case['id']}/promote", data={"place": place})
            self.promoted = sum(
                case["state"] == "promoted" for case in control.get("/api/cases").raise_for_status().json()
            )


def kills(folder: Path, times: int, seed: int = 0, minutes: float = 60.0) -> dict[str, Any]:
    """Kill parts ``times`` times, but none after so many minutes; the numbers say how many were killed."""
    generator = random.Random(seed)  # noqa: S311 - a repeatable order
    before = str(mlflow.get_tracking_uri())
    chaos = Chaos(folder)
    try:
        chaos.deploy()
        wait_until("deployment", chaos.healed, _GIVE_UP)
        people = People(chaos)
        thread = threading.Thread(target=people.run)
        thread.start()
        try:
            order = [VICTIMS[number % len(VICTIMS)] for number in range(times)]
            generator.shuffle(order)
            end = time.monotonic() + 60 * minutes
            for number, victim in enumerate(order, 1):
                if time.monotonic() > end:
                    break
                time.sleep(generator.uniform(*_BETWEEN))
                try:
                    chaos.kill(victim, generator)
                except TimeoutError as error:
                    chaos.problems.append(f"kill {number}, {victim}: {error}")
                print(f"kill {number} of {times}: {chaos.killed[-1:]}", flush=True)
            stuck = _settle(chaos, people)
        finally:
            people.stop.set()
            thread.join()
        return _numbers(chaos, people, stuck)
    finally:
        chaos.stop()
        mlflow.set_tracking_uri(before)


def _settle(chaos: Chaos, people: People) -> int:
    """Give the case at work the time to end; how many cases do not move on."""

    def done() -> bool:
        with open_case_book(f"sqlite:///{chaos.state}/case_book.db") as book:
            return people.promoted > 0 and not [
                case for case in book.cases() if case.state in OPEN_STATES and case.state is not CaseState.ANNOTATING
            ]

    try:
        wait_until("end of the cases at work", done, 200)
    except TimeoutError:
        with open_case_book(f"sqlite:///{chaos.state}/case_book.db") as book:
            return len([case for case in book.cases() if case.state in OPEN_STATES])
    return 0


def _numbers(chaos: Chaos, people: People, stuck: int) -> dict[str, Any]:
    with open_case_book(f"sqlite:///{chaos.state}/case_book.db") as book:
        cases = book.cases()
        events = book.events(limit=1000)
        epochs_twice, repairs_continued = _epochs(chaos, cases)
        lost = len({event.case_id for event in events} - {case.id for case in cases})
        out_of_order = sum(_windows_out_of_order(book, version) for version in {case.model_version for case in cases})
    versions = MlflowClient().search_model_versions(f"name = '{MODEL}'", max_results=1000)
    made_by = Counter(str(version.tags.get("fieldrepair.case")) for version in versions if version.version != "1")
    healed = sorted(each.healed_after for each in chaos.killed)
    return {
        "kills": len(chaos.killed) + len(chaos.problems),
        "kills_by_part": dict(sorted(Counter(each.victim for each in chaos.killed).items())),
        "not_healed": len(chaos.problems),
        "healed_later_than_30_s": sum(1 for seconds in healed if seconds > HEALED_WITHIN),
        "heal_seconds_median": round(healed[len(healed) // 2], 1) if healed else None,
        "heal_seconds_most": round(healed[-1], 1) if healed else None,
        # `up` names a new model server only when it answers, so its whole start counts as its return: this has both.
        "kill_to_healed_seconds_most": round(
            max((each.returned_after + each.healed_after for each in chaos.killed), default=0.0), 1
        ),
        "return_seconds_most": round(max((each.returned_after for each in chaos.killed), default=0.0), 1),
        "cases": dict(sorted(Counter(str(case.state) for case in cases).items())),
        "cases_lost": lost,
        "cases_stuck": stuck,
        "windows_missing_or_twice": out_of_order,
        "versions_registered_twice": sum(count - 1 for count in made_by.values()),
        "repairs_continued_from_an_epoch": repairs_continued,
        "epochs_logged_twice": epochs_twice,
        "client_errors": dict(people.errors),
        "problems": chaos.problems,
    }


def _epochs(chaos: Chaos, cases: list[Case]) -> tuple[int, int]:
    """Epochs that a run holds twice, and how often the worker went on after an epoch."""
    twice = 0
    for case in cases:
        if case.run_id is not None:
            steps = [m.step for m in MlflowClient().get_metric_history(case.run_id, "total_unsmoothness")]
            twice += len(steps) - len(set(steps))
    log = chaos.state / "logs" / "worker.log"
    return twice, log.read_text(errors="replace").count("continuing the repair after epoch") if log.exists() else 0


def _windows_out_of_order(book: CaseBook, version: str) -> int:
    indices = [window.index for window in book.windows(MODEL, version, limit=100_000)]
    return len(set(range(len(indices))) ^ set(indices)) + len(indices) - len(set(indices))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
