"""What the field did to images and classes, found out: its look without labels, its pose and class shares by labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fieldrepair_plugin.class_shares import ClassShares
from fieldrepair_plugin.field_look import FieldLook
from fieldrepair_plugin.field_pose import POSES, FieldPose, bent, mixture_shares
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_service.inputs import ImageInput


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(count: int, seed: int) -> Tensor:
    """Smooth images: what they show is in large scales."""
    small = torch.rand(count, 3, 5, 5, generator=seeded(seed))
    return 40 + 170 * nn.functional.interpolate(small, size=(16, 16), mode="bicubic").clamp(0, 1)


def test_less_contrast_more_light_and_noise_are_found_and_shown() -> None:
    reference, others = scenes(400, 1), scenes(400, 2)
    noise = 8.0 * torch.randn(others.shape, generator=seeded(3))
    field = (0.5 * (others - 128) + 150 + noise).clamp(0, 255)
    look = FieldLook.of(reference, field, seeded())
    large = look.gain[:, 0, 1:2]
    assert torch.allclose(large, torch.full_like(large, 0.5), atol=0.08)
    assert torch.allclose(look.noise, torch.full((3, 1, 1), 8.0), atol=1.0)
    shown = look.show(reference, seeded())
    assert abs(float(shown.mean() - field.mean())) < 6 < float(field.mean() - reference.mean())
    assert abs(float(shown.std() - field.std())) < 6 < float(reference.std() - field.std())
    assert torch.equal(look.show(reference, seeded()), shown), "one seed, one result"


def test_a_blur_is_found_and_no_noise() -> None:
    reference = scenes(300, 1) + 20 * torch.randn(300, 3, 16, 16, generator=seeded(4))
    field = nn.functional.avg_pool2d(scenes(300, 2) + 20 * torch.randn(300, 3, 16, 16, generator=seeded(5)), 3, 1, 1)
    look = FieldLook.of(reference, field, seeded())
    assert float(look.noise.max()) < 2
    assert float(look.gain[:, 8, 8].max()) < 0.5


def test_an_unchanged_world_looks_unchanged() -> None:
    reference, field = scenes(400, 1), scenes(400, 2)
    shown = FieldLook.of(reference, field, seeded()).show(reference, seeded())
    assert float((shown - reference).abs().mean()) < 5


DIRECTIONS = 6


class Templates(nn.Module):
    """Answers with the direction of a stroke."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32 * 32, DIRECTIONS, bias=False)
        self.head.weight.data = 5 * nn.functional.normalize(strokes(torch.arange(DIRECTIONS)).flatten(1), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.normalize(images.flatten(1), dim=1))
        return logits


def strokes(classes: Tensor) -> Tensor:
    """From the middle to one of six sides."""
    images = torch.zeros(len(classes), 1, 32, 32)
    images[:, 0, 2:16, 14:18] = 1.0
    return bent(images, classes * (2 * math.pi / DIRECTIONS), torch.ones(len(classes)))


@pytest.mark.parametrize("degrees", [[30.0], [-30.0, 15.0], [0.0]])
def test_labels_tell_how_the_field_is_turned(degrees: list[float]) -> None:
    spec = ImageInput(height=32, width=32, mean=(0.0,), std=(1.0,))
    model = RepairableModel(Templates(), spec, "head")
    labels = torch.arange(120) % DIRECTIONS
    angles = torch.tensor(degrees)[torch.arange(120) // DIRECTIONS % len(degrees)]
    field = 255 * bent(strokes(labels), angles * (math.pi / 180), torch.ones(120))
    pose = FieldPose.of(model, field, (field, labels), seeded())
    # Turned by 30 is undone by -30.
    assert sum(float(pose.shares[POSES.index((-each, 1.0))]) for each in degrees) > 0.5
    turns, _ = pose.draw(300, seeded())
    for each in degrees:
        assert bool(torch.isclose(turns, torch.tensor(math.radians(each)), atol=1e-4).any())
    assert torch.allclose(bent(field[:4], torch.zeros(4), torch.ones(4)), field[:4], atol=0.1)


def test_shares_of_a_mixture_are_found() -> None:
    truth = torch.tensor([0.7, 0.3, 0.0])
    component = torch.multinomial(truth, 2000, replacement=True, generator=seeded())
    seen = torch.where(torch.rand(2000, generator=seeded(1)) < 0.8, component, (component + 1) % 3)
    chances = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]], dtype=torch.float64)
    likelihoods = chances[:, seen].T
    shares = mixture_shares(likelihoods)
    assert torch.allclose(shares, truth.double(), atol=0.05)
    assert float(shares[2]) == 0.0
    assert float(shares.sum()) == pytest.approx(1.0)
    # Nothing tells components apart: all stay possible.
    assert mixture_shares(torch.full((10, 4), 0.5, dtype=torch.float64)).tolist() == pytest.approx([0.25] * 4)


def test_class_shares_are_other_ones_only_beyond_chance() -> None:
    training = torch.arange(900) % 3
    assert ClassShares.of(training, torch.arange(90) % 3, 3, 0.01) is None
    assert ClassShares.of(training, torch.empty(0, dtype=torch.int64), 3, 0.01) is None
    labels = torch.tensor([0] * 80 + [1] * 10 + [2] * 10)
    shares = ClassShares.of(training, labels, 3, 0.01)
    assert shares is not None
    assert shares.reference.tolist() == pytest.approx([1 / 3] * 3)
    # The training shares count as fifty labels.
    assert shares.field.tolist() == pytest.approx([(80 + 50 / 3) / 150, *[(10 + 50 / 3) / 150] * 2], rel=1e-4)
    assert ClassShares.of(training, labels, 3, 0.0) is None, "switched off"
