"""How the field is turned and how near it is, told by the labels: each says which way of undoing lets the model see.

A camera that hangs askew turns every image. Which way, and whether all alike, nobody tells. But where the model reads a
labelled input as its label says once it is turned back by 30 degrees, it was turned by 30. Over all labels this is a
mixture, whose shares are found by expectation maximisation (Saerens et al., Neural Computation 2002, find class shares
so). Reference images are then turned as the field is, in these shares.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldrepair_plugin.affine import seen_through
from fieldrepair_plugin.batch_norm import measure_statistics
from fieldrepair_plugin.repairable import RepairableModel, blocks, weights_of

log = logging.getLogger(__name__)

POSES: tuple[tuple[float, float], ...] = (
    (0.0, 1.0),
    *((float(turn), 1.0) for turn in (-60, -45, -30, -15, 15, 30, 45, 60)),
    (0.0, 0.75),
    (0.0, 1 / 0.75),
)
"""Ways to undo that are tried: degrees to turn by, and how much is then seen (below 1: less, and magnified)."""
_BATCHES = 5
"""Batches of 256 that statistics are measured on for each."""
_ROUNDS = 50
"""Of expectation maximisation."""
_LEAST = 0.05
"""A share below this is taken for chance."""


@dataclass(frozen=True)
class FieldPose:
    """How images of the field are turned and scaled against those of the reference."""

    shares: Tensor
    """``(len(POSES),)``, of the field's inputs that each way of undoing sets right; they sum to 1."""

    @classmethod
    def of(
        cls, model: RepairableModel, field: Tensor, labelled: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> FieldPose:
        """Find the shares by the unrepaired model's answers.

        Args:
            model: a working copy with the old weights; it is afterwards as it was.
            field: ``(n, channels, height, width)`` pixels, the pool.
            labelled: inputs of the field that people labelled, and their classes ``(m,)``.
            generator: which inputs the statistics of batch norms are measured on.
        """
        before = weights_of(model.module)
        some = field[torch.randperm(len(field), generator=generator)[: _BATCHES * 256]]
        inputs, classes = labelled
        said: list[Tensor] = []
        for turn, zoom in POSES:
            undone, asked = (_undone(part, turn, zoom) for part in (some, inputs))
            measure_statistics(model, undone, undone[:0], 0.0, 256, generator)
            logits, _ = model.logits_and_embeddings(asked, 256)
            said.append(torch.from_numpy(logits).double().softmax(dim=1)[torch.arange(len(classes)), classes])
        model.module.load_state_dict(before)
        shares = mixture_shares(torch.stack(said, dim=1))
        found = {POSES[at]: round(float(share), 2) for at, share in enumerate(shares) if share > 0}
        log.info("the field, by (degrees, zoom) that undo it: %s", found)
        return cls(shares)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Turns in radians and zooms, ``(count,)`` each, that make reference images lie as those of the field do."""
        drawn = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        undo = torch.tensor(POSES)[drawn]
        return -undo[:, 0] * (math.pi / 180), 1 / undo[:, 1]


def mixture_shares(likelihoods: Tensor, least: float = _LEAST) -> Tensor:
    """Shares of a mixture whose components are given: the most likely ones, small ones taken out.

    Args:
        likelihoods: ``(m, components)``, of each observation under each component.
        least: what is smaller counts for nothing.

    Returns:
        ``(components,)`` that sum to 1.
    """
    shares = torch.full((likelihoods.shape[1],), 1 / likelihoods.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):
        weighted = likelihoods * shares
        shares = (weighted / weighted.sum(dim=1, keepdim=True).clamp_min(1e-12)).mean(dim=0)
    shares = torch.where(shares >= min(least, float(shares.max())), shares, 0.0)
    return shares / shares.sum()


def bent(
    images: Tensor, turn: Tensor, zoom: Tensor, shear: Tensor | None = None, moved: Sequence[Tensor] | None = None
) -> Tensor:
    """Images turned, scaled, sheared and moved, black where nothing was seen.

    Args:
        images: ``(n, channels, height, width)`` float32.
        turn: ``(n,)`` radians.
        zoom: ``(n,)``; above 1 more is seen, and smaller.
        shear: ``(n,)``; none by default.
        moved: right and down, ``(n,)`` each, in halves of the side; not moved by default.
    """
    nothing = torch.zeros_like(turn)
    right, down = moved or (nothing, nothing)
    sheared = nothing if shear is None else shear
    matrices = torch.stack(
        [
            torch.stack([turn.cos() * zoom, sheared - turn.sin() * zoom, right], dim=1),
            torch.stack([turn.sin() * zoom, turn.cos() * zoom, down], dim=1),
        ],
        dim=1,
    )
    return seen_through(images, matrices)


def in_whole_pixels(images: Tensor, vary: Callable[[Tensor], Tensor]) -> Tensor:
    """Images varied a few at a time, as bytes again: photographs are large.

    Args:
        images: ``(n, channels, height, width)`` uint8.
        vary: takes some of them as float32, and leaves pixels within 0..255.
    """
    return torch.cat([vary(block.float()).round().to(torch.uint8) for block in blocks(images, 100)])


def _undone(images: Tensor, turn: float, zoom: float) -> Tensor:
    """All turned and scaled alike."""

    def undo(block: Tensor) -> Tensor:
        return bent(block, torch.full((len(block),), math.radians(turn)), torch.full((len(block),), zoom))

    return in_whole_pixels(images, undo)
