"""The chart with many sets of values: valid for Kubernetes, and within our policies; three as they were looked at."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable

import kubernetes_validate
import pytest

from tests.charts.crds import operator_problem
from tests.charts.helm import (
    CHART,
    GOLDEN,
    KUBERNETES,
    VALUES,
    Manifest,
    parsed,
    rendered,
    rendered_text,
    run,
    template,
    value_sets,
)
from tests.charts.objects import (
    OF_THE_PROMETHEUS_OPERATOR,
    containers,
    label,
    named,
    variables,
    with_patched_deployment,
)
from tests.charts.policies import COMMANDS, POLICIES, complaints, literal_settings

OLDEST, NEWEST = "1.28.0", "1.37.0"
GOLDEN_SETS = ("server-s3", "sidecar-patch", "mirror")


def test_there_are_enough_sets_for_every_mode() -> None:
    names = value_sets()
    assert len(names) >= 12
    assert {name.partition("-")[0] for name in names} == {"server", "sidecar", "mirror"}


@pytest.mark.parametrize("name", value_sets())
def test_kubernetes_takes_it_and_our_policies_do(name: str) -> None:
    manifests = with_patched_deployment(rendered(name))
    for one in manifests:
        if one["kind"] in OF_THE_PROMETHEUS_OPERATOR:
            assert operator_problem(one) is None, label(one)
            continue
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(one, version, strict=True)
    assert complaints(manifests) == []


@pytest.mark.parametrize("name", value_sets())
def test_every_command_takes_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only their names: each settings class reads the values as it would in the pod."""
    for _where, _pod, container in containers(with_patched_deployment(rendered(name))):
        command, *options = container["args"]
        if command in COMMANDS:
            with monkeypatch.context() as environment:
                for setting, value in literal_settings(container).items():
                    environment.setenv(f"FIELDREPAIR_{setting.upper()}", value)
                COMMANDS[command](_cli_parse_args=options)  # type: ignore[call-arg]


def test_lint_has_nothing_to_say() -> None:
    done = run("lint", "--strict", "--kube-version", KUBERNETES, str(CHART), "--values", str(VALUES / "server-s3.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    assert "ERROR" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", GOLDEN_SETS)
def test_it_is_what_was_looked_at(name: str) -> None:
    """To accept a change: look at the difference, then UPDATE_GOLDEN=1 make test TESTS=tests/charts."""
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered_text(name))
    expected, now = path.read_text().splitlines(), rendered_text(name).splitlines()
    assert expected == now, "\n".join(difflib.unified_diff(expected, now, "looked at", "now", lineterm=""))


def _container(manifests: list[Manifest], deployment: str = "digits-fieldrepair-server") -> Manifest:
    return named(manifests, "Deployment", deployment)["spec"]["template"]["spec"]["containers"][0]


def _pod_spec(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "Deployment", "digits-fieldrepair-server")["spec"]["template"]["spec"]


def _service(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "Service", "digits-fieldrepair")["spec"]


