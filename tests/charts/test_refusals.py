"""Wrong values are refused, and the message says which and what was expected."""

from __future__ import annotations

import pytest

from tests.charts.helm import VALUES, template

REFUSED: dict[str, tuple[list[str], str]] = {
    "a name misspelt": (["montior.enabled=false"], "additional properties 'montior' not allowed"),
    "a setting misspelt": (["monitor.settings.windowsize=200"], "additional properties 'windowsize' not allowed"),
    "another part's setting": (["worker.settings.window_size=200"], "additional properties 'window_size' not allowed"),
    "a secret as a setting": (
        ["sidecar.settings.control_token=abc"],
        "additional properties 'control_token' not allowed",
    ),
    "a sidecar's sign-ins": (
        ["sidecar.settings.session_hours=8"],
        "additional properties 'session_hours' not allowed",
    ),
    "the Service that the console was at": (
        ["service.control.type=LoadBalancer"],
        "additional properties 'control' not allowed",
    ),
    "sidecars of one's own": (
        ["console.settings.sidecars=http://a:1"],
        "additional properties 'sidecars' not allowed",
    ),
    "an unknown mode": (["mode=proxy"], "at '/mode': value must be one of 'server', 'sidecar', 'mirror'"),
    "a number that is none": (["server.replicas=many"], "at '/server/replicas': got string, want integer"),
    "no replicas": (["server.replicas=0"], "at '/server/replicas': minimum: got 0, want 1"),
    "a port that is none": (
        ["sidecar.trafficPort=70000"],
        "at '/sidecar/trafficPort': maximum: got 70,000, want 65,535",
    ),
    "the tag latest": (["images.full.tag=latest"], "at '/images/full/tag': 'not' failed"),
    "a folder as field log": (["fieldLog.uri=/data/log"], "'/data/log' does not match pattern '^(s3://.+)?$'"),
    "SQLite": (
        ["caseBook.existingSecret=", "caseBook.url=sqlite:///book.db"],
        "at '/caseBook/url': 'sqlite:///book.db' does not",
    ),
    "no limit of memory": (["worker.resources.limits=null"], "at '/worker/resources'"),
    "root": (["podSecurityContext.runAsNonRoot=false"], "at '/podSecurityContext/runAsNonRoot': value must be true"),
    "no model": (["model.name="], "model.name is required: the registered model in MLflow"),
    "no MLflow": (["mlflow.trackingUri="], "mlflow.trackingUri is required"),
    "no case book": (["caseBook.existingSecret="], "SQLite cannot be shared by pods"),
    "two case books": (["caseBook.url=postgresql://a/b"], "caseBook.existingSecret and caseBook.url are both set"),
    "no version": (["mode=mirror"], "model.version is required with mode=mirror"),
    "scaling others' pods": (
        ["mode=sidecar", "model.version=3", "autoscaling.enabled=true"],
        "autoscaling.enabled needs mode=server, got mode=sidecar",
    ),
    "minimum above maximum": (
        ["autoscaling.enabled=true", "autoscaling.minReplicas=9"],
        "autoscaling.minReplicas (9) must not be above autoscaling.maxReplicas (8)",
    ),
    "one port twice": (["server.port=8080"], "server.port and sidecar.trafficPort are both 8080"),
    "no account to roll with": (["serviceAccount.create=false"], "serviceAccount.rolloutName is required"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_readable_message(what: str) -> None:
    values, words = REFUSED[what]
    changes = [word for value in values for word in ("--set", value)]
    done = template("--values", str(VALUES / "server-s3.yaml"), *changes)
    assert done.returncode != 0
    assert words in done.stderr, done.stderr
