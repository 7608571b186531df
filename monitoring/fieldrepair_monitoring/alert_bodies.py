"""What a message of the outbox looks like to a receiver: plain JSON for programs, blocks for Slack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldrepair_service.case_book import CANDIDATE_WAITING, DRIFT_EVENT_OPENED, Notification

_HEADINGS = {
    DRIFT_EVENT_OPENED: "The field has shifted",
    CANDIDATE_WAITING: "A repaired model waits for approval",
}
_LONGEST = 600
"""Characters of one text: five times as many after escaping, at worst, and Slack takes 3,000."""


def one_line(notification: Notification) -> str:
    """The message for people, in one line."""
    payload = notification.payload
    subject = " ".join(str(payload[key]) for key in ("model_name", "model_version") if key in payload)
    return f"fieldrepair: {subject}: {payload.get('summary', notification.kind)}"


def plain_body(notification: Notification) -> dict[str, object]:
    """All there is to say. Chat systems that show ``text`` show one line; the other fields are for programs."""
    return {
        "kind": notification.kind,
        "text": one_line(notification),
        "notification_id": notification.id,
        "created_ms": notification.created_ms,
        **notification.payload,
    }


def slack_body(notification: Notification) -> dict[str, object]:
    """A message for Slack's incoming webhooks: blocks, and ``text`` for notifications that show no blocks.

    Slack reads ``&``, ``<`` and ``>`` as markup, so names and reasons are escaped as it asks for.
    """
    payload = notification.payload
    heading = _HEADINGS.get(notification.kind, notification.kind.replace("_", " "))
    fields = [_field(name, value) for name, value in _facts(payload).items()]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": heading}},
        {"type": "section", "text": _markdown(str(payload.get("summary", notification.kind)))},
    ]
    if fields:
        blocks.append({"type": "section", "fields": fields})
    blocks.append({"type": "context", "elements": [_markdown(f"fieldrepair, message {notification.id}")]})
    return {"text": _escaped(one_line(notification)), "blocks": blocks}


def _facts(payload: Mapping[str, object]) -> dict[str, str]:
    facts: dict[str, str] = {}
    if "model_name" in payload:
        facts["Model"] = f"{payload['model_name']}, version {payload.get('model_version', '?')}"
    if payload.get("case_id") is not None:
        facts["Case"] = str(payload["case_id"])
    for name, key in (("Estimated accuracy", "estimated_accuracy"), ("On the reference", "reference_accuracy")):
        value = payload.get(key)
        if isinstance(value, (int, float)):
            facts[name] = f"{value:.0%}"
    if payload.get("candidate_version") is not None:
        facts["Candidate"] = f"version {payload['candidate_version']}"
    return facts


def _field(name: str, value: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": f"*{name}*\n{_escaped(value[:300])}"}


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": _escaped(text)}


def _escaped(text: str) -> str:
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
