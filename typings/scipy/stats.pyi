from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

class ConfidenceInterval(NamedTuple):
    low: float
    high: float

class BinomTestResult:
    pvalue: float
    def proportion_ci(
        self, confidence_level: float = 0.95, method: Literal["exact", "wilson", "wilsoncc"] = "exact"
    ) -> ConfidenceInterval: ...

def binomtest(
    k: int, n: int, p: float = 0.5, alternative: Literal["two-sided", "less", "greater"] = "two-sided"
) -> BinomTestResult: ...
def entropy(
    pk: npt.NDArray[np.floating[Any]], *, base: float | None = None, axis: int = 0
) -> npt.NDArray[np.float64]: ...

class _Normal:
    def ppf(self, q: float) -> np.float64: ...

norm: _Normal
