from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_Scores = npt.NDArray[np.float64]

def classifier_uncertainty(
    x: _Scores, model_fn: Callable[[_Scores], _Scores], preds_type: str = ..., uncertainty_type: str = ...
) -> npt.NDArray[np.float64]: ...
