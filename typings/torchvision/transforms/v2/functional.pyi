from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

def rotate(inpt: Tensor, angle: float, interpolation: InterpolationMode = ..., expand: bool = False) -> Tensor: ...
