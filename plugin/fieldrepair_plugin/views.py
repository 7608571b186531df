"""Weak and strong views of inputs, on whole batches of tensors: a few milliseconds for a hundred small images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.field_look import FieldLook
from fieldrepair_plugin.field_pose import FieldPose, bent
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_service.inputs import ImageInput

_MIRROR_LOSS = 0.05
"""Share of its accuracy that a model may lose on mirrored reference images for mirroring to count as harmless."""


@dataclass(frozen=True)
class Views:
    """Makes views. Randomness comes from the given CPU generator, each input draws its own numbers."""

    model: RepairableModel
    settings: HybridSettings
    mirror: bool
    """Mirror images left to right, half of them."""
    look: FieldLook | None = None
    """How the field looks; of images, where it was found out."""
    pose: FieldPose | None = None
    """How the field lies; likewise."""

    @classmethod
    def of(cls, model: RepairableModel, training: Tensor, classes: Tensor, settings: HybridSettings) -> Views:
        """Views for a model: images are mirrored if the model reads its reference images mirrored as well as before.

        A cat mirrored is a cat, a 2 mirrored is nothing; which it is here, the model was taught and we were not told.

        Args:
            model: the model under repair, as it was given.
            training: ``(r, *form.shape)`` reference inputs; the first 2,000 are tried.
            classes: ``(r,)``.
            settings: batch size of the trial, and how non-images are varied.
        """
        mirror = False
        if isinstance(model.input, ImageInput):
            some, truth = training[:2000], classes[:2000]
            right = [
                int((torch.from_numpy(logits).argmax(dim=1) == truth).sum())
                for logits, _ in (
                    model.logits_and_embeddings(images, settings.inference_batch_size)
                    for images in (some, some.flip(-1))
                )
            ]
            mirror = right[1] >= (1 - _MIRROR_LOSS) * right[0]
        return cls(model, settings, mirror)

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
        return _cut_out(_lit(_bent(images, generator), generator), generator)

    def like_field(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Reference inputs as they would be in the field, and then varied as strongly.

        Args and result as for :meth:`weak`.
        """
        if not isinstance(self.model.input, ImageInput):
            return self.strong(inputs, generator)
        images = self._mirrored(inputs.float(), generator)
        if self.look is not None:
            images = self.look.show(images, generator)
        return _cut_out(_lit(_bent(images, generator, self.pose), generator), generator)

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


def _bent(images: Tensor, generator: torch.Generator, pose: FieldPose | None = None) -> Tensor:
    """Turned by up to 20 degrees, scaled and sheared by up to a fifth, moved by up to 7 % of the side; on top of that
    as the field is."""
    count = len(images)
    turn, zoom, shear, right, down = torch.rand(5, count, generator=generator).mul(2).sub(1)
    turn, zoom = turn * math.radians(20), torch.exp(0.2 * zoom)
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
