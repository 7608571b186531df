from typing import Any

import numpy as np
import numpy.typing as npt

class PCA:
    def __init__(self, n_components: int | None = None, *, random_state: int | None = None) -> None: ...
    def fit_transform(self, X: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]: ...
