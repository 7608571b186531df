"""Cases nobody tuned for: ``python -m benchmarks.made_case CASE.npz ... --shift blur,noise --to FOLDER``.

A made case is a case whose field and holdout images are changed on top of its own shift; the old world and the model
under repair stay as they are. It shows how a recipe does on shifts that it was not developed on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import (
    adjust_gamma,
    erase,
    gaussian_blur,
    gaussian_noise,
    invert,
    to_dtype,
)

from benchmarks.case import channels_first, read_arrays
from fieldrepair_service.errors import InputError

Shift = Callable[[Tensor], Tensor]

SHIFTS: dict[str, Shift] = {
    "blur": lambda images: gaussian_blur(images, [5, 5], [1.2, 1.2]),
    "dark": lambda images: adjust_gamma(images, gamma=2.0, gain=0.6),
    "inverted": invert,
    "noise": lambda images: to_dtype(gaussian_noise(to_dtype(images, scale=True), sigma=0.12), torch.uint8, scale=True),
    "occluded": lambda images: torch.stack([_occluded(image) for image in images]),
}
"""Changes of ``(n, channels, height, width)`` uint8 images, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the cases; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.made_case", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz")
    parser.add_argument("--shift", default=",".join(SHIFTS), help=f"comma-separated: {', '.join(SHIFTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--to", type=Path, required=True, help="folder for NAME_SHIFT.npz, and NAME_SHIFT.pt if there is NAME.pt"
    )
    options = parser.parse_args(arguments)
    for path in options.cases:
        for shift in options.shift.split(","):
            print(f"wrote {make_case(path, shift, options.seed, options.to)}")
    return 0


def make_case(path: Path, shift: str, seed: int, folder: Path) -> Path:
    """Write one made case.

    Args:
        path: the case it is made of.
        shift: one of :data:`SHIFTS`.
        seed: fixes the random draws of the shift.
        folder: gets ``NAME_SHIFT.npz``, and the model under repair beside it if the case has one.

    Raises:
        InputError: for an unknown shift, or a file that is not an image case.
    """
    if shift not in SHIFTS:
        raise InputError(f"expected a shift out of {', '.join(SHIFTS)}; got {shift}")
    arrays = read_arrays(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in ("field_x", "holdout_x"):
            arrays[name] = _shifted(arrays[name], SHIFTS[shift])
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{path.stem}_{shift}.npz"
    np.savez(made, **arrays)
    if (model := path.with_suffix(".pt")).exists():
        shutil.copyfile(model, made.with_suffix(".pt"))
    return made


def _occluded(image: Tensor) -> Tensor:
    """Black out a rectangle of about a third of the height and of the width, anywhere."""
    height, width = image.shape[1:]
    rows, columns = height // 3, width // 3
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    return erase(image, top, left, rows, columns, torch.zeros((), dtype=image.dtype))


def _shifted(images: npt.NDArray[Any], shift: Shift) -> npt.NDArray[Any]:
    pixels = torch.from_numpy(channels_first(images).copy())
    changed = cast("npt.NDArray[np.uint8]", shift(pixels).numpy())
    return changed[:, 0] if images.ndim == 3 else changed.transpose(0, 2, 3, 1)


if __name__ == "__main__":
    raise SystemExit(main())
