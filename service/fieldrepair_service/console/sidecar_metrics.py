"""One answer of a sidecar's ``/metrics``: fetched within bounds, and read, or explained where it cannot be."""

from __future__ import annotations

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fieldrepair_service.console.sidecar_addresses import SidecarAddress
from fieldrepair_service.console.traffic import SidecarReport
from fieldrepair_service.console.traffic_metrics import is_sidecars, read_report
from fieldrepair_service.errors import InputError

MOST_BYTES = 256 * 1024
"""Of an answer. A sidecar's metrics are about a tenth of that."""

# What the parser and int() say about text that is none of Prometheus' form.
_UNREADABLE = (ValueError, IndexError, KeyError, OverflowError)


class UnusableAnswer(InputError):  # noqa: N818 - says what it is
    """Something answers, and not as a sidecar does; the message says what was expected and what came."""


async def fetch_metrics(client: httpx.AsyncClient, address: SidecarAddress) -> str:
    """The text of ``/metrics``, of :data:`MOST_BYTES` at most.

    Raises:
        httpx.HTTPError: there is no answer.
        UnusableAnswer: it is not 200, or too large.
    """
    headers = {"host": address.name.authority, "accept-encoding": "identity"}
    # The certificate is the host name's, whichever of its addresses is asked.
    extensions = {"sni_hostname": address.name.host}
    body = bytearray()
    async with client.stream("GET", f"{address.url}/metrics", headers=headers, extensions=extensions) as answer:
        if answer.status_code != 200:
            raise UnusableAnswer(f"answers {answer.status_code} to GET /metrics, expected 200")
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                raise UnusableAnswer(f"answers GET /metrics with more than {MOST_BYTES} bytes, expected a sidecar's")
    return body.decode("utf-8", "replace")


def read_metrics(text: str, url: str) -> SidecarReport:
    """What the text says.

    Args:
        text: in Prometheus' form, as it came just now.
        url: where it came from.

    Raises:
        UnusableAnswer: it is not a sidecar's or mirror's.
    """
    try:
        families = list(text_string_to_metric_families(text))
        if is_sidecars(families):
            return read_report(families, name=url, at=time.monotonic())
    except _UNREADABLE as error:
        raise UnusableAnswer(f"answers GET /metrics with what cannot be read as metrics: {error!r}"[:300]) from error
    raise UnusableAnswer("answers GET /metrics, but not with the metrics of a sidecar or mirror")
