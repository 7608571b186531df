"""Rows and texts in the engine: what a varied copy may change, what a mixture is made of, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldrepair_plugin.input_forms import TabularForm, TextForm, form_of
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput

TABLE = TabularInput(features=("price", "load", "weekday"), categories={"weekday": ("a", "b", "c")})
TEXT = TextInput(length=6, padding=0)
SETTINGS = HybridSettings(copies=400, severity=3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows() -> Tensor:
    numbers = np.stack([np.linspace(10, 20, 8), np.linspace(-1, 1, 8), np.arange(8) % 3], axis=1)
    return TabularForm(TABLE).hold(numbers.astype(np.float32))


def test_numbers_are_jittered_by_their_own_spread_and_dropped_to_values_that_occur() -> None:
    inputs = rows()
    copies = TabularForm(TABLE).copies(inputs, SETTINGS, seeded())
    assert copies.shape == (400, 8, 3)
    change = copies - inputs
    # A dropped feature jumps to another row's value, exactly; what is not dropped moves by a tenth of the spread.
    occurs = (copies.unsqueeze(-1) == inputs.T.reshape(1, 1, 3, 8)).any(dim=-1)
    dropped = float(occurs[:, :, :2].double().mean())
    assert dropped == pytest.approx(0.1, abs=0.01)
    jitter = change[:, :, :2][~occurs[:, :, :2]].reshape(-1)
    assert float(jitter.abs().max()) < 6 * 0.1 * float(inputs.std(dim=0, correction=0).max())
    price = change[:, :, 0][~occurs[:, :, 0]]
    assert float(price.std()) == pytest.approx(0.1 * float(inputs[:, 0].std(correction=0)), rel=0.1)
    assert occurs[:, :, 2].all(), "a category stays one of the categories"
    changed = float((copies[:, :, 2] != inputs[:, 2]).double().mean())
    assert 0.02 < changed < 0.1


def test_whole_number_tables_stay_whole() -> None:
    form = TabularForm(TabularInput(features=("a", "b"), dtype="int64"))
    inputs = form.hold(np.arange(12).reshape(6, 2))
    copies = form.copies(inputs, SETTINGS, seeded())
    assert torch.equal(copies, copies.round())
    assert form.serve(copies[0], torch.int64).dtype == torch.int64


def test_texts_lose_a_tenth_of_their_tokens_and_never_all() -> None:
    form = TextForm(TEXT)
    inputs = form.hold(np.array([[5, 6, 7, 8, 9, 4], [3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]))
    copies = form.copies(inputs, SETTINGS, seeded())
    assert ((copies == inputs) | (copies == 0)).all()
    assert (copies[:, 1] == inputs[1]).all(), "the only token stays"
    lost = float((copies[:, 0] == 0).double().mean())
    assert lost == pytest.approx(0.1, abs=0.02)
    everything = HybridSettings(copies=50, severity=10)
    assert ((form.copies(inputs, everything, seeded())[:, 0] != 0).sum(dim=-1) >= 1).all()


def test_mixtures_are_made_of_both_and_of_nothing_else() -> None:
    inputs = rows()
    partners = inputs.flip(0)
    mixed = TabularForm(TABLE).mix(inputs, partners, 0.75, seeded())
    assert torch.allclose(mixed[:, :2], 0.75 * inputs[:, :2] + 0.25 * partners[:, :2])
    assert ((mixed[:, 2] == inputs[:, 2]) | (mixed[:, 2] == partners[:, 2])).all()
    ones, twos = torch.ones((200, 6), dtype=torch.int64), torch.full((200, 6), 2)
    tokens = TextForm(TEXT).mix(ones, twos, 0.75, seeded())
    assert ((tokens == 1) | (tokens == 2)).all()
    assert (tokens == 2).any()
    assert float((tokens == 1).double().mean()) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("spec", [TABLE, TEXT, ImageInput(height=4, width=4)])
def test_one_seed_one_variation_and_the_global_generator_is_left_alone(
    spec: ImageInput | TabularInput | TextInput,
) -> None:
    form = form_of(spec)
    inputs = form.hold(np.random.default_rng(0).integers(0, 3, size=(9, *spec.shape)))
    few = HybridSettings(copies=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second, other = (form.copies(inputs, few, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dtype == inputs.dtype


def test_what_is_no_row_or_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"instances of shape \(3,\), got an array of shape \(2, 4\)"):
        TabularForm(TABLE).hold(np.zeros((2, 4)))
    with pytest.raises(InputError, match="whole numbers, got fractions"):
        TextForm(TEXT).hold(np.full((1, 6), 0.5))
