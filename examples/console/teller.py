"""Tells one case at a time: what the monitor, the labellers and the worker would have written into the case book."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from examples.console.pictures import SPEC, Pictures, pairs_png
from fieldrepair_plugin.acceptance import Predictions, judge
from fieldrepair_service.case_book import (
    CaseBook,
    CaseState,
    NewDriftEvent,
    NewTask,
    TrialKind,
    TrialState,
    WindowRecord,
)
from fieldrepair_service.trial_reports import CanaryReport, Disagreement, Estimate, ShadowReport, SideReport, Timing

HOUR_MS = 3_600_000
REPAIR, ACCEPTANCE = 24, 120
POOL = 600
_WINDOW = 200
_PEOPLE = ("Ann Meyer", "Bo Lindqvist")

Ints = npt.NDArray[np.int64]


@dataclass
class Clock:
    """A clock that the story moves."""

    ms: int

    def __call__(self) -> int:
        """Epoch milliseconds."""
        return self.ms


@dataclass(frozen=True)
class Shift:
    """When the field of a model version shifts, counted in windows."""

    model: str
    version: str
    begin_ms: int
    windows: int
    drifts_at: int
    ends_at: int | None = None


class Teller:
    """Writes the story.

    Args:
        book: the case book, on ``clock``.
        clock: is moved along.
        known: ``(n, 1, 8, 8)`` pictures as the model knows them.
        field_x: the same inputs as the field shows them; number i is request ``req-0000i`` of the field log.
        labels: ``(n,)``.
        class_names: one per class.
    """

    def __init__(
        self, book: CaseBook, clock: Clock, known: Pictures, field_x: Pictures, labels: Ints, class_names: Sequence[str]
    ) -> None:
        self._book = book
        self._clock = clock
        self._known = known
        self._field_x = field_x
        self._labels = labels
        self._names = list(class_names)
        self._random = np.random.default_rng(5)

    def drift(self, shift: Shift) -> int:
        """Windows, an alert with its explanation, and the case that follows; gives the case's number."""
        step = HOUR_MS // 2 if shift.windows > 24 and shift.model == "digits" else HOUR_MS // 4
        case_id, event_id = 0, 0
        for index in range(shift.windows):
            end = shift.begin_ms + (index + 1) * step
            self._clock.ms = end
            shifted = shift.drifts_at <= index < (shift.ends_at or shift.windows)
            ratio = abs(self._random.normal(2.1 if shifted else 0.55, 0.3 if shifted else 0.13))
            accuracy = self._random.normal(0.79 if shifted else 0.965, 0.012)
            window = WindowRecord(
                index,
                end - step,
                end,
                _WINDOW,
                "mmd",
                0.011 * ratio,
                0.011,
                0.002 if ratio > 1 else 0.4,
                ratio > 1,
                estimated_accuracy=accuracy,
                accuracy_low=accuracy - 0.03,
                accuracy_high=min(1.0, accuracy + 0.025),
            )
            opens = self._event(shift, window) if index == shift.drifts_at + 2 else None
            ends = event_id if index == shift.ends_at else None
            event = self._book.record_windows(
                shift.model, shift.version, {"example": (index + 1, 0)}, [window], opens, ends
            )
            if event is not None:
                case_id, event_id = event.case_id, event.id
                self._explain(case_id, event_id)
        return case_id

    def plan(self, case_id: int, answered: int | None = None) -> None:
        """Regions, exemplars and the map; then people answer, all tasks or so many."""
        random = np.random.default_rng(case_id)
        pool = random.choice(len(self._field_x), POOL + ACCEPTANCE, replace=False)
        chosen, acceptance = pool[:POOL], pool[POOL:]
        exemplars = self._map(case_id, chosen)
        tasks = [NewTask(f"req-{at:05}", 0, "repair", rank=i, region=i) for i, at in enumerate(exemplars)]
        tasks += [NewTask(f"req-{at:05}", 0, "acceptance", rank=i) for i, at in enumerate(acceptance.tolist())]
        note = f"waiting for {len(tasks)} labels: {REPAIR} to repair, {ACCEPTANCE} to judge the repair"
        self._book.plan_case(case_id, tasks, REPAIR, ACCEPTANCE, {"example": (POOL, 0)}, note)
        for number, task in enumerate(self._book.tasks(case_id)[: answered if answered is not None else len(tasks)]):
            self._clock.ms += 5000
            person = _PEOPLE[number % 2]
            if number % 31 == 30:
                self._book.skip(task.id, person, source="console")
            else:
                self._book.submit(task.id, int(self._labels[int(task.request_id[4:])]), person, source="console")

    def train(self, case_id: int, epoch: int, epochs: int) -> None:
        """The worker is in the middle of training."""
        self.plan(case_id)
        self._clock.ms += 60_000
        self._book.transition(case_id, CaseState.TRAINING, "every task is answered", actor="worker", note="training")
        self._book.update_case(case_id, run_id=f"{case_id:02}c1f0a9d3b24e58867a5c4d1e0f9b{case_id:02}")
        progress = {"stage": "consistency", "done": 11, "total": 24, "epoch": epoch, "epochs": epochs}
        measured = {"supervised_loss": 0.61 - 0.05 * epoch, "ssl_loss": 1.9 - 0.12 * epoch, "total_unsmoothness": 118.2}
        self._book.update_progress(case_id, {**progress, **measured, "selected_unlabelled": 412, "seconds": 8.4})

    def judge(self, case_id: int, *, better: bool, candidate: str | None) -> None:
        """The acceptance test, and the state that follows from it."""
        self.train(case_id, epoch=10, epochs=10)
        keys = [(request_id, row, label) for request_id, row, label in self._book.labels(case_id, "acceptance")]
        truth = np.array([label for _, _, label in keys], dtype=np.int64)
        verdict = judge(
            field := self._answers(truth, 0.78, 0.91 if better else 0.79),
            self._answers(np.tile(np.arange(10), 300), 0.965, 0.968, broken=0.0005),
            self._names,
        )
        answers = {
            "keys": [[request_id, row] for request_id, row, _ in keys],
            "labels": field.labels.tolist(),
            "champion": field.champion.tolist(),
            "candidate": field.candidate.tolist(),
        }
        self._book.update_case(
            case_id, acceptance={**verdict.to_json(), "answers": answers}, candidate_version=candidate
        )
        self._clock.ms += 4 * 60_000
        model = self._book.case(case_id).model_name
        if better:
            note = f"waiting for approval: move alias champion of {model} to version {candidate}"
            reason = f"version {candidate} is better in the field and no worse on the reference"
            self._book.transition(case_id, CaseState.ACCEPTED, reason, actor="worker", note=note)
        else:
            reason = "no repair found: " + "; ".join(verdict.reasons)
            self._book.transition(case_id, CaseState.REJECTED, reason, actor="worker")

    def promote(self, case_id: int, person: str) -> None:
        """A person approves, and the alias is moved."""
        self._clock.ms += HOUR_MS
        self._book.approve(case_id, person, "approver", "the night shift's mistakes are gone")
        self._book.answer_approval(case_id)
        case = self._book.case(case_id)
        reason = f"version {case.candidate_version} takes the traffic of {case.model_name}"
        self._book.transition(case_id, CaseState.PROMOTED, reason, actor=person)

    def canary(self, case_id: int) -> None:
        """Its candidate has been a canary that passed."""
        case = self._book.case(case_id)
        trial = self._book.begin_trial(
            TrialKind.CANARY, case.model_name, case.model_version, case.candidate_version or ""
        )
        self._clock.ms += 10 * 60_000
        report = CanaryReport(
            percent=10,
            seconds=600,
            canary=SideReport(requests=412, failures=0, mean_ms=4.1, accuracy=0.931),
            champion=SideReport(requests=3708, failures=1, mean_ms=4.0, accuracy=0.786),
        )
        found = "412 requests, 0 failed; estimated accuracy 93.1%"
        self._book.end_trial(trial.id, TrialState.PASSED, found, report.model_dump())

    def shadow(self, case_id: int) -> None:
        """Its candidate answers a copy of the traffic."""
        case = self._book.case(case_id)
        trial = self._book.begin_trial(
            TrialKind.SHADOW, case.model_name, case.model_version, case.candidate_version or ""
        )
        differing = [
            Disagreement(
                request_id=f"req-{at:05}",
                row=0,
                champion=1 if self._labels[at] != 1 else 7,
                candidate=int(self._labels[at]),
                champion_confidence=float(self._random.uniform(0.4, 0.8)),
                candidate_confidence=float(self._random.uniform(0.7, 0.99)),
            )
            for at in range(1200, 1212)
        ]
        report = ShadowReport(
            seen=9120,
            agreed=4630,
            disagreed=755,
            dropped={"not_sampled": 3711, "queue_full": 24},
            champion_timing=Timing(count=1000, mean_ms=4.2, p50_ms=3.9, p95_ms=7.4),
            candidate_timing=Timing(count=1000, mean_ms=4.6, p50_ms=4.2, p95_ms=9.1),
            champion_accuracy=Estimate(value=0.79, low=0.755, high=0.824, trusted=True, inputs=500),
            candidate_accuracy=Estimate(value=0.928, low=0.9, high=0.951, trusted=True, inputs=500),
            disagreements=differing,
            class_names=self._names,
            input_spec=SPEC.model_dump(mode="json"),
        )
        self._book.report_trial(trial.id, report.model_dump())

    def dismiss(self, case_id: int, person: str, reason: str) -> None:
        """A person ends a case."""
        self._clock.ms += HOUR_MS
        self._book.transition(case_id, CaseState.DISMISSED, reason, actor=person)
        self._book.audit(person, "approver", "dismiss", f"case {case_id}", {"reason": reason})

    def _event(self, shift: Shift, window: WindowRecord) -> NewDriftEvent:
        return NewDriftEvent(
            model_name=shift.model,
            model_version=shift.version,
            detector="mmd",
            statistic=window.statistic,
            p_value=window.p_value,
            threshold=window.threshold,
            window_index=window.index,
            cursor_start={"example": (max(0, window.index - 2), 0)},
            field_inputs_until_alert=3 * _WINDOW,
            estimated_accuracy=window.estimated_accuracy,
            reference_accuracy=0.968,
            summary="3 of the last 3 windows differ from the reference; estimated accuracy fell by 18 points",
            class_names=self._names,
            input_spec=SPEC.model_dump(mode="json"),
        )

    def _explain(self, case_id: int, event_id: int) -> None:
        reference = self._known[:900].reshape(900, -1)
        far = self._field_x[900:1100]
        distances, nearest = NearestNeighbors(n_neighbors=1).fit(reference).kneighbors(far.reshape(len(far), -1))
        worst = np.argsort(-distances[:, 0])[:8]
        self._book.attach(
            case_id, "unlike.png", "image/png", pairs_png(far[worst], self._known[nearest[worst, 0]]), event_id
        )
        field_share = [0.061, 0.182, 0.071, 0.118, 0.069, 0.083, 0.052, 0.171, 0.124, 0.069]
        moved = [(name, 0.1, share) for name, share in zip(self._names, field_share, strict=True)]
        moved.sort(key=lambda each: -abs(each[2] - each[1]))
        explanation = {
            "summary": "71 % of 600 field inputs lie outside the reference. Answers '1' and '7' became more frequent.",
            "classes": [
                {
                    "name": n,
                    "reference_share": r,
                    "field_share": f,
                    "change": f - r,
                    "p_value": math.exp(-90 * abs(f - r)),
                }
                for n, r, f in moved[:5]
            ],
            "regions": [
                {"name": f"like '{self._names[i]}'", "reference_share": 0.1, "field_share": 0.1 + d, "change": d}
                for i, d in ((1, 0.09), (7, 0.06), (0, -0.04))
            ],
            "unlike": [
                {
                    "request_id": f"req-{900 + at:05}",
                    "row": 0,
                    "distance": float(distances[at, 0]),
                    "predicted_class": self._names[int(self._random.integers(10))],
                    "neighbour_index": int(nearest[at, 0]),
                }
                for at in worst.tolist()
            ],
        }
        self._book.explain_event(event_id, explanation)

    def _map(self, case_id: int, chosen: Ints) -> list[int]:
        """Attach the map of these field inputs; gives the exemplars' numbers."""
        flat = self._field_x[chosen].reshape(len(chosen), -1)
        places = PCA(n_components=2, random_state=0).fit_transform(flat)
        places = (places - places.min(axis=0)) / np.ptp(places, axis=0)
        unsmooth = np.clip(0.5 - 0.45 * places[:, 0] + self._random.normal(0, 0.09, len(flat)), 0.01, 0.98)
        _, neighbours = NearestNeighbors(n_neighbors=14).fit(flat).kneighbors(flat)
        regions, exemplars = np.full(len(flat), -1, dtype=np.int64), list[int]()
        for at in np.argsort(-unsmooth[neighbours].sum(axis=1)).tolist():
            if len(exemplars) < REPAIR and regions[at] < 0:
                free = [int(other) for other in neighbours[at] if regions[other] < 0]
                regions[free] = len(exemplars)
                exemplars.append(at)
        marked = set(exemplars)
        points = [
            [round(float(x), 4), round(float(y), 4), round(float(unsmooth[at]), 4), int(regions[at]), int(at in marked)]
            for at, (x, y) in enumerate(places)
        ]
        content = json.dumps({"method": "pca", "of": len(points), "tau": 0.31, "points": points})
        self._book.attach(case_id, "map.json", "application/json", content.encode())
        return [int(chosen[at]) for at in exemplars]

    def _answers(self, truth: Ints, before: float, after: float, broken: float = 0.01) -> Predictions:
        """Answers of two models of about these accuracies; mistakes are mostly 1 and 7, and mostly shared."""
        luck = self._random.random(len(truth))
        wrong = np.where(self._random.random(len(truth)) < 0.5, 1, 7)
        wrong = np.where(wrong == truth, (truth + 3) % 10, wrong)
        champion = np.where(luck < before, truth, wrong)
        noise = self._random.random(len(truth)) < broken
        candidate = np.where(luck < after, truth, wrong)
        return Predictions(
            champion, np.where(noise, (truth + 1) % 10, candidate).astype(np.int64), truth.astype(np.int64)
        )
