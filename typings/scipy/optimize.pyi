from collections.abc import Callable

def brentq(f: Callable[[float], float], a: float, b: float, *, xtol: float = ..., maxiter: int = ...) -> float: ...

class OptimizeResult:
    x: float

def minimize_scalar(
    fun: Callable[[float], float], *, bounds: tuple[float, float], options: dict[str, float] | None = None
) -> OptimizeResult: ...
