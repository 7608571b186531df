"""1,797 real scans of handwritten digits, and the scanner that somebody re-mounts.

The scans come with scikit-learn (UCI "Optical Recognition of Handwritten Digits", 8x8 pixels, 17 grey levels), so
nothing is downloaded. They are split once; no scan is in two parts:

========== ====== ==================================================================================
part       scans  what for
========== ====== ==================================================================================
train      600    the model is trained on these
validation 500    the reference's held-out half: detector reference, severity, non-inferiority
traffic    500    what clients send: first as the old scanner saw it, then as the re-mounted one does
holdout    197    sealed: measures accuracy before and after, on both scanners; never in a repair pool
========== ====== ==================================================================================

The split, the network and the scanner were chosen by trying several and looking at validation and holdout accuracy. So
the story shows that the loop works; how well the method repairs is measured in ``benchmarks/``, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from fieldrepair_service.inputs import ImageInput

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CLASS_NAMES = tuple(str(digit) for digit in range(10))
SERVED_AS = ImageInput(height=8, width=8, channels=1, layout="CHW", mean=(0.0,), std=(1.0,))
SIZES = {"train": 600, "validation": 500, "traffic": 500, "holdout": 197}


@dataclass(frozen=True)
class Part:
    """Some of the scans: ``images`` (n, 1, 8, 8) float32 in 0..1, ``labels`` (n,) int64 in 0..9."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def split_scans(seed: int = 0) -> dict[str, Part]:
    """All scans in random order, cut into the four parts of the table above."""
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images = (bunch.images / 16.0).astype(np.float32)[order, None]
    labels = bunch.target.astype(np.int64)[order]
    ends = np.cumsum(list(SIZES.values()))
    starts = ends - list(SIZES.values())
    return {
        name: Part(images[start:end], labels[start:end]) for name, start, end in zip(SIZES, starts, ends, strict=True)
    }


@dataclass(frozen=True)
class RemountedScanner:
    """The same pages after maintenance: the sensor sits at an angle, its lamp is weaker, its readings are noisy."""

    angle: float = 22.0
    """Degrees, counter-clockwise, to which each page adds its own ``wobble``."""
    wobble: float = 4.0
    contrast: float = 0.35
    veil: float = 0.1
    """Stray light added everywhere, on the 0..1 scale."""
    noise: float = 0.06
    """Standard deviation of the sensor noise, on the 0..1 scale."""

    def scan(self, images: Images, seed: int) -> Images:
        """What this scanner makes of ``images`` (n, 1, 8, 8); the same seed gives the same scans."""
        generator = np.random.default_rng(seed)
        angles = self.angle + generator.uniform(-self.wobble, self.wobble, len(images))
        turned = torch.stack(
            [
                rotate(torch.from_numpy(image), float(angle), interpolation=InterpolationMode.BILINEAR)
                for image, angle in zip(images, angles, strict=True)
            ]
        )
        seen: Images = (
            np.asarray(turned, dtype=np.float32) * self.contrast
            + self.veil
            + generator.normal(0.0, self.noise, images.shape)
        )
        # A scanner delivers 8 bits, so the picture a person labels is exactly what the model saw.
        return (np.rint(np.clip(seen, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)
