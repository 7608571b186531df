"""Promotions and roll-backs under all the load that the machine sustains: what fails, and who answered what."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from benchmarks.promotion_parts import TOY, Answer, ToyClients, register_toys, settings, up_status, wait_until
from examples.digits.platform import FieldRepair, Platform
from fieldrepair_service.field_log import FieldLog

_RAMP = (1, 2, 4, 8, 16)
_RAMP_SECONDS = 2.0
_ENOUGH = 0.95


@dataclass(frozen=True)
class Switched:
    """One move of the alias."""

    version: int
    asked: float
    """When the alias was moved, monotonic seconds."""
    done: float
    """When the sidecar was seen to send everything to the version."""
    stopped: float
    """When the former server was seen to be gone."""
    former: int


def promotions(
    folder: Path, ups: int, downs: int, clients: int | None = None, minutes: float = 60.0
) -> dict[str, float | int]:
    """Move the alias up ``ups`` times and down ``downs`` times under load; the numbers.

    Args:
        folder: an empty one.
        ups: promotions, each to the next version.
        downs: roll-backs in between, each to the version before.
        clients: how many ask at a time; default: as many as it takes for the highest throughput.
        minutes: no switch is begun after so many; the numbers say how many were made.
    """
    platform = Platform.start_mlflow(folder)
    before = str(mlflow.get_tracking_uri())
    mlflow.set_tracking_uri(platform.mlflow_url)
    try:
        mlflow.set_experiment(TOY)
        register_toys(ups - downs + 2)
        MlflowClient().set_registered_model_alias(TOY, "champion", "1")
        # Nothing but what is measured: no shadow, and a monitor that waits for larger windows than there will be.
        quiet = settings(window_size=1_000_000, shadow="false")
        running = dataclasses.replace(platform, environment={**platform.environment, **quiet}).start_fieldrepair(
            f"models:/{TOY}@champion"
        )
        try:
            return _measure(running, folder / "state", way(ups, downs), clients, minutes)
        finally:
            running.stop()
    finally:
        mlflow.set_tracking_uri(before)
        platform.stop()


def _measure(
    running: FieldRepair, state: Path, targets: list[int], clients: int | None, minutes: float
) -> dict[str, float | int]:
    answers: list[Answer] = []
    if clients is None:
        clients = _ramp(running.traffic_url, answers)
    switches: list[Switched] = []
    with ToyClients(running.traffic_url, clients, "load") as load:
        time.sleep(2.0)
        began = time.monotonic()
        version = 1
        for target in targets:
            if time.monotonic() > began + 60 * minutes:
                break
            switches.append(_switch(running, state, version, target))
            version = target
        time.sleep(2.0)
        seconds = time.monotonic() - began
    answers += load.answers
    logged = _logged(state, len([each for each in answers if each.said is not None]))
    dropped = _dropped(running)
    asked = len([each for each in load.answers if each.began >= began])
    return {
        "promotions": sum(1 for switch in switches if switch.version > switch.former),
        "roll_backs": sum(1 for switch in switches if switch.version < switch.former),
        "clients": clients,
        "seconds": round(seconds, 1),
        "requests": len(answers),
        "requests_per_second": round(asked / seconds, 1),
        "failed": sum(1 for each in answers if each.problem),
        "answers_of_a_stopped_version": answers_by_stopped_versions(load.answers, switches),
        "answers_of_the_former_version_after_the_switch": late_answers(load.answers, switches),
        "wrong_version_tags": sum(
            1 for each in answers if each.said is not None and logged.get(each.name, each.said) % 4 != each.said
        ),
        "answered_not_logged": sum(1 for each in answers if each.said is not None and each.name not in logged),
        "counted_as_dropped": dropped,
        "switch_seconds_median": round(sorted(s.done - s.asked for s in switches)[len(switches) // 2], 2),
        "switch_seconds_most": round(max(s.done - s.asked for s in switches), 2),
        "slowest_answer_seconds": round(max(each.ended - each.began for each in answers), 3),
    }


def way(ups: int, downs: int) -> list[int]:
    """Versions in order: up again and again, with the steps down spread among them."""
    way: list[int] = []
    version, made = 1, 0
    for step in range(1, ups + 1):
        version += 1
        way.append(version)
        if made < downs * step // ups:
            made += 1
            version -= 1
            way.append(version)
    return way


def _ramp(url: str, answers: list[Answer]) -> int:
    """The fewest clients that reach (nearly) the highest throughput."""
    found: dict[int, float] = {}
    for count in _RAMP:
        with ToyClients(url, count, f"ramp{count}-") as load:
            time.sleep(_RAMP_SECONDS)
        found[count] = len(load.answers) / _RAMP_SECONDS
        answers += load.answers
    return next(count for count, rate in found.items() if rate >= _ENOUGH * max(found.values()))


def _switch(running: FieldRepair, state: Path, former: int, target: int) -> Switched:
    asked = time.monotonic()
    MlflowClient().set_registered_model_alias(TOY, "champion", str(target))

    def active() -> bool:
        return str(running.get("/upstream")["active"]["model_version"]) == str(target)

    wait_until(f"version {target}", active, 120)
    done = time.monotonic()
    # A server's scratch folder goes when its process is gone.
    wait_until(f"end of version {former}", lambda: len(list((state / "tmp").iterdir())) == 1, 120)
    stopped = time.monotonic()
    wait_until("status", lambda: up_status(state).get("version") == str(target), 30)
    return Switched(target, asked, done, stopped, former)


def answers_by_stopped_versions(answers: list[Answer], switches: list[Switched]) -> int:
    """Answers by a version that did not take traffic at any time while the request was on its way."""
    return sum(
        1
        for answer in answers
        if answer.said is not None and answer.said not in {version % 4 for version in _active(switches, answer)}
    )


def _active(switches: list[Switched], answer: Answer) -> set[int]:
    """The versions that could rightly answer: active at some time while the request was on its way."""
    versions = {1} if answer.began < switches[0].done else set[int]()
    for index, switch in enumerate(switches):
        # Until the next switch was seen to be done, this one's version may still have been the active one.
        end = switches[index + 1].done if index + 1 < len(switches) else float("inf")
        if switch.asked < answer.ended and answer.began < end:
            versions.add(switch.version)
    return versions


def late_answers(answers: list[Answer], switches: list[Switched]) -> int:
    """Answers by the former version to requests that began when the sidecar was seen to have switched."""
    found = 0
    for index, switch in enumerate(switches):
        until = switches[index + 1].asked if index + 1 < len(switches) else float("inf")
        found += sum(
            1 for a in answers if switch.done < a.began < until and a.said is not None and a.said != switch.version % 4
        )
    return found


def _logged(state: Path, expected: int) -> dict[str, int]:
    """Version by the request's name, once everything has been shipped."""
    log = FieldLog.open(state / "field_log")

    def count() -> bool:
        return log.count() >= expected

    with suppress(TimeoutError):  # what is missing is counted
        wait_until("rows in the field log", count, 120)
    found: dict[str, int] = {}
    for piece in log.batches(columns=["client_request_id", "model_version"]):
        names = piece.column("client_request_id").to_pylist()
        versions = piece.column("model_version").to_pylist()
        found.update({str(name): int(version) for name, version in zip(names, versions, strict=True)})
    return found


def _dropped(running: FieldRepair) -> int:
    text = running.control.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("fieldrepair_exchanges_dropped_total")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))