BREACHES: dict[str, tuple[Callable[[list[Manifest]], object], str]] = {
    "root": (lambda all_: _pod_spec(all_)["securityContext"].update(runAsNonRoot=False), "may be root"),
    "privilege": (lambda all_: _container(all_)["securityContext"].update(privileged=True), "may gain privileges"),
    "writable image": (
        lambda all_: _container(all_)["securityContext"].update(readOnlyRootFilesystem=False),
        "may write to its image",
    ),
    "no scratch": (lambda all_: _container(all_)["volumeMounts"].pop(0), "has nothing to write to at /tmp"),
    "no volume": (lambda all_: _pod_spec(all_)["volumes"].pop(0), "mounts tmp, which is no volume"),
    "no limit": (lambda all_: _container(all_)["resources"].pop("limits"), "has no limits of memory"),
    "latest": (lambda all_: _container(all_).update(image="a.b:5000/full:latest"), "whatever a.b:5000/full:latest is"),
    "no tag": (lambda all_: _container(all_).update(image="a.b:5000/full"), "whatever a.b:5000/full is"),
    "no probe": (lambda all_: _container(all_).pop("livenessProbe"), "has no livenessProbe"),
    "plain secret": (
        lambda all_: _container(all_)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
        "AWS_SECRET_ACCESS_KEY in plain text",
    ),
    "wrong selector": (
        lambda all_: _service(all_)["selector"].update({"app.kubernetes.io/component": "nobody"}),
        "selects the pods of 0 makers",
    ),
    "wrong port": (lambda all_: _service(all_)["ports"][0].update(targetPort="nothing"), "sends to the port nothing"),
    "more rights": (
        lambda all_: named(all_, "Role", "digits-fieldrepair-rollout")["rules"][0]["verbs"].append("list"),
        "Role/digits-fieldrepair-rollout allows",
    ),
    "a token": (
        lambda all_: _pod_spec(all_).update(automountServiceAccountToken=True),
        "has a token of the API",
    ),
    "a case book in a model's pod": (
        lambda all_: _pod_spec(all_)["containers"][1]["env"].append({"name": "FIELDREPAIR_CASE_BOOK", "valueFrom": {}}),
        "sidecar has the case book, which sidecar does not need",
    ),
    "a sidecar with pages": (
        lambda all_: variables(_pod_spec(all_)["containers"][1])["FIELDREPAIR_CONSOLE"].update(value="auto"),
        "sidecar would open a case book of its own",
    ),
    "a console that looks elsewhere": (
        lambda all_: variables(_container(all_, "digits-fieldrepair-console"))["FIELDREPAIR_SIDECARS"].update(
            value="http://digits-fieldrepair:80"
        ),
        "console asks at http://digits-fieldrepair:80, where no sidecar is",
    ),
    "twice": (lambda all_: all_.append(all_[0]), "is there twice"),
    "unknown setting": (
        lambda all_: _container(all_)["env"].append({"name": "FIELDREPAIR_MAGIC", "value": "1"}),
        "serve has no setting magic",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_each_policy_notices_a_breach(breach: str) -> None:
    change, words = BREACHES[breach]
    manifests = rendered("server-s3")
    change(manifests)
    assert any(words in complaint for complaint in complaints(manifests)), complaints(manifests)


def test_every_policy_can_complain() -> None:
    """The breaches above are of every policy there is."""
    noticed: set[str] = set()
    for change, _ in BREACHES.values():
        manifests = rendered("server-s3")
        change(manifests)
        noticed |= {complaint.partition(":")[0] for complaint in complaints(manifests)}
    assert noticed == {policy.__name__ for policy in POLICIES}


def _openings(manifests: list[Manifest], part: str) -> dict[str, list[Manifest]]:
    """Port of a part that a NetworkPolicy opens -> to whom."""
    policy = named(manifests, "NetworkPolicy", f"digits-{part}")
    return {rule["ports"][0]["port"]: rule["from"] for rule in policy["spec"]["ingress"] if "from" in rule}


def _pods(component: str, name: str = "fieldrepair") -> Manifest:
    labels = {"name": name, "instance": "digits", "component": component}
    return {"podSelector": {"matchLabels": {f"app.kubernetes.io/{key}": value for key, value in labels.items()}}}


def test_the_sidecars_control_port_is_open_to_those_who_need_it() -> None:
    manifests = rendered("server-everything")
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    console, test = _pods("console", "repairer"), _pods("test", "repairer")
    assert _openings(manifests, "repairer-server")["control"] == [console, test, prometheus]
    assert _openings(manifests, "repairer-console") == {
        "control": [test, {"podSelector": {"matchLabels": {"app": "ingress"}}}, prometheus]
    }


def test_by_default_the_namespace_reaches_the_control_ports() -> None:
    for name, part in (("server-policies-by-default", "server"), ("mirror-everything", "mirror")):
        manifests = rendered(name)
        assert _openings(manifests, f"fieldrepair-{part}")["control"] == [
            _pods("console"),
            _pods("test"),
            {"podSelector": {}},
        ]
        assert _openings(manifests, "fieldrepair-console")["control"] == [_pods("test"), {"podSelector": {}}]


def test_the_console_may_reach_the_sidecars_where_egress_is_limited() -> None:
    policies = rendered("server-everything")
    rules = named(policies, "NetworkPolicy", "digits-repairer-console")["spec"]["egress"]
    assert {"ports": [{"port": 8081}], "to": [_pods("server", "repairer")]} in rules
    others = named(policies, "NetworkPolicy", "digits-repairer-worker")["spec"]["egress"]
    assert len(others) == len(rules) - 1


def test_without_a_console_nothing_of_it_is_left() -> None:
    done = template("--values", str(VALUES / "server-policies-by-default.yaml"), "--set", "console.enabled=false")
    assert done.returncode == 0, done.stderr
    manifests = parsed(done.stdout)
    assert [label(one) for one in manifests if one["metadata"]["name"].endswith("-console")] == []
    assert complaints(manifests) == []
    assert "port-forward svc/digits-fieldrepair-console" not in done.stdout


def test_only_images_with_every_command_run_what_needs_the_case_book() -> None:
    for name in GOLDEN_SETS:
        for where, _pod, container in containers(with_patched_deployment(rendered(name))):
            if container["image"].startswith("fieldrepair-sidecar"):
                assert container["args"][0] in ("sidecar", "mirror", "ping"), where
