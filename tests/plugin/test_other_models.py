"""Tables and texts through the whole loop: MLflow's own scoring server answers, its exchanges are logged as the sidecar
logs them, the monitor raises the alert, the worker repairs, and the new version is served again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd  # type: ignore[reportMissingTypeStubs]
import pytest
import torch
from mlflow import MlflowClient, pyfunc
from mlflow import models as mlflow_models
from mlflow.pyfunc import scoring_server
from torch import nn
from torch.nn import functional as F

from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_plugin import log_model
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker
from fieldrepair_service.case_book import Case, CaseBook, CaseState, open_case_book
from fieldrepair_service.console.task_view import view_task
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.images import InputCache
from fieldrepair_service.inputs import InputSpec, TabularInput, TextInput
from fieldrepair_service.protocols.mlflow import MlflowScoring
from fieldrepair_service.rows import request_id, to_rows

Inputs = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.timeout(300),
]


@dataclass
class Loop:
    """Stores of a test, and a model server whose exchanges go into them."""

    folder: Path
    log: FieldLog
    book: CaseBook
    name: str
    truth: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    seq: int = 0
    servers: dict[str, Any] = field(default_factory=dict[str, Any])
    """MLflow's server of each version, once it is needed."""

    def ask(self, version: str, body: dict[str, Any], labels: Labels) -> Labels:
        """Send one request to MLflow's scoring server of a version and log the exchange; the classes it answered."""
        request = orjson.dumps(body)
        if version not in self.servers:
            self.servers[version] = scoring_server.init(cast(Any, pyfunc.load_model(f"models:/{self.name}/{version}")))
        answer = asyncio.run(_post(self.servers[version], request))
        assert answer.status_code == 200, answer.text
        self.seq += 1
        moment = 1_700_000_000_000 + self.seq
        exchange = Exchange(
            moment, None, self.name, version, "mlflow", 200, 1.0, 1.0,
            "application/json", "", request, "application/json", "", answer.content,
        )  # fmt: skip
        decoded = MlflowScoring().decode(exchange)
        rows, dropped = to_rows("sidecar", self.seq, exchange, decoded)
        assert not dropped
        self.log.append(rows, writer="sidecar", last_seq=self.seq)
        name = request_id(moment, "sidecar", self.seq)
        self.truth |= {(name, row): int(label) for row, label in enumerate(labels)}
        assert decoded.predictions.predicted_class is not None
        return decoded.predictions.predicted_class.astype(np.int64)

    def watch(self) -> None:
        """Judge every full window."""
        settings = MonitorSettings(
            model_name=self.name,
            window_size=60,
            state_dir=self.folder,
            drift_calibration_windows=1000,
            monitor_threads=1,
        )
        with_problems = Monitor(settings, self.log, self.book, MonitorMetrics()).round()
        assert with_problems == []

    def work(self, case_id: int, settings: WorkerSettings, *until: CaseState) -> Case:
        """Go round until the case is in one of these states, or nothing moves any more."""
        worker = Worker(settings, self.book, self.log, worker_id="test", stop=threading.Event())
        while worker.round() and self.book.case(case_id).state not in until:
            pass
        return self.book.case(case_id)

    def answer(self, case_id: int) -> None:
        """A labeller who knows the truth."""
        while (task := self.book.next_task(case_id, "labeller")) is not None:
            self.book.submit(task.id, self.truth[task.request_id, task.row], "labeller")


