from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

class LinearDiscriminantAnalysis:
    def __init__(self, *, priors: list[float] | None = None) -> None: ...
    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> Self: ...
    def decision_function(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]: ...
