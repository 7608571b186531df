"""The essential story on each kind of store: a tracking server on SQLite with local artifacts and on PostgreSQL with
artifacts on S3 (moto's server, a stand-in for Amazon's), case book and field log likewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import boto3
import mlflow
import psycopg
import pytest
from mlflow import MlflowClient

from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_plugin.lineage import case_lineage
from fieldrepair_plugin.processes import free_port
from fieldrepair_plugin.promotion import settle_promotion
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_service.case_book import CaseState, open_case_book
from fieldrepair_service.field_log import FieldLog
from tests.plugin.conftest import Field, log_versions, running_mlflow
from tests.plugin.test_worker import planned_case, work
from tests.servers import postgresql_programs, running_postgresql, running_s3, s3_environment

NAME = "on-each-store"


@dataclass(frozen=True)
class Stores:
    """Where everything is kept."""

    mlflow_url: str
    artifacts: str
    """How the URI of an artifact begins."""
    case_book: str
    field_log: str


@pytest.fixture(params=["SQLite and folders", "PostgreSQL and S3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    with ExitStack() as running:
        if request.param == "SQLite and folders":
            book, log, artifacts = f"sqlite:///{tmp_path}/book.db", str(tmp_path / "field_log"), "mlflow-artifacts:"
            url = cast(str, request.getfixturevalue("mlflow_server"))
        else:
            programs = postgresql_programs()
            if programs is None:
                pytest.skip("needs PostgreSQL's server programs (initdb, pg_ctl); install the package postgresql")
            database = running.enter_context(running_postgresql(programs))
            with psycopg.connect(database, autocommit=True) as admin:
                admin.execute("CREATE DATABASE mlflow")
                admin.execute("CREATE DATABASE book")
            for name, value in s3_environment(running.enter_context(running_s3())).items():
                monkeypatch.setenv(name, value)
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="store")
            of_mlflow = database.replace("postgresql://", "postgresql+psycopg://").replace("/postgres", "/mlflow")
            book, log, artifacts = database.replace("/postgres", "/book"), "s3://store/log", "s3://store/mlflow"
            server = running_mlflow(tmp_path, free_port(), database=of_mlflow, artifacts=artifacts)
            url = running.enter_context(server)
        before = str(mlflow.get_tracking_uri())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        mlflow.set_tracking_uri(url)
        try:
            yield Stores(url, artifacts, book, log)
        finally:
            mlflow.set_tracking_uri(before)


@pytest.mark.timeout(300)
def test_from_a_logged_model_to_a_promoted_repair(stores: Stores, tmp_path: Path) -> None:
    client = MlflowClient()
    mlflow.set_experiment(NAME)
    log_versions(NAME, 1)
    client.set_registered_model_alias(NAME, "champion", "1")
    settings = WorkerSettings(
        state_dir=tmp_path / "state", case_book=stores.case_book, field_log=stores.field_log,
        pool_minimum=120, acceptance_size=40, acceptance_minimum=10, label_fraction=0.15, epochs=2, margin=0.1,
        case_poll_seconds=0.05, lease_seconds=10, repair_threads=1,
    )  # fmt: skip
    settings.state_dir.mkdir()
    with open_case_book(settings.case_book_url) as book:
        field = Field(settings.state_dir, FieldLog.open(settings.field_log_uri), book, NAME)
        case_id = planned_case(field, settings)
        field.answer(case_id)
        case = work(field, settings, case_id)
        assert case.state is CaseState.ACCEPTED, case.reason

        # What was stored can be read again, by everybody who needs it.
        candidate = client.get_model_version_by_alias(NAME, "candidate")
        assert str(candidate.version) == "2"
        assert "## Better and worse" in (candidate.description or "")
        assert str(client.get_run(case.run_id or "").info.artifact_uri).startswith(stores.artifacts)
        assert load_handover(NAME, "2").reference.worlds == (0, 1)
        assert load_module(NAME, "2").training is False
        (lineage,) = case_lineage(book, case_id, look_into_log=True).versions
        assert [(link.version, link.rows_left) for link in lineage.links] == [("2", 150), ("1", None)]

        # Approved in MLflow.
        client.set_registered_model_alias(NAME, "champion", "2")
        assert settle_promotion(book, NAME, "2", "1")
        assert book.case(case_id).state is CaseState.PROMOTED
        assert "candidate" not in client.get_registered_model(NAME).aliases
