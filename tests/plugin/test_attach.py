"""``fieldrepair attach``: a hand-over for a version that was logged without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import pytorch as mlflow_pytorch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from pydantic_settings import CliApp
from torch import nn

from fieldrepair_monitoring.errors import HandOverMismatchError, ReferenceSetError, UnsupportedModelError
from fieldrepair_monitoring.handover import load_handover
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import attach
from fieldrepair_plugin.attachment import run_attach
from fieldrepair_plugin.commands import AttachCommand
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_service.inputs import ImageInput, InputSpec, TabularInput, TextInput

Arrays = dict[str, npt.NDArray[Any]]

pytestmark = pytest.mark.usefixtures("registry")


@pytest.fixture
def arrays() -> Arrays:
    """Four-number rows of one bright pixel out of four, as 2 x 2 images; and which pixel it is."""
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 4
    images = (generator.uniform(0, 0.4, (160, 4)) + 0.5 * np.eye(4)[labels]).reshape(-1, 1, 2, 2).astype(np.float32)
    return {"train_x": images[:80], "train_y": labels[:80], "val_x": images[80:], "val_y": labels[80:]}


@pytest.fixture
def reference(arrays: Arrays, tmp_path: Path) -> Path:
    path = tmp_path / "reference.npz"
    np.savez(path, **arrays)
    return path


def network() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.eye(4) * 4 if parameter.ndim == 2 else torch.zeros(4))
    return module


@pytest.fixture
def bare() -> Callable[[str], str]:
    """Register a version without a hand-over; its number."""

    def register(name: str) -> str:
        with mlflow.start_run():
            info: Any = mlflow_pytorch.log_model(
                network(),
                name="m",
                registered_model_name=name,
                serialization_format="pickle",
                pip_requirements=["torch"],
            )
        return str(info.registered_model_version)

    return register


def test_a_bare_version_gets_its_hand_over(
    bare: Callable[[str], str], reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = bare("pixels")
    run_attach(f"models:/pixels/{version}", reference)
    handover = load_handover("pixels", version)
    assert handover.class_names == ("0", "1", "2", "3")
    assert handover.embedding_layer == "2"
    assert handover.reference_accuracy == 1.0
    said = capsys.readouterr().out
    assert "note: guessed from the reference set: instances are CHW of 2 x 2 pixels" in said
    assert f"models:/pixels/{version} can now be watched and repaired" in said
    assert "accuracy           100.0% on the validation inputs" in said


def test_it_goes_to_the_run_that_logged_the_version(bare: Callable[[str], str], reference: Path) -> None:
    version = bare("pixels-run")
    attached = attach(f"models:/pixels-run/{version}", reference)
    assert attached.run_id == mlflow.MlflowClient().get_model_version("pixels-run", version).run_id
    assert attached.handover_uri.startswith(f"runs:/{attached.run_id}/fieldrepair/")


def test_options_and_the_file_s_class_names(bare: Callable[[str], str], arrays: Arrays, tmp_path: Path) -> None:
    version = bare("pixels-named")
    names = np.array(["a", "b", "c", "d"])
    np.savez(tmp_path / "named.npz", **arrays, class_names=names)
    uri = f"models:/pixels-named/{version}"
    assert attach(uri, tmp_path / "named.npz").handover.class_names == ("a", "b", "c", "d")
    spec = ImageInput(height=2, width=2, mean=(0.1,), std=(0.5,))
    again = attach(uri, tmp_path / "named.npz", class_names=["w", "x", "y", "z"], input=spec, embedding_layer="1")
    stored = load_handover("pixels-named", version)
    assert (stored.class_names, stored.input, stored.embedding_layer) == (("w", "x", "y", "z"), spec, "1")
    assert again.notes == ()


def test_an_alias_is_looked_up(bare: Callable[[str], str], reference: Path) -> None:
    version = bare("pixels-alias")
    mlflow.MlflowClient().set_registered_model_alias("pixels-alias", "champion", version)
    assert attach("models:/pixels-alias@champion", reference).version == version


@pytest.fixture
def without_run(tmp_path: Path) -> str:
    """A version registered from a folder; it never had a run."""
    mlflow_pytorch.save_model(network(), tmp_path / "model", serialization_format="pickle", pip_requirements=["torch"])
    return str(mlflow.register_model((tmp_path / "model").as_uri(), "pixels-from-folder").version)


@pytest.mark.parametrize("gone", ["never had one", "deleted"])
def test_a_version_without_a_run_gets_one_for_the_purpose(
    gone: str, bare: Callable[[str], str], without_run: str, reference: Path
) -> None:
    client = mlflow.MlflowClient()
    name, version = "pixels-from-folder", without_run
    if gone == "deleted":
        name, version = "pixels-deleted", bare("pixels-deleted")
        client.delete_run(str(client.get_model_version(name, version).run_id))
    attached = attach(f"models:/{name}/{version}", reference)
    run = client.get_run(attached.run_id)
    assert attached.run_id != client.get_model_version(name, version).run_id
    assert client.get_experiment(run.info.experiment_id).name == "fieldrepair"
    assert run.info.status == "FINISHED"
    assert load_handover(name, version).reference_accuracy == 1.0


def test_the_caller_s_experiment_stays_the_current_one(without_run: str, reference: Path) -> None:
    client = mlflow.MlflowClient()
    mlflow.set_experiment("somebody-s")
    try:
        attach(f"models:/pixels-from-folder/{without_run}", reference)
        with mlflow.start_run() as run:
            assert client.get_experiment(run.info.experiment_id).name == "somebody-s"
    finally:
        mlflow.set_experiment("quadrants")


@pytest.mark.parametrize(
    "uri", ["pixels/1", "models:/pixels", "models:/pixels/latest", "runs:/abc/model", "models:/a/b/1"]
)
def test_uris_of_another_form(uri: str, reference: Path) -> None:
    with pytest.raises(ModelUriError, match="expected models:/NAME@ALIAS"):
        attach(uri, reference)


def test_versions_that_are_not_there(reference: Path) -> None:
    with pytest.raises(ModelUriError, match="models:/pixels-nobody/1"):
        attach("models:/pixels-nobody/1", reference)


def test_a_pt2_version_is_told_how_to_log_it(arrays: Arrays, reference: Path) -> None:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with mlflow.start_run():
        mlflow_pytorch.log_model(
            network(),
            name="m",
            registered_model_name="pixels-pt2",
            serialization_format="pt2",
            input_example=arrays["val_x"][:2],
            signature=ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 1, 2, 2))])),
            pip_requirements=["torch"],
        )
    with pytest.raises(UnsupportedModelError, match=r'"pt2".*serialization_format="pickle"'):
        attach("models:/pixels-pt2/1", reference)


def test_a_reference_that_does_not_fit_stores_nothing(
    bare: Callable[[str], str], arrays: Arrays, tmp_path: Path
) -> None:
    version = bare("pixels-misfit")
    uri = f"models:/pixels-misfit/{version}"
    np.savez(tmp_path / "shape.npz", **{**arrays, "train_x": np.zeros((80, 1, 4, 4)), "val_x": np.zeros((80, 1, 4, 4))})
    with pytest.raises(HandOverMismatchError, match=r"fails on .* shape \(1, 4, 4\)"):
        attach(uri, tmp_path / "shape.npz")
    np.savez(tmp_path / "labels.npz", train_x=arrays["train_x"], val_x=arrays["val_x"])
    with pytest.raises(ReferenceSetError, match=r"lacks train_y, val_y .* needs labels"):
        attach(uri, tmp_path / "labels.npz")
    assert "fieldrepair.handover" not in mlflow.MlflowClient().get_model_version("pixels-misfit", version).tags


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--input.height", "2", "--input.width", "3"], ImageInput(height=2, width=3)),
        (["--input.kind", "tabular", "--input.features", "age,income"], TabularInput(features=("age", "income"))),
        (["--input.kind", "text", "--input.length", "12"], TextInput(length=12)),
        ([], None),
    ],
)
def test_the_command_line_describes_any_kind_of_input(options: list[str], expected: InputSpec | None) -> None:
    class Parsed(AttachCommand):
        def cli_cmd(self) -> None:
            assert self.input == expected

    CliApp.run(Parsed, cli_args=["models:/m/1", "--reference", "r.npz", *options])


def rows_reference(count: int = 120) -> Reference:
    generator = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 4
    rows = (generator.uniform(0, 0.4, (count, 4)) + 0.5 * np.eye(4)[labels]).astype(np.float32)
    return Reference(rows[:60], labels[:60], rows[60:], labels[60:])


def test_columns_of_the_signature_are_the_features_of_a_table_row(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    for name, signature in (
        ("frames", ModelSignature(Schema([ColSpec("double", column) for column in names]))),
        ("tensors", ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 4))]))),
    ):
        with mlflow.start_run():
            mlflow_pytorch.log_model(
                network(), name="m", registered_model_name=name, serialization_format="pickle",
                pip_requirements=["torch"], signature=signature,
            )  # fmt: skip
    attached = attach("models:/frames/1", rows_reference())
    assert attached.handover.input == TabularInput(features=("a", "b", "c", "d"), by_name=True)
    assert "table rows of 4 features (a, b, c, d)" in attached.notes[0]
    with pytest.raises(HandOverMismatchError, match="the same names are needed, in the same order"):
        attach("models:/frames/1", rows_reference(), input=TabularInput(features=("d", "c", "b", "a")))
    with pytest.raises(HandOverMismatchError, match="MLflow hands data frames over as float32"):
        attach("models:/frames/1", rows_reference(), input=TabularInput(features=("a", "b", "c", "d"), dtype="float64"))

    with pytest.raises(HandOverMismatchError, match="columns have no names"):
        attach("models:/tensors/1", rows_reference())
    reference = rows_reference()
    path = tmp_path / "rows.npz"
    np.savez(
        path, train_x=reference.train_x, train_y=reference.train_y, val_x=reference.val_x, val_y=reference.val_y,
        feature_names=np.array(names),
    )  # fmt: skip
    assert attach("models:/tensors/1", path).handover.input == TabularInput(features=("a", "b", "c", "d"))
