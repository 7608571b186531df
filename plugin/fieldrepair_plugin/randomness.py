"""Randomness that belongs to a repair: one seed, one stream per purpose; the process's own are left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, the same on every machine.

    Each epoch has its own, so a repair continued from a checkpoint needs no generator's state to go on exactly.

    Args:
        seed: the repair's seed.
        purpose: what it is for, for example ``("epoch", 3)``.

    Returns:
        A number in 0..2**63-1.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def own_global_state(seed: int, device: torch.device) -> Generator[None]:
    """Let code that can only draw from torch's global generators (dropout, a distribution) draw from ours.

    Inside, the global generators of the CPU and of ``device`` start from ``seed``; afterwards they are as they were.
    They belong to the process: other threads that draw meanwhile would break reproducibility.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed: that also reseeds devices that are not ours and would not be put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
