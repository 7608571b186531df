from typing import Any

import numpy as np
import numpy.typing as npt

class HDBSCAN:
    def __init__(
        self,
        min_cluster_size: int = 5,
        min_samples: int | None = None,
        *,
        metric: str = "euclidean",
        copy: bool = False,
    ) -> None: ...
    def fit_predict(self, X: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]: ...

def kmeans_plusplus(
    X: npt.NDArray[np.float32],
    n_clusters: int,
    *,
    random_state: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]: ...

class KMeans:
    labels_: npt.NDArray[np.int32]
    cluster_centers_: npt.NDArray[np.float32]
    def __init__(self, n_clusters: int = 8, *, n_init: int = 1, random_state: int | None = None) -> None: ...
    def fit(self, X: npt.NDArray[np.floating[Any]]) -> KMeans: ...
    def predict(self, X: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int32]: ...
