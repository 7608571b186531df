from typing import Any

import numpy as np
import numpy.typing as npt

class NearestNeighbors:
    def __init__(self, n_neighbors: int = 5, *, metric: str = "minkowski") -> None: ...
    def fit(self, X: npt.NDArray[np.floating[Any]]) -> NearestNeighbors: ...  # noqa: N803
    def kneighbors(self, X: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...  # noqa: N803
