from typing import Literal, overload

import numpy as np
import numpy.typing as npt

class _Digits:
    data: npt.NDArray[np.float64]
    images: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]

class _BreastCancer:
    data: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    feature_names: npt.NDArray[np.str_]

@overload
def load_digits(*, return_X_y: Literal[True]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...
@overload
def load_digits() -> _Digits: ...
def load_breast_cancer() -> _BreastCancer: ...
