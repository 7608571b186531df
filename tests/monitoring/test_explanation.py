"""What an explanation says about a shift that is known: which answers, which regions, which inputs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image
from torch import nn

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.explanation import UNLIKE_PICTURE, Explanation, column_names, explain, known_inputs
from fieldrepair_monitoring.handover import HandOver
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.reference_map import ReferenceMap
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_monitoring.windows import FieldWindow
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput

if TYPE_CHECKING:
    from tests.monitoring.conftest import Digits, Images


def window(inputs: Images) -> FieldWindow:
    keys = tuple((f"request-{i}", 0) for i in range(len(inputs)))
    return FieldWindow(inputs, {}, {"w": (len(inputs), 0)}, keys, np.arange(len(inputs), dtype=np.int64))


@pytest.fixture(scope="module")
def handover(digits: Digits) -> HandOver:
    return HandOver(
        input=ImageInput(height=8, width=8),
        class_names=tuple("0123456789"),
        embedding_layer="8",
        output="logits",
        reference=digits.reference,
        accuracy_by_world={0: 0.95},
    )


@pytest.fixture(scope="module")
def model(network: nn.Module, handover: HandOver) -> ServedModel:
    return ServedModel(network, handover)


def items(explanation: Explanation, name: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", explanation.content[name])


def test_a_field_of_mostly_threes_says_so(digits: Digits, model: ServedModel, handover: HandOver) -> None:
    threes = digits.field_x[digits.field_y == 3][:60]
    others = digits.field_x[digits.field_y != 3][:40]
    explanation = explain(model, handover, window(np.concatenate([threes, others])))
    first = items(explanation, "classes")[0]
    assert first["name"] == "3"
    assert first["p_value"] < 1e-6
    assert first["field_share"] > 0.5
    assert first["reference_share"] < 0.2
    assert first["change"] == pytest.approx(first["field_share"] - first["reference_share"])
    regions = items(explanation, "regions")
    grown = max(regions, key=lambda region: region["change"])
    assert grown["name"].endswith(" 3)")
    assert grown["p_value"] < 0.01
    assert cast("dict[str, float]", explanation.content["outside"])["share"] < 0.1, "the inputs are ordinary ones"
    assert "3 5" in str(explanation.content["summary"]) or "3 6" in str(explanation.content["summary"])


def test_ordinary_field_inputs_move_nothing(digits: Digits, model: ServedModel, handover: HandOver) -> None:
    explanation = explain(model, handover, window(digits.field_x[:300]))
    assert explanation.content["classes_moved"] == 0
    assert all(region["p_value"] > 0.05 for region in items(explanation, "regions"))
    assert "as on the reference" in str(explanation.content["summary"])


def test_the_inputs_most_unlike_the_reference_are_those_that_are_no_digits(
    digits: Digits, model: ServedModel, handover: HandOver
) -> None:
    noise = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32) * 8
    explanation = explain(model, handover, window(np.concatenate([digits.field_x[:97], noise])))
    unlike = items(explanation, "unlike")
    assert {each["request_id"] for each in unlike[:3]} == {"request-97", "request-98", "request-99"}
    distances = [each["distance"] for each in unlike]
    assert distances == sorted(distances, reverse=True)
    assert len(unlike) == 8
    nearest = unlike[0]["neighbours"][0]
    assert nearest["part"] == "val"
    assert unlike[0]["neighbour_index"] == nearest["index"]
    assert nearest["label"] == str(digits.val_y[nearest["index"]])


def test_the_neighbours_are_the_nearest_ones(digits: Digits, model: ServedModel, handover: HandOver) -> None:
    unlike = items(explain(model, handover, window(digits.field_x[:50])), "unlike")
    known = model.embeddings(digits.val_x)
    for each in unlike:
        number = int(each["request_id"].split("-")[1])
        field = model.embeddings(digits.field_x[number : number + 1])
        by_hand = np.linalg.norm(known.astype(np.float64) - field, axis=1)
        assert each["neighbour_index"] == int(by_hand.argmin())
        assert each["distance"] == pytest.approx(float(by_hand.min()), rel=1e-4)


def test_one_input_sent_again_and_again_is_shown_once(digits: Digits, model: ServedModel, handover: HandOver) -> None:
    turned = np.ascontiguousarray(np.rot90(digits.field_x[:1], axes=(2, 3)))
    repeated = np.concatenate([np.repeat(turned, 30, axis=0), digits.field_x[:20]])
    unlike = items(explain(model, handover, window(repeated)), "unlike")
    assert sum(int(each["request_id"].split("-")[1]) < 30 for each in unlike) == 1


def test_the_picture_has_the_inputs_beside_their_neighbours(
    digits: Digits, model: ServedModel, handover: HandOver
) -> None:
    explanation = explain(model, handover, window(digits.field_x[:100]))
    sheet = Image.open(io.BytesIO(explanation.pictures[UNLIKE_PICTURE]))
    number = int(items(explanation, "unlike")[0]["request_id"].split("-")[1])
    index = items(explanation, "unlike")[0]["neighbour_index"]
    pixels = np.asarray(sheet.convert("L"))
    for column, shown in ((0, digits.field_x[number]), (1, digits.val_x[index])):
        left = 10 + column * 114
        expected = np.rint(shown[0] * 255).astype(np.uint8).repeat(13, axis=0).repeat(13, axis=1)
        assert (pixels[24 : 24 + 104, left : left + 104] == expected).all()


def test_the_same_inputs_get_the_same_explanation(digits: Digits, model: ServedModel, handover: HandOver) -> None:
    assert explain(model, handover, window(digits.field_x[:60])) == explain(
        model, handover, window(digits.field_x[:60])
    )


def test_a_repaired_version_is_compared_with_the_world_the_field_resembles(
    digits: Digits, network: nn.Module, handover: HandOver
) -> None:
    turned = np.ascontiguousarray(np.rot90(digits.field_x, axes=(2, 3)))
    reference = Reference(
        digits.train_x,
        digits.train_y,
        digits.val_x,
        digits.val_y,
        normal_x=turned[:300],
        normal_world=np.ones(300, dtype=np.int64),
    )
    known = HandOver(handover.input, handover.class_names, "8", "logits", reference, {0: 0.95})
    explanation = explain(ServedModel(network, known), known, window(turned[300:500]))
    assert explanation.content["world"] == 1
    assert explanation.content["reference_inputs"] == 300
    assert explanation.content["classes_moved"] == 0
    assert items(explanation, "unlike")[0]["neighbours"][0]["label"] is None


def test_training_inputs_help_out_only_where_few_are_held_out(digits: Digits) -> None:
    enough = known_inputs(digits.reference, 0)
    assert set(enough.parts) == {"val"}
    few = known_inputs(Reference(digits.train_x, digits.train_y, digits.val_x[:60], digits.val_y[:60]), 0)
    assert set(few.parts) == {"val", "train"}
    at = few.parts.index("train")
    assert (few.x[at] == digits.train_x[few.indices[at]]).all()
    assert few.labels[at] == digits.train_y[few.indices[at]]


def test_inputs_on_which_the_model_says_nothing_are_left_out(
    digits: Digits, model: ServedModel, handover: HandOver
) -> None:
    broken = digits.field_x[:10].copy()
    broken[:9] = np.finfo(np.float32).max
    assert explain(model, handover, window(broken)).content["field_inputs"] == 1
    with pytest.raises(DetectorError, match="NaN or infinity on all 9"):
        explain(model, handover, window(broken[:9]))


def test_regions_need_a_reference() -> None:
    with pytest.raises(DetectorError, match="at least 2 reference embeddings"):
        ReferenceMap(np.zeros((1, 3), np.float32), np.zeros(1, np.int64))


def test_only_rows_of_a_table_have_columns() -> None:
    table = TabularInput(features=("price", "demand"))
    assert column_names(table) == ("price", "demand")
    assert column_names(ImageInput(height=8, width=8)) is None
    assert column_names(TextInput(length=12)) is None


def test_rows_of_a_table_are_explained_column_by_column() -> None:
    """The market moved: prices are three times as high, and nothing else has changed."""
    import torch

    generator = np.random.default_rng(0)

    def rows(count: int, factor: float) -> Images:
        table = generator.normal(size=(count, 3)).astype(np.float32)
        table[:, 0] = np.abs(table[:, 0]) * factor
        return table

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    labels = generator.integers(0, 2, 400)
    reference = Reference(rows(400, 1), labels, rows(400, 1), labels)
    spec = cast(ImageInput, TabularInput(features=("price", "demand", "transfer")))
    handover = HandOver(spec, ("down", "up"), "2", "logits", reference, {0: 0.5})
    explanation = explain(ServedModel(network, handover), handover, window(rows(200, 3)))
    features = items(explanation, "features")
    assert features[0]["name"] == "price"
    assert [feature["p_value"] < 0.05 for feature in features] == [True, False, False]
    assert "regions" not in explanation.content
    assert "Columns that moved: 1, most of all price" in str(explanation.content["summary"])
    assert explanation.pictures == {}
