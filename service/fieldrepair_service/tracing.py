"""Traces for OpenTelemetry: off unless asked for, and then spans go to a collector by OTLP over HTTP.

Asked for by ``--otlp-endpoint``, or by OpenTelemetry's own environment variables. The SDK is imported only then, and
is an extra (``fieldrepair[tracing]``). What it knows from its variables (sampler, resource, headers, time limits,
batches) is left to it. Nothing is registered globally: MLflow, which traces by the same SDK, keeps its own provider.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from fieldrepair_service.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Span, SpanContext

logger = logging.getLogger(__name__)

Attribute = str | int | float | bool | Sequence[str]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = ("otlp", "console", "none")
_LAST_SECONDS = 3.0  # for what has not been sent when the process ends


@dataclass(frozen=True)
class SpanRef:
    """A span by its ids, wherever it was made."""

    trace_id: int
    span_id: int

    @classmethod
    def named(cls, key: str) -> SpanRef:
        """Ids that follow from a name, so that two processes agree on them without telling each other."""
        digest = hashlib.blake2b(key.encode(), digest_size=24, person=b"fieldrepair").digest()
        return cls(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big"))


class TraceSpan(Protocol):
    """A span under way."""

    @property
    def ref(self) -> SpanRef | None:
        """Its ids; None if it is not recorded."""
        ...

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes, as ``fieldrepair.NAME``; those that are None are left out."""
        ...


class Tracing(Protocol):
    """Makes spans, or does not."""

    def span(
        self,
        name: str,
        *,
        parent: SpanRef | None = None,
        root: bool = False,
        ids: SpanRef | None = None,
        link: SpanRef | None = None,
        **attributes: Attribute | None,
    ) -> AbstractContextManager[TraceSpan]:
        """A span around a block; what the block raises is recorded with it.

        Args:
            name: what happens, in few words that are the same each time.
            parent: the span it belongs to. Default: the one this code runs in, else none.
            root: whether it begins a trace of its own, whatever this code runs in.
            ids: its own ids. Default: new ones.
            link: another span that has to do with it.
            attributes: as ``fieldrepair.NAME``; those that are None are left out.
        """
        ...

    def close(self) -> None:
        """Send what is there, for at most three seconds."""
        ...


class _NoSpan:
    ref = None

    def set(self, **attributes: Attribute | None) -> None:
        del attributes


class NoTracing:
    """Tracing that is off."""

    def span(
        self,
        name: str,
        *,
        parent: SpanRef | None = None,
        root: bool = False,
        ids: SpanRef | None = None,
        link: SpanRef | None = None,
        **attributes: Attribute | None,
    ) -> AbstractContextManager[TraceSpan]:
        """Nothing around a block."""
        del name, parent, root, ids, link, attributes
        return nullcontext(_NoSpan())

    def close(self) -> None:
        """Nothing to send."""


NO_TRACING = NoTracing()


