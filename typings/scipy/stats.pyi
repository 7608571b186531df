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

class PowerDivergenceResult:
    pvalue: float

def chisquare(f_obs: npt.NDArray[np.float64], f_exp: npt.NDArray[np.float64]) -> PowerDivergenceResult: ...
def entropy(
    pk: npt.NDArray[np.floating[Any]], *, base: float | None = None, axis: int = 0
) -> npt.NDArray[np.float64]: ...

class _Normal:
    def ppf(self, q: float) -> np.float64: ...
    def isf(self, q: float) -> np.float64: ...

class _ChiSquare:
    def logsf(self, x: float, df: float) -> np.float64: ...

class _F:
    def logsf(self, x: float, dfn: float, dfd: float) -> np.float64: ...

norm: _Normal
chi2: _ChiSquare
f: _F

class _TestResult(NamedTuple):
    statistic: float
    pvalue: float

def fisher_exact(table: list[list[int]]) -> tuple[float, float]: ...
def false_discovery_control(ps: list[float]) -> npt.NDArray[np.float64]: ...
def chi2_contingency(
    observed: npt.NDArray[np.integer[Any] | np.floating[Any]],
    correction: bool = True,
    lambda_: Literal["pearson", "log-likelihood"] = "pearson",
) -> _TestResult: ...
def kstest(
    rvs: list[float], cdf: Literal["uniform"], *, alternative: Literal["two-sided", "less", "greater"] = "two-sided"
) -> _TestResult: ...
def ks_2samp(data1: npt.NDArray[np.floating[Any]], data2: npt.NDArray[np.floating[Any]]) -> _TestResult: ...
