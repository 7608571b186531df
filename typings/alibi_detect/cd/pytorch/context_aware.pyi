import numpy as np
import numpy.typing as npt
import torch
from torch import nn

class ContextMMDDriftTorch:
    lams: tuple[torch.Tensor, torch.Tensor] | None

    def __init__(
        self,
        x_ref: npt.NDArray[np.float32],
        c_ref: npt.NDArray[np.float32],
        p_val: float = ...,
        x_ref_preprocessed: bool = ...,
        *,
        x_kernel: nn.Module = ...,
        c_kernel: nn.Module = ...,
        n_permutations: int = ...,
        device: str | None = ...,
    ) -> None: ...
    # Private there, and the only way to its choice of the regularisation.
    def _pick_lam(self, lams: torch.Tensor, K: torch.Tensor, L: torch.Tensor, n_folds: int = ...) -> torch.Tensor: ...
    def _cmmd(
        self, K: torch.Tensor, L: torch.Tensor, bools: torch.Tensor, L_held: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]: ...