class OpenTelemetry:
    """Tracing that is on.

    Args:
        part: the process, as ``service.name`` says it: ``fieldrepair-<part>``, unless the environment names it.
        exporter: where spans go, in batches and on a thread of its own.
    """

    def __init__(self, part: str, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.provider: TracerProvider = TracerProvider(
            resource=_resource(part), shutdown_on_exit=False, id_generator=_ids()
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("fieldrepair", version("fieldrepair"))

    @contextmanager
    def span(
        self,
        name: str,
        *,
        parent: SpanRef | None = None,
        root: bool = False,
        ids: SpanRef | None = None,
        link: SpanRef | None = None,
        **attributes: Attribute | None,
    ) -> Generator[TraceSpan]:
        """A span around a block."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, use_span

        context = Context() if root else None if parent is None else context_of(parent)
        with using_ids(ids):
            span = self.tracer.start_span(
                name,
                context=context,
                links=None if link is None else [Link(_span_context(link))],
            )
        made = _LiveSpan(span)
        made.set(**attributes)
        with use_span(span, end_on_exit=True):
            yield made

    def close(self) -> None:
        """Send what is there. A collector that does not answer holds nobody up for long."""
        last = threading.Thread(target=self.provider.shutdown, name="fieldrepair-last-spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        if last.is_alive():
            logger.warning("the last spans were not sent within %.0f s", _LAST_SECONDS)


class _LiveSpan:
    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def ref(self) -> SpanRef | None:
        context = self._span.get_span_context()
        return SpanRef(context.trace_id, context.span_id) if self._span.is_recording() else None

    def set(self, **attributes: Attribute | None) -> None:
        self._span.set_attributes(
            {f"fieldrepair.{name}": value for name, value in attributes.items() if value is not None}
        )


def open_tracing(part: str, endpoint: str | None) -> Tracing:
    """Tracing for this process, on if setting or environment ask for it.

    Serving comes first: what is wrong with OpenTelemetry's variables, which a platform may set for all its processes,
    is a warning, and tracing is off. What is wrong with our own setting is an error.

    Args:
        part: name of the process.
        endpoint: the setting ``otlp_endpoint``.

    Raises:
        ConfigurationError: the setting asks for what cannot be.
    """
    return OpenTelemetry(part, _exporter(endpoint)) if _possible(endpoint) else NO_TRACING


def check_tracing(endpoint: str | None) -> None:
    """Complain as :func:`open_tracing` does; for processes whose children trace."""
    _possible(endpoint)


def open_sampler(endpoint: str | None) -> Sampler | None:
    """What decides which requests are traced; None where tracing is off. Complains as :func:`open_tracing` does."""
    if not _possible(endpoint):
        return None
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider(shutdown_on_exit=False).sampler


def _possible(endpoint: str | None) -> bool:
    if not wanted(endpoint):
        return False
    if problem := _problem(endpoint):
        if endpoint is not None:
            raise ConfigurationError(f"otlp_endpoint={endpoint}: {problem}")
        logger.warning("no traces: %s", problem)
    return not problem


def wanted(endpoint: str | None) -> bool:
    """Whether setting or environment ask for traces."""
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or _named_exporter() == "none":
        return False
    return endpoint is not None or _named_exporter() != "" or any(env.get(name) for name in _ENDPOINTS)


def _problem(endpoint: str | None) -> str:
    """Why there cannot be traces; empty if there can."""
    if not _installed():
        return "the package opentelemetry-exporter-otlp-proto-http is not installed: pip install 'fieldrepair[tracing]'"
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        return "expected the URL of a collector, say http://127.0.0.1:4318"
    name = _named_exporter()
    if name not in ("", *_EXPORTERS):
        return f"OTEL_TRACES_EXPORTER must be one of {', '.join(_EXPORTERS)}, got {name!r}"
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        return f"spans are sent by http/protobuf, got OTEL_EXPORTER_OTLP_PROTOCOL={protocol}"
    return ""


def _installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _named_exporter() -> str:
    return os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()


def _exporter(endpoint: str | None) -> SpanExporter:
    if _named_exporter() == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(None if endpoint is None else endpoint.rstrip("/") + "/v1/traces")


def _resource(part: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    about = {"service.namespace": "fieldrepair", "service.version": version("fieldrepair")}
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in os.environ
    return Resource.create(about if named else {**about, "service.name": f"fieldrepair-{part}"})


# -- spans of given ids ------------------------------------------------------------------------------------------------

_given: ContextVar[SpanRef | None] = ContextVar("fieldrepair-span-ids", default=None)


@contextmanager
def using_ids(ids: SpanRef | None) -> Generator[None]:
    """Spans that begin in this block get these ids (the trace's only if they have no parent)."""
    token = _given.set(ids)
    try:
        yield
    finally:
        _given.reset(token)


def _ids() -> IdGenerator:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class GivenIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            given = _given.get()
            return super().generate_trace_id() if given is None else given.trace_id

        def generate_span_id(self) -> int:
            given = _given.get()
            return super().generate_span_id() if given is None else given.span_id

    return GivenIds()


def context_of(ref: SpanRef) -> Context:
    """The context in which a span of this process is a child of that one."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(_span_context(ref)), Context())


def _span_context(ref: SpanRef) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(ref.trace_id, ref.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