async def _post(server: Any, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://server") as client:
        return await client.post("/invocations", content=body, headers={"content-type": "application/json"})


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with open_case_book(f"sqlite:///{tmp_path}/case_book.db") as book:
        yield Loop(tmp_path, FieldLog.open(tmp_path / "field_log"), book, f"model-{tmp_path.name}")


def worker_settings(folder: Path, **changes: Any) -> WorkerSettings:
    small: dict[str, Any] = {
        "pool_minimum": 200, "acceptance_size": 60, "acceptance_minimum": 20, "label_fraction": 0.3, "epochs": 6,
        "margin": 0.15, "case_poll_seconds": 0.05, "repair_threads": 1,
    }  # fmt: skip
    return WorkerSettings(state_dir=folder, **(small | changes))


def trained(network: nn.Module, x: Inputs, y: Labels, steps: int, rate: float) -> nn.Module:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    inputs, classes = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(steps):
        optimiser.zero_grad()
        answer: Any = network(inputs)
        F.cross_entropy(getattr(answer, "logits", answer), classes).backward()
        optimiser.step()
    return network


def repaired(loop: Loop, settings: WorkerSettings, spec: InputSpec) -> str:
    """From the logged shift to the candidate, through monitor, labels and worker; the candidate's version."""
    loop.watch()
    cases = loop.book.cases()
    assert len(cases) == 1
    planned = loop.work(cases[0].id, settings)
    assert planned.planned_ms is not None, planned.note
    assert planned.input_spec == spec.model_dump(mode="json")
    loop.answer(planned.id)
    case = loop.work(planned.id, settings)
    assert case.state is CaseState.ACCEPTED, case.reason
    version = MlflowClient().get_model_version_by_alias(loop.name, "candidate")
    return str(version.version)


# -- tables ------------------------------------------------------------------------------------------------------

FEATURES = ("age", "income", "visits", "plan")
TABLE = TabularInput(features=FEATURES, units=("years", "", "", ""), categories={"plan": ("free", "paid", "team")})


def customers(count: int, seed: int) -> tuple[npt.NDArray[np.float32], Labels]:
    """Rows of three kinds of customers."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, 3, count)
    centres = np.array([[25, 20, 2], [40, 50, 9], [60, 35, 5]])
    numbers = centres[kinds] + generator.normal(0, [5, 6, 1.2], (count, 3))
    plan = np.where(generator.random(count) < 0.8, kinds, generator.integers(0, 3, count))
    return np.column_stack([numbers, plan]).astype(np.float32), kinds.astype(np.int64)


def moved(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same customers after the income was converted to another currency, and visits are counted twice."""
    return (rows * np.array([1, 0.45, 2, 1]) + np.array([0, 30, 0, 0])).astype(np.float32)


def as_frame(rows: Inputs, columns: tuple[str, ...]) -> dict[str, Any]:
    """A data frame whose columns stand in another order than the model's, and one that the model does not know."""
    table = np.column_stack([rows[:, [FEATURES.index(name) for name in columns]], np.arange(len(rows))])
    return {"dataframe_split": {"columns": [*columns, "row_number"], "data": table.tolist()}}


class Customers(nn.Module):
    """Standardised rows through two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor([40.0, 35.0, 5.0, 1.0]))
        self.register_buffer("spread", torch.tensor([15.0, 14.0, 3.0, 0.8]))
        self.hidden = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden((rows - self.get_buffer("centre")) / self.get_buffer("spread")))


def test_a_table_classifier_is_watched_and_repaired(loop: Loop) -> None:
    train_x, train_y = customers(600, 1)
    val_x, val_y = customers(400, 2)
    info = log_model(
        trained(Customers(), train_x, train_y, 150, 0.01),
        reference=Reference(train_x, train_y, val_x, val_y),
        class_names=["new", "regular", "loyal"],
        input=TABLE,
        registered_model_name=loop.name,
        pip_requirements=["torch"],
    )
    spec = info.handover.input
    assert isinstance(spec, TabularInput)
    assert spec.by_name
    assert info.handover.reference_accuracy > 0.9

    # Clients may send columns in any order; the log keeps their names, and everybody reads them right.
    calm_x, calm_y = customers(180, 3)
    mixed = ("plan", "visits", "age", "income")
    answers = loop.ask("1", as_frame(calm_x, mixed), calm_y)
    assert (answers == calm_y).mean() > 0.9
    loop.watch()
    assert loop.book.cases() == []
    windows = loop.book.windows(loop.name, "1", limit=10)
    assert len(windows) == 3
    assert {"mmd", "uncertainty", "tabular"} <= set(cast(Any, windows[0].scores))

    shifted_x, shifted_y = customers(300, 4)
    for start in range(0, 300, 60):
        some = slice(start, start + 60)
        records = [dict(zip(FEATURES, row.tolist(), strict=True)) for row in moved(shifted_x[some])]
        loop.ask("1", {"dataframe_records": [dict(reversed(one.items())) for one in records]}, shifted_y[some])
    settings = worker_settings(loop.folder)
    version = repaired(loop, settings, spec)

    # What a labeller sees of a row, and of each class.
    case = loop.book.cases()[0]
    task = loop.book.tasks(case.id)[0]
    seen = view_task(cast(Any, _Stores(loop)), case, task)
    assert [name for name, _, _ in seen.rows] == list(FEATURES)
    assert seen.rows[0][2] == "years"
    assert seen.rows[3][1] in ("free", "paid", "team")
    examples = loop.book.attachment(case.id, "examples.json")
    assert examples is not None
    assert "years" in orjson.loads(examples.content)["words"]["0"][0]

    # The evaluator asks both versions by the names of the columns, too.
    holdout_x, holdout_y = customers(200, 5)
    frame = cast(Any, pd.DataFrame)(moved(holdout_x), columns=list(FEATURES))[list(mixed)]
    judged = cast(Any, mlflow_models).evaluate(
        model=f"models:/{loop.name}/{version}",
        data=frame.assign(kind=holdout_y),
        targets="kind",
        model_type="classifier",
        evaluators="fieldrepair",
        evaluator_config={"champion": f"models:/{loop.name}/1"},
    )
    before = loop.ask("1", as_frame(moved(holdout_x), mixed), holdout_y)
    after = loop.ask(version, as_frame(moved(holdout_x), mixed), holdout_y)
    assert (after == holdout_y).mean() > (before == holdout_y).mean() + 0.1
    assert judged.metrics["field_accuracy_before"] == (before == holdout_y).mean()
    assert judged.metrics["field_accuracy_after"] == (after == holdout_y).mean()
    assert load_handover(loop.name, version).input == spec
    files = {Path(item.path).name for item in MlflowClient().list_artifacts(case.run_id or "", "repair")}
    assert {"repaired.csv", "broken.csv"} <= files


# -- texts -------------------------------------------------------------------------------------------------------

WORDS = tuple(f"word{number}" for number in range(60))
TEXT = TextInput(length=12, vocabulary=("", *WORDS))


def tickets(count: int, seed: int, *, jargon: int = 0) -> tuple[npt.NDArray[np.int64], Labels]:
    """Token sequences about one of three topics, padded; ``jargon`` = 30 is the same in words the model never saw."""
    generator = np.random.default_rng(seed)
    topics = generator.integers(0, 3, count)
    tokens = np.zeros((count, 12), dtype=np.int64)
    for row, topic in enumerate(topics.tolist()):
        length = int(generator.integers(5, 13))
        on_topic = generator.random(length) < 0.7
        words = np.where(on_topic, generator.integers(0, 5, length) + 5 * topic, generator.integers(15, 30, length))
        known = generator.random(length) < 0.25
        tokens[row, :length] = 1 + np.where(known, words, words + jargon)
    return tokens, topics.astype(np.int64)


@dataclass(frozen=True)
class _Stores:
    """What the labelling page reads from."""

    loop: Loop

    @property
    def book(self) -> CaseBook:
        return self.loop.book

    @property
    def inputs(self) -> InputCache:
        return InputCache(self.loop.log)


def huggingface_reader() -> nn.Module:
    """A small BERT for sequence classification, made from a configuration: nothing is downloaded."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def test_a_huggingface_text_classifier_is_watched_and_repaired(loop: Loop) -> None:
    train_x, train_y = tickets(500, 1)
    val_x, val_y = tickets(300, 2)
    info = log_model(
        trained(huggingface_reader(), train_x, train_y, 40, 0.005),
        reference=Reference(train_x, train_y, val_x, val_y),
        class_names=["billing", "delivery", "returns"],
        input=TEXT,
        registered_model_name=loop.name,
        pip_requirements=["torch", "transformers"],
    )
    assert info.handover.embedding_layer == "model.classifier"
    assert info.handover.reference_accuracy > 0.85

    # Padding is told apart from words: the same text with more room gets the same answer.
    module = load_module(loop.name, "1")
    assert type(module).__name__ == "LogitsOnly"
    short = torch.from_numpy(val_x[:4, :].copy())
    short[:, 6:] = 0
    assert torch.allclose(module(short), module(short[:, :6]), atol=1e-4)

    shifted_x, shifted_y = tickets(420, 4, jargon=30)
    for start in range(0, 420, 30):
        some = slice(start, start + 30)
        loop.ask("1", {"inputs": shifted_x[some].tolist()}, shifted_y[some])
    version = repaired(loop, worker_settings(loop.folder, recipe="default", keep_reference="off", epochs=8), TEXT)
    case = loop.book.cases()[0]
    seen = view_task(cast(Any, _Stores(loop)), case, loop.book.tasks(case.id)[0])
    assert seen.text.startswith("word")
    holdout_x, holdout_y = tickets(200, 5, jargon=30)
    before = loop.ask("1", {"inputs": holdout_x.tolist()}, holdout_y)
    after = loop.ask(version, {"inputs": holdout_x.tolist()}, holdout_y)
    assert (after == holdout_y).mean() > (before == holdout_y).mean()
