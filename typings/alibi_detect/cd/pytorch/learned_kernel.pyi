from collections.abc import Sequence

import torch
from torch import nn

class LearnedKernelDriftTorch:
    class JHat(nn.Module):
        def __init__(self, kernel: nn.Module, var_reg: float) -> None: ...

    @staticmethod
    def trainer(
        j_hat: JHat,
        dataloaders: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
        device: torch.device,
        *,
        epochs: int = ...,
        verbose: int = ...,
    ) -> None: ...
