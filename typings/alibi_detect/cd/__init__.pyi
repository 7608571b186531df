from typing import Any

import numpy as np
import numpy.typing as npt

class KSDrift:
    def __init__(self, x_ref: npt.NDArray[np.float32], p_val: float = ...) -> None: ...
    def feature_score(
        self, x_ref: npt.NDArray[np.float32], x: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...

class MMDDriftOnline:
    _detector: Any
    def __init__(
        self,
        x_ref: npt.NDArray[np.float32],
        ert: float,
        window_size: int,
        *,
        backend: str = ...,
        n_bootstraps: int = ...,
        verbose: bool = ...,
        device: str | None = ...,
    ) -> None: ...
