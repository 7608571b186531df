from enum import Enum

from torch import Tensor

class InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"

class AugMix:
    def __init__(
        self,
        severity: int = 3,
        mixture_width: int = 3,
        chain_depth: int = -1,
        alpha: float = 1.0,
        all_ops: bool = True,
    ) -> None: ...
    def __call__(self, image: Tensor) -> Tensor: ...
