"""Our recipe: its parts by what they promise, and the whole by what it brings on a small shifted world."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from fieldrepair_plugin import views as views_module
from fieldrepair_plugin.batch_norm import batch_statistics, measure_statistics, norm_layers
from fieldrepair_plugin.coverage import cover
from fieldrepair_plugin.default_recipe import select_default, train_default
from fieldrepair_plugin.default_settings import DefaultSettings, Keeping
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import NONE_OF_THESE
from fieldrepair_plugin.hybrid import HybridSettings, RepairableModel, RepairResult, TrainingSet
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.progress import ProgressEvent
from fieldrepair_plugin.statistics_choice import StatisticsChoice
from fieldrepair_plugin.teacher import Teacher, between
from fieldrepair_plugin.views import Views
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput

Array = npt.NDArray[Any]
SPEC = ImageInput(height=8, width=8, mean=(0.4,), std=(0.3,))
SETTINGS = HybridSettings(recipe="default", epochs=2, seed=3)
FLOAT32 = replace(SETTINGS, bfloat16=False)
OWN = DefaultSettings(replay_batch=16, labelled_batch=8, unlabelled_batch=16, steps_least=6, steps_most=6)


class Network(nn.Module):
    """A small convolutional network, with batch norm or another norm."""

    def __init__(self, norm: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(54, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(images))).flatten(1)
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


def quadrants(count: int, seed: int, contrast: float = 1.0, light: float = 0.0) -> tuple[Array, Array]:
    """Which quadrant is bright; in the field with less contrast and more light."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=count)
    images = random.uniform(0.0, 0.4, (count, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (int(label) // 2), 4 * (int(label) % 2)
        image[0, top : top + 4, left : left + 4] += 0.4
    pixels = np.rint(255 * np.clip(images * contrast + light, 0, 1)).astype(np.uint8)
    return SPEC.from_pixels(pixels), labels.astype(np.int64)


def trained(network: nn.Module) -> RepairableModel:
    x, y = quadrants(200, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    return RepairableModel(network.eval(), SPEC, "head")


@pytest.fixture(scope="module")
def model() -> RepairableModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trained(Network(nn.BatchNorm2d(6)))


REFERENCE = TrainingSet(*quadrants(200, seed=1))
POOL, TRUTH = quadrants(120, seed=2, contrast=0.3, light=0.5)


def accuracy(module: nn.Module, x: Array, y: Array) -> float:
    with torch.no_grad():
        return float((module(torch.from_numpy(x)).argmax(dim=1).numpy() == y).mean())


def repaired(
    model: RepairableModel,
    own: DefaultSettings = OWN,
    keep: Literal["strict", "balanced", "off"] = "off",
    budget: int = 12,
    settings: HybridSettings = SETTINGS,
    **options: Any,
) -> RepairResult:
    settings = replace(settings, keep_reference=keep)
    selection = select_default(model, REFERENCE, POOL, budget, settings, own=own)
    labels = {int(index): int(TRUTH[index]) for index in selection.exemplars}
    return train_default(model, REFERENCE, POOL, selection, labels, settings, own=own, **options)


def test_a_shifted_world_is_repaired_and_the_old_one_kept(model: RepairableModel) -> None:
    x, y = quadrants(300, seed=5, contrast=0.3, light=0.5)
    old_x, old_y = quadrants(300, seed=6)
    before, old_before = accuracy(model.module, x, y), accuracy(model.module, old_x, old_y)
    assert before < 0.8 < old_before
    assert accuracy(repaired(model).module, x, y) > 0.9
    strict = repaired(model, keep="strict").module
    assert accuracy(strict, x, y) > before
    assert accuracy(strict, old_x, old_y) >= old_before - 0.02


@pytest.mark.parametrize(
    "changed",
    [
        {"selection": "random"},
        {"replay_batch": 0},
        {"unlabelled_batch": 0},
        {"targets": "confident"},
        {"strong_views": False},
        {"replay_field_look": False},
        {"replay_field_pose": False},
        {"class_chance": 1.0},
        {"average": 0.0},
        {"teacher_weight": 1.0},
        {"learning_rate": 0.2},
        {"adapt_before_selection": False},
        {"labels_choose_statistics": False},
        {"off": Keeping(shared_statistics=True, weight=0.75, reference_share=0.0)},
        {"off": Keeping(shared_statistics=False, weight=0.2, reference_share=0.0)},
        {"off": Keeping(shared_statistics=False, weight=0.75, reference_share=0.9)},
    ],
    ids=str,
)
def test_every_switch_changes_the_result(model: RepairableModel, changed: dict[str, Any]) -> None:
    # float32, so that it is the switch that differs and not the precision a machine chooses.
    # And what the user chose is followed to the letter only where labels have no say.
    base = replace(OWN, labels_choose_statistics="off" not in changed)
    first = repaired(model, base, settings=FLOAT32).module
    second = repaired(model, replace(base, **changed), settings=FLOAT32).module
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_so_does_the_precision(model: RepairableModel) -> None:
    first = repaired(model, settings=FLOAT32).module
    second = repaired(model, settings=replace(SETTINGS, bfloat16=True)).module
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_the_old_answers_are_learned_from_where_the_old_world_is_to_be_kept(model: RepairableModel) -> None:
    labels_only = replace(OWN, replay_old_answers=0.0)
    keeps: list[tuple[Literal["strict", "off"], bool]] = [("off", True), ("strict", False)]
    for keep, same in keeps:
        first = repaired(model, OWN, keep, settings=FLOAT32).module
        second = repaired(model, labels_only, keep, settings=FLOAT32).module
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) is same


@pytest.mark.parametrize(("targets", "keep"), [("soft", "off"), ("confident", "off"), ("soft", "strict")])
def test_an_interrupted_repair_goes_on_exactly(
    tmp_path: Path, targets: Literal["soft", "confident"], keep: Literal["strict", "off"]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RepairableModel(Network(nn.BatchNorm2d(6), dropout=0.3).eval(), SPEC, "head")
    own, file = replace(OWN, targets=targets, class_chance=1.0), tmp_path / "repair.pt"
    whole = repaired(model, own, keep)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(event: ProgressEvent) -> None:
        if event.stage == "training":
            raise Stopped

    with pytest.raises(Stopped):
        repaired(model, own, keep, checkpoint=file, progress=stop)
    heard: list[ProgressEvent] = []
    rest = repaired(model, own, keep, checkpoint=file, progress=heard.append)
    assert [event.done for event in heard if event.stage == "training"] == [2]
    assert whole.epochs == rest.epochs
    for one, other in zip(whole.module.state_dict().values(), rest.module.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_model_without_batch_norm_is_repaired_too_by_smaller_steps() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = trained(Network(nn.GroupNorm(2, 6)))
    before, old = accuracy(model.module, POOL, TRUTH), accuracy(model.module, REFERENCE.x, REFERENCE.y)
    result = repaired(model, replace(OWN, steps_least=20, steps_most=20))
    assert accuracy(result.module, POOL, TRUTH) >= before
    assert accuracy(result.module, REFERENCE.x, REFERENCE.y) >= old - 0.02
    assert not result.module.training

    def moved(own: DefaultSettings) -> float:
        after = repaired(model, own).module
        pairs = zip(after.parameters(), model.module.parameters(), strict=True)
        return sum(float((new - old).detach().abs().sum()) for new, old in pairs)

    assert moved(replace(OWN, learning_rate=1.0)) == moved(OWN)  # that one is for batch norms
    assert moved(OWN) < moved(replace(OWN, learning_rate_without_batch_norm=0.05))


def test_labels_for_everything_leave_nothing_to_the_teacher(model: RepairableModel) -> None:
    result = repaired(model, budget=len(POOL))
    assert result.labels_used == len(POOL)
    assert [record.selected_unlabelled for record in result.epochs] == [0, 0]


def test_inputs_of_no_class_are_reported_and_not_learned_from(model: RepairableModel) -> None:
    selection = select_default(model, REFERENCE, POOL, 12, SETTINGS, own=OWN)
    labels = {int(index): int(TRUTH[index]) for index in selection.exemplars}
    odd = int(selection.exemplars[3])
    labels[odd] = NONE_OF_THESE
    result = train_default(model, REFERENCE, POOL, selection, labels, SETTINGS, own=OWN)
    assert result.outside == (odd,)
    with pytest.raises(InputError, match="the model has 4 classes, got class number 4"):
        train_default(model, REFERENCE, POOL, selection, {**labels, odd: 4}, SETTINGS, own=OWN)
    with pytest.raises(InputError, match="need at least 1 label"):
        train_default(model, REFERENCE, POOL, selection, {}, SETTINGS, own=OWN)
    with pytest.raises(InputError, match="a pool of 120 inputs, this one has 119"):
        train_default(model, REFERENCE, POOL[1:], selection, labels, SETTINGS, own=OWN)


def test_divergence_is_an_error(model: RepairableModel) -> None:
    with pytest.raises(TrainingError, match="diverged in epoch 1"):
        repaired(model, replace(OWN, learning_rate=1e30), settings=FLOAT32)


def test_known_labels_are_not_asked_for_again(model: RepairableModel) -> None:
    known = {5: int(TRUTH[5]), 40: int(TRUTH[40])}
    selection = select_default(model, REFERENCE, POOL, 118, SETTINGS, known=known, own=OWN)
    assert sorted([*selection.exemplars.tolist(), 5, 40]) == list(range(120))
    with pytest.raises(InputError, match=r"1\.\.118"):
        select_default(model, REFERENCE, POOL, 119, SETTINGS, known=known, own=OWN)


def test_coverage_takes_one_of_each_part_before_two_of_any() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(5, 16)[np.repeat(np.arange(5), [80, 40, 20, 10, 10])]
    embeddings = (centres + 0.01 * random.normal(size=centres.shape)).astype(np.float32)
    parts = np.repeat(np.arange(5), [80, 40, 20, 10, 10])
    everyone = np.arange(160, dtype=np.int64)
    chosen = cover(embeddings, everyone, 5, OWN, np.random.default_rng(1))
    assert sorted(parts[chosen]) == [0, 1, 2, 3, 4]
    assert parts[chosen[0]] == 0  # the largest first
    few = replace(OWN, clusters=5, cluster_inputs=100)
    many = cover(embeddings, everyone, 32, few, np.random.default_rng(1))
    assert len(set(many.tolist())) == 32
    assert Counter(parts[many].tolist()) == {0: 16, 1: 8, 2: 4, 3: 2, 4: 2}  # in proportion to the parts' sizes
    closed = cover(embeddings, everyone[80:], 4, OWN, np.random.default_rng(1))
    assert closed.min() >= 80


def test_statistics_are_those_of_the_mixture(model: RepairableModel) -> None:
    work = replace(model, module=nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)), embedding_layer="2")
    field, training = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros((64, 1, 8, 8), dtype=torch.uint8)
    layer = norm_layers(work.module)[0]
    white, black = (1 - 0.4) / 0.3, -0.4 / 0.3
    for share, mean in ((0.0, white), (1.0, black), (0.5, (white + black) / 2), (0.25, 0.75 * white + 0.25 * black)):
        assert measure_statistics(work, field, training, share, 32, torch.Generator()) == 1
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert float(layer.running_mean) == pytest.approx(mean, rel=1e-4)
        # With the distance between the worlds in it; unbiased, as batch norm keeps it.
        spread = share * (1 - share) * (white - black) ** 2 * 2048 / 2047
        assert float(layer.running_var) == pytest.approx(spread, abs=1e-4)
        assert not layer.training
        assert layer.momentum == 0.1


def test_batch_statistics_leave_no_trace() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = 5 + 2 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with batch_statistics(network):
        answer = network(inputs)
    assert torch.allclose(answer.mean(dim=0), torch.zeros(3), atol=1e-5)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_labels_choose_other_statistics_only_with_evidence() -> None:
    mixed = torch.tensor([True] * 60 + [False] * 40)
    field, reference = mixed.clone(), mixed.clone()
    field[60:69], field[:5] = True, False  # 9 won, 5 lost: 1.07 standard errors
    reference[:4] = False  # 4 lost: 2
    choice = StatisticsChoice({0.0: field, 0.5: mixed, 1.0: reference})
    assert choice.shares == {0.0: 0.64, 0.5: 0.6, 1.0: 0.56}
    assert choice.best(0.5, 1.0) == 0.0
    assert choice.best(0.5, 1.1) == 0.5
    assert choice.objects(0.5, 1.0, 2.0)
    assert choice.objects(0.5, 0.9, 2.0)  # for which 1.0 stands
    assert not choice.objects(0.5, 1.0, 2.1)
    assert not choice.objects(0.5, 0.5, 0.1)


def test_statistics_are_chosen_by_how_the_old_model_reads_the_labels(model: RepairableModel) -> None:
    field, training = model.pixels(POOL, "pool"), model.pixels(REFERENCE.x, "training data")
    work = model.working_copy()
    before = {name: value.clone() for name, value in work.module.state_dict().items()}

    def choice(inputs: Tensor, truth: Array) -> StatisticsChoice:
        classes = torch.from_numpy(truth)
        shares = (0.0, 0.5, 1.0)
        return StatisticsChoice.of(work, field, training, (inputs, classes), shares, torch.Generator().manual_seed(0))

    darker = choice(field, TRUTH)
    assert darker.best(0.5, 1.0) == 0.0
    assert darker.objects(0.0, 1.0, 2.0)
    assert choice(training, REFERENCE.y).best(0.5, 1.0) != 0.0
    assert all(torch.equal(value, before[name]) for name, value in work.module.state_dict().items())


def test_strict_takes_the_old_statistics_where_labels_do_not_object(model: RepairableModel) -> None:
    """The field is the old world, its batch norms are spoilt by inputs that nobody labelled."""
    strict = replace(SETTINGS, keep_reference="strict")
    odd = np.concatenate([REFERENCE.x[:30], SPEC.from_pixels(np.full((90, 1, 8, 8), 255, np.uint8))])
    selection = select_default(model, REFERENCE, odd, 30, strict, own=replace(OWN, selection="random"))
    selection = replace(selection, exemplars=np.arange(30), regions=[np.array([at]) for at in range(30)])
    labels = {at: int(REFERENCE.y[at]) for at in range(30)}
    careless = replace(OWN, strict=Keeping(shared_statistics=False, weight=0.0, reference_share=0.0))

    def lost(own: DefaultSettings) -> float:
        result = train_default(model, REFERENCE, odd, selection, labels, strict, own=own)
        return accuracy(model.module, REFERENCE.x, REFERENCE.y) - accuracy(result.module, REFERENCE.x, REFERENCE.y)

    by_setting = lost(replace(careless, labels_choose_statistics=False))
    assert by_setting > 0.02
    assert lost(careless) < min(by_setting, 0.011)


def test_the_teacher_reads_the_field_beside_the_reference_where_that_is_better(model: RepairableModel) -> None:
    student = model.working_copy()
    teacher = Teacher(student, student.module, average=0.9, weight=0.5)
    views, beside = torch.rand(8, 1, 8, 8) * 255, torch.rand(6, 1, 8, 8) * 40
    together = teacher.answers(views, beside)
    assert together.shape == (8, 4)
    assert not torch.allclose(together, teacher.answers(views))


def test_the_teacher_s_answers_are_aligned_with_the_class_shares_of_the_field(model: RepairableModel) -> None:
    student, shares = model.working_copy(), torch.tensor([0.7, 0.1, 0.1, 0.1])
    plain = Teacher(student, student.module, average=0.9, weight=0.5)
    aligned = Teacher(student, student.module, average=0.9, weight=0.5, shares=shares)
    views = torch.from_numpy(np.rint(255 * np.random.default_rng(0).uniform(size=(64, 1, 8, 8)))).float()
    answers = aligned.answers(views)
    for _ in range(200):  # the running mean comes to what the teacher says by itself
        answers = aligned.answers(views)
    said = plain.answers(views).mean(dim=0)
    assert torch.allclose(aligned.said, said, atol=0.02)
    assert torch.allclose(answers.sum(dim=1), torch.ones(64))
    off = [float((each.mean(dim=0) - shares).abs().sum()) for each in (answers, plain.answers(views))]
    assert off[0] < off[1]


def test_the_teacher_follows_slowly_and_speaks_from_between(model: RepairableModel) -> None:
    student = model.working_copy()
    teacher = Teacher(student, student.module, average=0.9, weight=0.5)
    old = {name: value.clone() for name, value in student.module.state_dict().items()}
    with torch.no_grad():
        student.module.get_parameter("head.bias").add_(10.0)
    for _ in range(200):
        teacher.follow(student.module)
    assert torch.allclose(teacher.weights["head.bias"], old["head.bias"] + 10.0, atol=1e-3)
    halfway = between(old, teacher.weights, 0.5)["head.bias"]
    assert torch.allclose(halfway, old["head.bias"] + 5.0, atol=1e-3)
    answers = teacher.answers(torch.rand(8, 1, 8, 8) * 255)
    assert torch.allclose(answers.sum(dim=1), torch.ones(8), atol=1e-5)


def test_lessons_are_whole_answers_or_sure_choices(model: RepairableModel) -> None:
    teacher = Teacher(model.working_copy(), model.module, average=0.9, weight=1.0)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    answers = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    soft, counted = teacher.lesson(logits, answers, "soft")
    assert float(soft) == pytest.approx(float(-(answers * logits.log_softmax(dim=1)).sum(dim=1).mean()), rel=1e-5)
    assert counted == 2
    for _ in range(1000):
        _, counted = teacher.lesson(logits, answers, "confident")
    # The mean confidence is 0.7 and its deviation 0.1: the surer one counts fully, the other exp(-0.1^2 / (0.1^2 / 2)).
    assert counted == pytest.approx(1 + np.exp(-2), abs=0.01)


def test_views_keep_shape_range_and_the_process_s_randomness(model: RepairableModel) -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = Views(model, SETTINGS, mirror=False)
    state = torch.get_rng_state()
    for make in (views.weak, views.strong):
        first, again = (make(images, torch.Generator().manual_seed(5)) for _ in range(2))
        other = make(images, torch.Generator().manual_seed(6))
        assert first.shape == images.shape
        assert first.dtype == torch.float32
        assert float(first.min()) >= 0
        assert float(first.max()) <= 255
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_mirrored_only_where_the_model_does_not_mind(model: RepairableModel) -> None:
    training = model.pixels(REFERENCE.x, "training data")
    assert not Views.of(model, training, torch.from_numpy(REFERENCE.y), SETTINGS).mirror  # left is not right

    # Of top and bottom only, mirroring changes nothing.
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            with torch.no_grad():
                self.head.weight.copy_(torch.eye(2))
                self.head.bias.zero_()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(images.mean(dim=(1, 3)).unflatten(1, (2, 4)).mean(dim=2))
            return logits

    halves = RepairableModel(Halves().eval(), SPEC, "head")
    assert Views.of(halves, training, torch.from_numpy(REFERENCE.y // 2), SETTINGS).mirror


@pytest.mark.parametrize(("borne", "taken"), [(1.0, 1.0), (0.7, 0.7), (0.4, 0.3), (0.0, 0.3)])
def test_images_are_bent_as_strongly_as_the_model_bears(
    model: RepairableModel, monkeypatch: pytest.MonkeyPatch, borne: float, taken: float
) -> None:
    def bend(images: Tensor, generator: torch.Generator, pose: object = None, strength: float = 1.0) -> Tensor:
        return images if strength <= borne else torch.zeros_like(images)

    monkeypatch.setattr(views_module, "_bent", bend)
    training, truth = model.pixels(REFERENCE.x, "training data"), torch.from_numpy(REFERENCE.y)
    assert Views.of(model, training, truth, SETTINGS).strength == taken


def test_a_module_that_cannot_compute_in_bfloat16_trains_in_float32() -> None:
    class Refuses(Network):
        def forward(self, images: Tensor) -> Tensor:
            if self.conv(images).dtype != torch.float32:
                raise RuntimeError("expected scalar type Float but found BFloat16")
            return super().forward(images)

    model = RepairableModel(Refuses(nn.BatchNorm2d(6)), SPEC, "head")
    assert not Precision.of(model, None).bfloat16
    assert Precision.of(model, wanted=True).bfloat16
