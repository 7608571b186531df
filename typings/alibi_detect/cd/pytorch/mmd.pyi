"""The part of alibi-detect's PyTorch MMD detector that fieldrepair uses."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

class _GaussianRBF(nn.Module):
    @property
    def sigma(self) -> torch.Tensor: ...

class MMDDriftTorch:
    p_val: float
    n_permutations: int
    device: torch.device
    kernel: _GaussianRBF

    def __init__(
        self,
        x_ref: npt.NDArray[np.float32],
        p_val: float = ...,
        x_ref_preprocessed: bool = ...,
        *,
        n_permutations: int = ...,
        device: str | None = ...,
    ) -> None: ...
    def preprocess(self, x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...
    def kernel_matrix(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...
    def score(self, x: npt.NDArray[np.float32]) -> tuple[float, float, float]: ...
    def predict(self, x: npt.NDArray[np.float32]) -> dict[str, dict[str, Any]]: ...
