import torch
from torch import nn

class GaussianRBF(nn.Module):
    def __init__(self, sigma: torch.Tensor | None = ..., *, trainable: bool = ...) -> None: ...

class DeepKernel(nn.Module):
    def __init__(
        self, proj: nn.Module, kernel_a: nn.Module = ..., kernel_b: nn.Module | None = ..., eps: float = ...
    ) -> None: ...
