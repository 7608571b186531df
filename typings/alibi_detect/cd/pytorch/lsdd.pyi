import numpy as np
import numpy.typing as npt
import torch

class LSDDDriftTorch:
    H: torch.Tensor
    k_xc: torch.Tensor
    kernel_centers: torch.Tensor

    def __init__(
        self,
        x_ref: npt.NDArray[np.float32],
        p_val: float = ...,
        x_ref_preprocessed: bool = ...,
        *,
        n_permutations: int = ...,
        n_kernel_centers: int | None = ...,
        device: str | None = ...,
    ) -> None: ...
    def kernel(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...
    # Private there, and the only way to the normalisation it applies to windows.
    def _normalize(self, x: torch.Tensor) -> torch.Tensor: ...
