"""The varied copies of a pool that unsmoothness is measured on: the same ones for every model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fieldrepair_plugin.randomness import generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, blocks

MOST_KEPT = 256 * 2**20
"""Bytes of copies that a repair keeps."""


class PoolCopies:
    """Batches of inputs with their copies, drawn by the seed alone.

    Two models measured on them differ by themselves and not by the draw. A repair measures after each epoch; to make
    the copies takes about as long as to measure on them, so it keeps them where they are small enough.
    """

    def __init__(self, model: RepairableModel, inputs: Tensor, settings: HybridSettings, *, most_kept: int = 0) -> None:
        """Nothing is drawn yet.

        Args:
            model: says how inputs are varied, and on which device.
            inputs: ``(n, *form.shape)`` on the CPU.
            settings: how many copies, how strong, and the seed.
            most_kept: bytes of copies that are kept from one measurement to the next; of more, or by default, they are
                made anew each time.
        """
        self._form = model.form
        self._device = model.device
        self._inputs = inputs
        self._settings = settings
        size = inputs.nelement() * inputs.element_size() * settings.copies
        self._keeps = size <= most_kept
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        """Inputs in all."""
        return len(self._inputs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """``(m, *form.shape)`` inputs and ``(copies, m, *form.shape)`` copies of them, on the model's device."""
        settings = self._settings
        batches = blocks(self._inputs, max(1, settings.inference_batch_size // (settings.copies + 1)))
        if self._kept:
            for batch, copies in zip(batches, self._kept, strict=True):
                yield batch.to(self._device), copies
            return
        made: list[Tensor] = []
        generator = generator_for(settings.seed, "unsmoothness")
        for batch in batches:
            inputs = batch.to(self._device)
            copies = self._form.copies(inputs, settings, generator)
            if self._keeps:
                made.append(copies)
            yield inputs, copies
        self._kept = made
