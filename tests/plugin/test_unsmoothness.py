"""Unsmoothness: normalised entropy of a mean prediction, checked against SciPy and by construction."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor, nn

from fieldrepair_plugin.pool_copies import PoolCopies
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_plugin.unsmoothness import mean_prediction, normalised_entropy, unsmoothness, with_original
from fieldrepair_service.inputs import ImageInput

Array = npt.NDArray[Any]


class MeanBrightness(nn.Module):
    """Two classes by mean brightness; sure of itself by ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        brightness = self.head(images.mean(dim=(1, 2, 3)))
        return self.scale * torch.stack([brightness, 1.0 - brightness], dim=1)


def model(scale: float) -> RepairableModel:
    return RepairableModel(MeanBrightness(scale), ImageInput(height=8, width=8), "head")


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def measured(of: RepairableModel, count: int, settings: HybridSettings | None = None) -> Array:
    chosen = settings or HybridSettings(copies=3)
    return unsmoothness(of, PoolCopies(of, pixels(count), chosen))


def test_entropy_equals_scipys() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), size=50)
    expected = torch.from_numpy(entropy(probabilities, axis=1) / np.log(7))
    torch.testing.assert_close(normalised_entropy(torch.from_numpy(probabilities)), expected, rtol=1e-12, atol=0)


def test_entropy_of_sure_and_of_even_answers() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(normalised_entropy(rows), expected, rtol=0, atol=1e-15)


def test_mean_prediction_averages_softmax_over_views() -> None:
    image = pixels(5)
    views = with_original(image, torch.stack([255 - image, image // 2]))
    one = model(3.0)
    expected = torch.stack([one.logits(view).softmax(dim=1) for view in views]).mean(dim=0)
    torch.testing.assert_close(mean_prediction(one, views), expected)


def test_a_model_that_never_wavers_is_smooth_and_one_that_cannot_decide_is_not() -> None:
    always_first = model(0.0)
    assert measured(always_first, 6) == pytest.approx(np.ones(6))

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[100.0, 0.0]]).expand(len(images), 2) + 0 * self.head(images).sum()

    sure = RepairableModel(Sure(), ImageInput(height=8, width=8), "head")
    assert measured(sure, 6) == pytest.approx(np.zeros(6), abs=1e-12)


def test_values_are_shares_and_repeatable_whatever_the_batch_size() -> None:
    first = measured(model(20.0), 40)
    assert ((first >= 0) & (first <= 1)).all()
    assert np.array_equal(first, measured(model(20.0), 40))
    assert len(measured(model(20.0), 3, HybridSettings(copies=3, inference_batch_size=1))) == 3


def test_the_module_keeps_its_mode() -> None:
    one = model(1.0)
    one.module.train()
    measured(one, 4)
    assert one.module.training
    assert one.module.get_submodule("head").training


def test_progress_reaches_the_total() -> None:
    heard: list[tuple[int, int]] = []
    settings = HybridSettings(copies=3, inference_batch_size=32)
    one = model(1.0)
    unsmoothness(one, PoolCopies(one, pixels(20), settings), lambda done, total: heard.append((done, total)))
    assert heard == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("most_kept", [0, 20 * 64 * 3, 20 * 64 * 3 - 1], ids=["none", "all", "too many"])
def test_copies_are_the_same_each_time_whether_kept_or_made_anew(
    most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    of = model(1.0)
    copies_of = of.form.copies

    def counted(inputs: Tensor, settings: HybridSettings, generator: torch.Generator) -> Tensor:
        made.append(len(inputs))
        return copies_of(inputs, settings, generator)

    monkeypatch.setattr(of.form, "copies", counted)
    pool = PoolCopies(of, pixels(20), HybridSettings(copies=3, inference_batch_size=32), most_kept=most_kept)
    first, again = list(pool), list(pool)
    assert [len(inputs) for inputs, _ in first] == [8, 8, 4]
    for (inputs, copies), (same, same_copies) in zip(first, again, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(copies, same_copies)
    assert sum(made) == (20 if most_kept == 20 * 64 * 3 else 40)


def test_a_measurement_that_was_broken_off_leaves_nothing_half_kept() -> None:
    of = model(1.0)
    settings = HybridSettings(copies=3, inference_batch_size=32)
    pool = PoolCopies(of, pixels(20), settings, most_kept=1 << 20)
    next(iter(pool))
    assert np.array_equal(unsmoothness(of, pool), unsmoothness(of, PoolCopies(of, pixels(20), settings)))
