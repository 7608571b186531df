"""Training: exact to the bit, also after an interruption; at home with many kinds of module; plain about misuse."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.hybrid import EpochRecord, HybridSettings, RepairableModel, RepairResult, TrainingSet, train
from fieldrepair_plugin.mixmatch import mix_up, sharpen
from fieldrepair_plugin.progress import ProgressEvent, silent
from fieldrepair_plugin.training import selection_weights
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput

Array = npt.NDArray[Any]

SETTINGS = HybridSettings(epochs=3, copies=2, batch_size=16, unlabelled_batch_size=8, learning_rate=0.05, seed=3)
SPEC = ImageInput(height=8, width=8, mean=(0.4,), std=(0.3,))


class Network(nn.Module):
    """A small convolutional network: with or without batch norm and dropout, flattening by ``view`` or ``reshape``."""

    def __init__(self, *, norm: bool = True, dropout: float = 0.0, view: bool = False, softmax: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(54, 3)
        self.view = view
        self.softmax = softmax

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(images)))
        flat = hidden.view(len(images), -1) if self.view else hidden.reshape(len(images), -1)
        logits: Tensor = self.head(self.dropout(flat))
        return logits.softmax(dim=1) if self.softmax else logits


class FromLayout(nn.Module):
    """Takes images in another layout than the network does."""

    def __init__(self, to_chw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.to_chw = to_chw
        self.network = Network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.to_chw(images))
        return logits


def hwc_to_chw(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def flat_to_chw(images: Tensor) -> Tensor:
    return images.reshape(-1, 1, 8, 8)


def bytes_to_chw(images: Tensor) -> Tensor:
    assert images.dtype == torch.uint8
    return images.float() / 255.0


def network(
    seed: int = 0, *, norm: bool = True, dropout: float = 0.0, view: bool = False, softmax: bool = False
) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(norm=norm, dropout=dropout, view=view, softmax=softmax).eval()


def images(count: int, seed: int, spec: ImageInput = SPEC) -> tuple[Array, Array]:
    """Noisy stripes of three kinds, in served form, and their kinds."""
    random = np.random.default_rng(seed)
    kinds = random.integers(3, size=count)
    pixels = random.uniform(0, 120, size=(count, 1, 8, 8))
    for image, kind in zip(pixels, kinds, strict=True):
        image[0, kind::3, :] += 120
    return spec.from_pixels(np.rint(pixels)), kinds.astype(np.int64)


REFERENCE = TrainingSet(*images(70, seed=1))
POOL, POOL_LABELS = images(50, seed=2)
SELECTION = Selection(
    exemplars=np.array([3, 10, 20, 30]),
    regions=[np.array([3, 4, 5]), np.array([10]), np.array([20, 21]), np.array([30, 31, 32])],
    unsmoothness=np.linspace(0.0, 0.98, 50),
    tau=0.6,
)
LABELS = {int(index): int(POOL_LABELS[index]) for index in SELECTION.exemplars}


def model(module: nn.Module | None = None, spec: ImageInput = SPEC, layer: str = "head") -> RepairableModel:
    return RepairableModel(module or network(), spec, layer)


def run(
    module: nn.Module | None = None,
    labels: dict[int, int] | None = None,
    settings: HybridSettings = SETTINGS,
    progress: Callable[[ProgressEvent], None] = silent,
    checkpoint: Path | None = None,
) -> RepairResult:
    chosen = LABELS if labels is None else labels
    return train(model(module), REFERENCE, POOL, SELECTION, chosen, settings, progress, checkpoint)


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- determinism ---


@pytest.mark.parametrize(("norm", "dropout"), [(True, 0.0), (False, 0.0), (True, 0.4)])
def test_one_seed_one_result_whatever_the_global_generator(norm: bool, dropout: float) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(network(norm=norm, dropout=dropout))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = run(network(norm=norm, dropout=dropout))
    assert_same_weights(first.module, second.module)
    assert first.epochs == second.epochs


def test_another_seed_another_result() -> None:
    first, second = (run(settings=replace(SETTINGS, seed=seed)) for seed in (1, 2))
    assert first.epochs != second.epochs


def test_records_say_what_was_done() -> None:
    result = run()
    assert [record.epoch for record in result.epochs] == [1, 2, 3]
    assert (result.labels_used, result.propagated) == (4, 5)
    totals = [record.total_unsmoothness for record in result.epochs]
    assert result.kept_epoch == 1 + totals.index(min(totals))
    # At first the given unsmoothness decides: inputs 0..30 are up to tau, and 3, 4, 5, 10, 20, 21, 30 have a label.
    assert result.epochs[0].selected_unlabelled == 31 - 7
    assert all(0 <= record.selected_unlabelled <= 50 - 9 for record in result.epochs)
    assert all(0 <= record.replayed <= 70 for record in result.epochs)


def test_the_kept_epochs_weights_are_returned(tmp_path: Path) -> None:
    longer = run(settings=replace(SETTINGS, epochs=4))
    kept = longer.kept_epoch
    weights: dict[int, dict[str, Tensor]] = {}

    def note(event: ProgressEvent) -> None:
        if event.stage == "training":
            stored = torch.load(tmp_path / "repair.pt", weights_only=True)["module"]
            weights[event.done] = {name: value.clone() for name, value in stored.items()}

    run(settings=replace(SETTINGS, epochs=4), progress=note, checkpoint=tmp_path / "repair.pt")
    for name, value in longer.module.state_dict().items():
        assert torch.equal(value, weights[kept][name])


# --- interruption ---


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("stage", ["training", "consistency"])
def test_an_interrupted_repair_goes_on_as_if_nothing_had_happened(tmp_path: Path, epoch: int, stage: str) -> None:
    whole = run(network(dropout=0.3))
    checkpoint = tmp_path / "deep" / "repair.pt"

    def interrupt(event: ProgressEvent) -> None:
        number = event.done if event.stage == "training" else event.metrics.get("epoch")
        if event.stage == stage and number == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(network(dropout=0.3), progress=interrupt, checkpoint=checkpoint)
    torch.manual_seed(99)
    stages: list[str] = []
    resumed = run(network(dropout=0.3), progress=lambda event: stages.append(event.stage), checkpoint=checkpoint)
    assert stages.count("training") == (3 - epoch if stage == "training" else 4 - epoch)
    assert_same_weights(resumed.module, whole.module)
    assert resumed.epochs == whole.epochs
    assert resumed.kept_epoch == whole.kept_epoch
    assert [path.name for path in checkpoint.parent.iterdir()] == ["repair.pt"]


OTHERS: dict[str, Callable[[Path], RepairResult]] = {
    "labels": lambda path: run(labels={3: 1}, checkpoint=path),
    "settings": lambda path: run(settings=replace(SETTINGS, learning_rate=0.01), checkpoint=path),
    "model": lambda path: run(network(seed=5), checkpoint=path),
    "pool": lambda path: train(model(), REFERENCE, POOL[::-1].copy(), SELECTION, LABELS, SETTINGS, None, path),
    "selection": lambda path: train(
        model(), REFERENCE, POOL, replace(SELECTION, tau=0.5), LABELS, SETTINGS, None, path
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_repair_is_not_continued(
    other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(checkpoint=tmp_path / "repair.pt")
    fresh = OTHERS[other](tmp_path / "fresh.pt")
    with caplog.at_level(logging.WARNING):
        result = OTHERS[other](tmp_path / "repair.pt")
    assert "of other settings, labels or data" in caplog.text
    assert_same_weights(result.module, fresh.module)


def test_a_torn_checkpoint_is_not_continued(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "repair.pt"
    whole = run(checkpoint=path)
    for torn in (b"", path.read_bytes()[:2000]):
        path.write_bytes(torn)
        with caplog.at_level(logging.WARNING):
            assert_same_weights(run(checkpoint=path).module, whole.module)
        assert "cannot be read, training starts anew" in caplog.text
        caplog.clear()


def test_a_finished_checkpoint_trains_no_more(tmp_path: Path) -> None:
    whole = run(checkpoint=tmp_path / "repair.pt")
    stages: list[str] = []
    again = run(progress=lambda event: stages.append(event.stage), checkpoint=tmp_path / "repair.pt")
    assert stages == []
    assert_same_weights(again.module, whole.module)


# --- the given module ---


def test_the_given_module_is_not_touched() -> None:
    module = network(dropout=0.2)
    module.norm.train()  # an odd mixture of modes, to be left as it is
    module.conv.weight.requires_grad_(False)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    before, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    result = run(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(module.head.weight.grad, torch.ones_like(module.head.weight))
    assert module.conv.bias is not None
    assert module.conv.bias.grad is None
    # The copy respects what was frozen, holds no gradients and is ready to serve.
    own = result.module
    assert torch.equal(own.get_parameter("conv.weight"), module.conv.weight)
    assert not torch.equal(own.get_parameter("head.weight"), module.head.weight)
    assert all(parameter.grad is None for parameter in own.parameters())
    assert not any(part.training for part in own.modules())


MODULES: dict[str, tuple[Callable[[], nn.Module], ImageInput, str]] = {
    "no batch norm": (lambda: network(norm=False), SPEC, "head"),
    "view instead of reshape": (lambda: network(view=True), SPEC, "head"),
    "double precision": (lambda: network().double(), SPEC, "head"),
    "bfloat16": (lambda: network().bfloat16(), SPEC, "head"),
    "channels behind": (lambda: FromLayout(hwc_to_chw), SPEC.model_copy(update={"layout": "HWC"}), "network.head"),
    "one row": (lambda: FromLayout(flat_to_chw), SPEC.model_copy(update={"flat": True}), "network.head"),
    "no channel axis": (lambda: FromLayout(flat_to_chw), SPEC.model_copy(update={"layout": "HW"}), "network.head"),
    "raw bytes": (
        lambda: FromLayout(bytes_to_chw),
        ImageInput(height=8, width=8, dtype="uint8", std=(1 / 255,)),
        "network.head",
    ),
}


@pytest.mark.parametrize("kind", MODULES)
def test_many_kinds_of_module_can_be_trained(kind: str) -> None:
    make, spec, layer = MODULES[kind]
    module = make().eval()
    reference = TrainingSet(*images(70, 1, spec))
    repairable = RepairableModel(module, spec, layer)
    result = train(repairable, reference, images(50, 2, spec)[0], SELECTION, LABELS, replace(SETTINGS, epochs=1))
    for mine, given in zip(result.module.parameters(), module.parameters(), strict=True):
        assert (mine.dtype, mine.device) == (given.dtype, given.device)
        assert mine.is_contiguous()
    assert np.isfinite(result.epochs[0].total_unsmoothness)


def test_a_module_that_gives_probabilities() -> None:
    repairable = RepairableModel(network(softmax=True), SPEC, "head", output="probabilities")
    settings = replace(SETTINGS, epochs=1, bfloat16=False)  # else rounding alone would tell the two apart
    result = train(repairable, REFERENCE, POOL, SELECTION, LABELS, settings)
    same = run(network(), settings=settings)  # the same network, giving logits
    assert result.epochs[0].total_unsmoothness == pytest.approx(same.epochs[0].total_unsmoothness, rel=1e-4)


# --- pixels ---


@pytest.mark.parametrize(
    "spec",
    [
        ImageInput(height=5, width=7, channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        ImageInput(height=5, width=7, channels=3, layout="HWC", mean=(0.1,), std=(0.7,)),
        ImageInput(height=5, width=7, layout="HW"),
        ImageInput(height=5, width=7, channels=3, flat=True, dtype="float64"),
        ImageInput(height=5, width=7, std=(1 / 255,), dtype="uint8"),
    ],
)
def test_torch_and_numpy_agree_on_served_images(spec: ImageInput) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, size=(4, spec.channels, 5, 7)).astype(np.uint8)
    head = nn.Linear(2, 2).to(torch.float64 if spec.dtype == "float64" else torch.float32)
    repairable = RepairableModel(nn.Sequential(head), spec, "0")
    for some in (pixels, random.uniform(0, 255, size=pixels.shape)):
        expected = torch.from_numpy(spec.from_pixels(some))
        assert torch.equal(repairable.served(torch.from_numpy(some)), expected)
    assert torch.equal(repairable.pixels(spec.from_pixels(pixels), "pool"), torch.from_numpy(pixels))


# --- steps ---


def test_sharpening_by_hand() -> None:
    rows = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    torch.testing.assert_close(sharpen(rows, 0.5), torch.tensor([[0.64 / 0.68, 0.04 / 0.68], [0.5, 0.5]]))
    torch.testing.assert_close(sharpen(rows, 1.0), rows)


def test_targets_are_mixed_as_their_inputs_are() -> None:
    # Each input holds its own target, so after mixing the two must still agree.
    targets = torch.eye(6)
    inputs = targets.reshape(6, 1, 2, 3) * 100
    for seed in range(20):
        mixed, mixed_targets = mix_up(inputs, targets, 0.75, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(mixed.reshape(6, 6) / 100, mixed_targets)
        assert (mixed_targets.diagonal() >= 0.5).all()
        torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(6))


def test_mixing_the_replayed_targets_is_a_switch() -> None:
    settings = replace(SETTINGS, epochs=1)
    mixed, unmixed = (run(settings=replace(settings, mixed_targets=value)) for value in (True, False))
    assert mixed.epochs[0].supervised_loss == unmixed.epochs[0].supervised_loss
    assert mixed.epochs[0].ssl_loss != unmixed.epochs[0].ssl_loss


def test_smooth_inputs_only_take_part_and_rough_ones_with_a_label_do() -> None:
    unsmooth = torch.tensor([0.0, 0.3, 0.6, 0.61, 0.9, 0.2], dtype=torch.float64)
    weights, selected = selection_weights(unsmooth, 0.6, torch.tensor([4, 5]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.7, 0.4, 0.0, 1.0, 1.0], dtype=torch.float64))
    assert selected == 3


def test_nothing_smooth_leaves_the_labels_to_learn_from() -> None:
    result = train(model(), REFERENCE, POOL, replace(SELECTION, tau=-1.0), LABELS, replace(SETTINGS, epochs=1))
    assert result.epochs[0].selected_unlabelled == 0


# --- misuse and edges ---


def test_a_skipped_exemplar_leaves_its_region_without_a_label() -> None:
    result = run(labels={3: 0, 20: 1})
    assert (result.labels_used, result.propagated) == (2, 3)


def test_labels_of_one_class_are_enough_to_run() -> None:
    assert run(labels=dict.fromkeys(LABELS, 0), settings=replace(SETTINGS, epochs=1)).labels_used == 4


def test_a_model_that_gets_no_training_input_right() -> None:
    never = TrainingSet(REFERENCE.x, (network_answers() + 1) % 3)
    result = train(model(), never, POOL, SELECTION, LABELS, replace(SETTINGS, epochs=1))
    assert result.epochs[0].replayed == 0


def network_answers() -> Array:
    with torch.no_grad():
        answers: Array = network()(torch.from_numpy(REFERENCE.x)).argmax(dim=1).numpy()
    return answers


def test_one_training_input_and_one_label() -> None:
    one = TrainingSet(REFERENCE.x[:1], REFERENCE.y[:1])
    selection = Selection(np.array([0]), [np.array([0])], np.array([0.5, 0.5]), 0.6)
    result = train(model(), one, POOL[:2], selection, {0: 1}, replace(SETTINGS, epochs=1))
    assert isinstance(result.epochs[0], EpochRecord)


def test_classes_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="labels: the model has 3 classes, got class number 3"):
        run(labels={3: 3})
    beyond = TrainingSet(REFERENCE.x, REFERENCE.y + 1)
    with pytest.raises(InputError, match="training data: the model has 3 classes, got class number 3"):
        train(model(), beyond, POOL, SELECTION, LABELS, SETTINGS)


def test_no_labels_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 label"):
        run(labels={})


def test_a_selection_of_another_pool_is_refused() -> None:
    with pytest.raises(InputError, match="pool of 50 inputs, this one has 49"):
        train(model(), REFERENCE, POOL[:49], SELECTION, LABELS, SETTINGS)


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(TrainingError, match="no parameter requires a gradient"):
        run(network().requires_grad_(False))


def test_a_diverging_training_says_so() -> None:
    with pytest.raises(TrainingError, match=r"training diverged: .* nan in epoch"):
        run(network(norm=False), settings=replace(SETTINGS, learning_rate=1e18))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (POOL, POOL_LABELS[:3], "50 inputs and 3 labels"),
        (POOL[:0], POOL_LABELS[:0], "at least 1 labelled training input, got 0"),
        (POOL, POOL_LABELS - 5, "class numbers from 0, got -5"),
        (POOL, POOL_LABELS.astype(float), "one whole number per label"),
    ],
)
def test_unusable_training_sets_are_refused(x: Array, y: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSet(x, y)


def test_an_unknown_embedding_layer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="one of: conv, norm, dropout, head; got 'fc'"):
        model(layer="fc")
