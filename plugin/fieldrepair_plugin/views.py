"""Weak and strong views of inputs, on whole batches of tensors: a few milliseconds for a hundred small images."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.field_look import FieldLook
from fieldrepair_plugin.field_pose import FieldPose, bent, in_whole_pixels
from fieldrepair_plugin.randomness import generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_service.inputs import ImageInput

log = logging.getLogger(__name__)

_HARMLESS = 0.05
"""Share of its accuracy that a model may lose on varied reference images for the variation to count as harmless."""
_STRENGTHS = (1.0, 0.7, 0.5, 0.3)
"""Of turning, scaling and shearing, the strongest first; the last is taken where none is harmless."""
_TRIED = 2000
"""Reference images that variations are tried on."""


@dataclass(frozen=True)
class Views:
    """Makes views. Randomness comes from the given CPU generator, each input draws its own numbers."""

    model: RepairableModel
    settings: HybridSettings
    mirror: bool
    """Mirror images left to right, half of them."""
    strength: float = 1.0
    """How strongly strong views turn, scale and shear images."""
    look: FieldLook | None = None
    """How the field looks; of images, where it was found out."""
    pose: FieldPose | None = None
    """How the field lies; likewise."""

    @classmethod
    def of(cls, model: RepairableModel, training: Tensor, classes: Tensor, settings: HybridSettings) -> Views:
        """Views for a model, varied as far as it reads its reference images nearly as well as before.

        A cat mirrored is a cat, a 2 mirrored is nothing; a digit leaning by twenty degrees is read, a small photograph
        hardly. Which it is here, the model was taught and we were not told.

        Args:
            model: the model under repair, as it was given.
            training: ``(r, *form.shape)`` reference inputs; the first 2,000 are tried.
            classes: ``(r,)``.
            settings: batch size of the trial, how non-images are varied, and the seed of the trial's draws.
        """
        if not isinstance(model.input, ImageInput):
            return cls(model, settings, mirror=False)
        some, truth = training[:_TRIED], classes[:_TRIED]

        def right(images: Tensor) -> int:
            logits, _ = model.logits_and_embeddings(images, settings.inference_batch_size)
            return int((torch.from_numpy(logits).argmax(dim=1) == truth).sum())

        def bent_by(strength: float) -> Tensor:
            generator = generator_for(settings.seed, "bend")  # the same draws for all strengths
            return in_whole_pixels(some, lambda images: _bent(images, generator, strength=strength))

        least = (1 - _HARMLESS) * right(bent_by(0.0))  # moved only
        strength = next((each for each in _STRENGTHS if right(bent_by(each)) >= least), _STRENGTHS[-1])
        mirror = right(some.flip(-1)) >= (1 - _HARMLESS) * right(some)
        log.info(
            "views: %s, turned and scaled at %.1f of the full strength",
            "mirrored" if mirror else "not mirrored",
            strength,
        )
        return cls(model, settings, mirror, strength)

    def weak(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Images moved by up to a tenth of their side, and mirrored where that is harmless; other inputs unchanged.

        Args:
            inputs: ``(n, *form.shape)``; of images pixels.
            generator: the source of randomness.

        Returns:
            As many, of images float32 pixels.
        """
        if not isinstance(self.model.input, ImageInput):
            return inputs
        return _shifted(self._mirrored(inputs.float(), generator), generator)

    def strong(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Images turned, scaled, sheared, lit, tinted, blurred, noisy and with a piece cut out; of other inputs a copy
        as the paper's recipe varies them.

        Args and result as for :meth:`weak`.
        """
        if not isinstance(self.model.input, ImageInput):
            return self.model.form.copies(inputs, replace(self.settings, copies=1), generator)[0]
        images = self._mirrored(inputs.float(), generator)
        return _cut_out(_lit(_bent(images, generator, strength=self.strength), generator), generator)

    def like_field(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Reference inputs as they would be in the field, and then varied as strongly.

        Args and result as for :meth:`weak`.
        """
        if not isinstance(self.model.input, ImageInput):
            return self.strong(inputs, generator)
        images = self._mirrored(inputs.float(), generator)
        if self.look is not None:
            images = self.look.show(images, generator)
        return _cut_out(_lit(_bent(images, generator, self.pose, self.strength), generator), generator)

    def _mirrored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if not self.mirror:
            return images
        return torch.where(_some(len(images), 0.5, generator, images), images.flip(-1), images)


def _uniform(count: int, low: float, high: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """One number per image, ``(n, 1, 1, 1)``."""
    return (torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low).to(like.device)


def _some(count: int, share: float, generator: torch.Generator, like: Tensor) -> Tensor:
    return (torch.rand(count, 1, 1, 1, generator=generator) < share).to(like.device)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    most = max(1, round(min(height, width) / 10))
    padded = F.pad(images, (most, most, most, most))
    offsets = torch.randint(2 * most + 1, (2, count, 1), generator=generator).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    planes = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[which, planes, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]


def _bent(images: Tensor, generator: torch.Generator, pose: FieldPose | None = None, strength: float = 1.0) -> Tensor:
    """At full strength turned by up to 20 degrees, scaled and sheared by up to a fifth; moved by up to 7 % of the side;
    on top of that as the field is."""
    count = len(images)
    turn, zoom, shear, right, down = torch.rand(5, count, generator=generator).mul(2).sub(1)
    turn, zoom, shear = strength * turn * math.radians(20), torch.exp(0.2 * strength * zoom), strength * shear
    if pose is not None:
        turned, zoomed = pose.draw(count, generator)
        turn, zoom = turn + turned, zoom * zoomed
    numbers = torch.stack([turn, zoom, 0.2 * shear, 0.15 * right, 0.15 * down]).to(images.device)
    turn, zoom, shear, right, down = numbers
    return bent(images, turn, zoom, shear, (right, down))


def _lit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast and brightness, less or more colour, noise, blur: each for some of the images."""
    count = len(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = torch.exp(_uniform(count, -0.7, 0.5, generator, images))
    light = (images - mean) * contrast + mean + 255 * _uniform(count, -0.15, 0.15, generator, images)
    images = torch.where(_some(count, 0.7, generator, images), light, images)
    grey = images.mean(dim=1, keepdim=True)
    tint = grey + (images - grey) * _uniform(count, 0.0, 1.8, generator, images)
    images = torch.where(_some(count, 0.5, generator, images), tint, images)
    noise = 255 * torch.randn(images.shape, generator=generator).to(images.device)
    noisy = images + noise * _uniform(count, 0.0, 0.08, generator, images)
    images = torch.where(_some(count, 0.3, generator, images), noisy, images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(_some(count, 0.25, generator, images), blurred, images).clamp(0, 255)


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of up to 45 % of the side, somewhere, becomes the image's mean (DeVries and Taylor, 2017)."""
    count, _, height, width = images.shape
    side = torch.randint(1, max(2, int(0.45 * min(height, width))), (count, 1), generator=generator)
    middle = [torch.randint(length, (count, 1), generator=generator) for length in (height, width)]
    rows, columns = (
        ((torch.arange(length) - at).abs() * 2 < side).to(images.device)
        for length, at in zip((height, width), middle, strict=True)
    )
    inside = rows.view(count, 1, height, 1) & columns.view(count, 1, 1, width)
    return torch.where(inside, images.mean(dim=(1, 2, 3), keepdim=True), images)
