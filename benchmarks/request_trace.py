"""What traces cost the request path, in processor time: ``python -m benchmarks.request_trace``.

Only what the traffic event loop does for them; the spans themselves are made in another process. Processor time of the
thread is measured, and the best of several rounds counts, so that other programs disturb little.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import thread_time
from types import SimpleNamespace

from opentelemetry.sdk.trace import TracerProvider

from fieldrepair_service.request_head import RequestHead
from fieldrepair_service.request_trace import RequestTraces

ROUNDS, REQUESTS = 7, 3_000
TRACE = b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
COMMON = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"10"), (b"user-agent", b"y")]


def main() -> int:
    """Measure, and print a line for each case."""
    traces = RequestTraces(TracerProvider(shutdown_on_exit=False).sampler, lambda line: True)

    def traced(head: RequestHead) -> None:
        traces.enter(head)
        traces.leave(head, 200, 0.0, "mlflow", None)

    for name, flags in (("in the client's trace", b"01"), ("in a new trace", None), ("not sampled", b"00")):
        print(f"{name:<24} {microseconds(traced, flags):>6.2f} us per request")
    traces.close()

    proxy = SimpleNamespace(traces=None)

    def off(_head: RequestHead) -> None:
        if proxy.traces is not None or proxy.traces is not None:  # at a request's begin and end
            raise AssertionError

    print(f"{'traces off':<24} {microseconds(off, None) - microseconds(lambda _: None, None):>6.2f} us per request")
    return 0


def microseconds(work: Callable[[RequestHead], None], flags: bytes | None) -> float:
    """Processor time of one call, the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        heads = [head(flags) for _ in range(REQUESTS)]
        began = thread_time()
        for each in heads:
            work(each)
        best = min(best, (thread_time() - began) / REQUESTS)
    return best * 1e6


def head(flags: bytes | None) -> RequestHead:
    """A request with the headers of a usual client, and a ``traceparent`` with these flags."""
    headers = [*COMMON, *([] if flags is None else [(b"traceparent", b"00-%s-%s" % (TRACE, flags))])]
    return RequestHead(
        b"POST", b"/invocations", b"/invocations", headers, list(headers), 10, False, False, True, True, True
    )


if __name__ == "__main__":
    sys.exit(main())
