from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_Rows = npt.NDArray[np.float32]

class DistanceResult(NamedTuple):
    distance: np.float64

class StatisticalResult(NamedTuple):
    statistic: np.float64
    p_value: np.float64

class MMD:
    def __init__(self, kernel: Callable[[_Rows, _Rows], npt.NDArray[np.float64]] = ...) -> None: ...
    def fit(self, x: _Rows, /) -> dict[str, Any]: ...
    def compare(self, x: _Rows, /) -> tuple[DistanceResult, dict[str, Any]]: ...

class KSTest:
    def __init__(self) -> None: ...
    def fit(self, x: _Rows, /) -> dict[str, Any]: ...
    def compare(self, x: _Rows, /, *, method: str = ...) -> tuple[StatisticalResult, dict[str, Any]]: ...
