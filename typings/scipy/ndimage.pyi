import numpy as np
import numpy.typing as npt

def rotate(
    input: npt.NDArray[np.float32],
    angle: float,
    axes: tuple[int, int] = (1, 0),
    reshape: bool = True,
    *,
    order: int = 3,
) -> npt.NDArray[np.float32]: ...
