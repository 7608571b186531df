"""What every rendered chart must hold, beyond being valid: each policy gives its complaints, one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from pydantic_settings import BaseSettings

from tests.charts.helm import Manifest
from tests.charts.objects import containers, label, matches, of_kind, pod_templates, variables

Policy = Callable[[list[Manifest]], Iterator[str]]

WRITTEN_TO = ("/tmp", "/var/lib/fieldrepair/state")  # noqa: S108 - paths in a container
SECRET_WORDS = ("TOKEN", "PASSWORD", "SECRET", "CASE_BOOK", "ACCESS_KEY")
COMMANDS: dict[str, type[BaseSettings]] = {
    entry.name: entry.load() for entry in entry_points(group="fieldrepair.commands")
}
WITHOUT_CASE_BOOK = ("sidecar", "mirror", "serve", "ping")
FOREIGN = "model"
"""The container that somebody else wrote; it has no command of ours."""


def no_privileges(manifests: list[Manifest]) -> Iterator[str]:
    """Nobody is root, nobody can become root, nobody writes to the image."""
    for name, pod, container in containers(manifests):
        of_pod: Manifest = pod["spec"].get("securityContext") or {}
        own: Manifest = container.get("securityContext") or {}
        if of_pod.get("runAsNonRoot") is not True or of_pod.get("runAsUser") == 0 or own.get("runAsUser") == 0:
            yield f"{name} may be root"
        if of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain privileges"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} keeps capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write to its image"
        if any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name} shares the node's namespaces"


def writable_where_needed(manifests: list[Manifest]) -> Iterator[str]:
    """What is written to is a volume, every mount has one, every scratch volume has a limit."""
    for name, _pod, container in containers(manifests):
        mounted = {one["mountPath"] for one in container.get("volumeMounts", [])}
        needed = WRITTEN_TO if "FIELDREPAIR_STATE_DIR" in variables(container) else WRITTEN_TO[:1]
        for path in needed:
            if path not in mounted:
                yield f"{name} has nothing to write to at {path}"
    for maker, pod in pod_templates(manifests):
        volumes = {one["name"]: one for one in pod["spec"].get("volumes", [])}
        used = {one["name"] for each in pod["spec"]["containers"] for one in each.get("volumeMounts", [])}
        for missing in sorted(used - volumes.keys()):
            yield f"{maker} mounts {missing}, which is no volume"
        for unused in sorted(volumes.keys() - used):
            yield f"{maker} has the volume {unused}, which nobody mounts"
        for volume in volumes.values():
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{maker} has the scratch volume {volume['name']} without a limit"
            if "hostPath" in volume:
                yield f"{maker} mounts a folder of the node"


def resources_are_set(manifests: list[Manifest]) -> Iterator[str]:
    """Requests and limits of CPU and memory, everywhere."""
    for name, _pod, container in containers(manifests):
        for which in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in (container.get("resources") or {}).get(which, {}):
                    yield f"{name} has no {which} of {what}"


def images_are_pinned(manifests: list[Manifest]) -> Iterator[str]:
    """Each image has a tag other than ``latest``, or a digest."""
    for name, _pod, container in containers(manifests):
        image = container["image"]
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{name} takes whatever {image} is today"


def probes_are_there(manifests: list[Manifest]) -> Iterator[str]:
    """Who listens is asked whether it is well, at a port that it has."""
    for name, _pod, container in containers(manifests):
        ports = {one["name"] for one in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if ports and probe not in container:
                yield f"{name} has no {probe}"
            if probe in container and container[probe]["httpGet"]["port"] not in ports:
                yield f"the {probe} of {name} asks at a port that it does not have"


def secrets_by_reference(manifests: list[Manifest]) -> Iterator[str]:
    """No secret stands in a pod or a ConfigMap."""
    for name, _pod, container in containers(manifests):
        for variable in container.get("env", []):
            secret = any(word in variable["name"] for word in SECRET_WORDS)
            if secret and "secretKeyRef" not in variable.get("valueFrom", {}):
                yield f"{name} has {variable['name']} in plain text"
    for one in manifests:
        if one["kind"] != "Secret" and "postgresql://" in str(one):
            yield f"{label(one)} has a database URL"


def selectors_find_their_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Selectors take labels that exist, and named ports are there."""
    pods = [(maker, pod) for maker, pod in pod_templates(manifests)]
    for one in of_kind(manifests, "Deployment"):
        if not matches(one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]):
            yield f"{label(one)} does not select its own pods"
    for one in of_kind(manifests, "Service"):
        found = [pod for _, pod in pods if matches(one["spec"]["selector"], pod["metadata"].get("labels", {}))]
        if len(found) != 1:
            yield f"{label(one)} selects the pods of {len(found)} makers"
        for pod in found:
            names = {port["name"] for each in pod["spec"]["containers"] for port in each.get("ports", [])}
            for port in one["spec"]["ports"]:
                if port["targetPort"] not in names:
                    yield f"{label(one)} sends to the port {port['targetPort']}, which its pods do not have"
    for one in of_kind(manifests, "PodDisruptionBudget", "NetworkPolicy"):
        selector = (one["spec"].get("selector") or one["spec"].get("podSelector"))["matchLabels"]
        found = [pod for _, pod in pods if matches(selector, pod["metadata"].get("labels", {}))]
        if len(found) != 1:
            yield f"{label(one)} selects the pods of {len(found)} makers"
        names = {port["name"] for pod in found for each in pod["spec"]["containers"] for port in each.get("ports", [])}
        for rule in one["spec"].get("ingress", []):
            for port in rule["ports"]:
                if port["port"] not in names:
                    yield f"{label(one)} opens {port['port']}, which its pods do not have"
    for one in of_kind(manifests, "ServiceMonitor"):
        selector = one["spec"]["selector"]["matchLabels"]
        services = [each for each in of_kind(manifests, "Service") if matches(selector, each["metadata"]["labels"])]
        ports = {port["name"] for each in services for port in each["spec"]["ports"]}
        if len(services) != 1 or not {each["port"] for each in one["spec"]["endpoints"]} <= ports:
            yield f"{label(one)} finds {len(services)} services, with the ports {sorted(ports)}"
    for one in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        scaled = [each for each in of_kind(manifests, target["kind"]) if each["metadata"]["name"] == target["name"]]
        if len(scaled) != 1 or "replicas" in scaled[0]["spec"]:
            yield f"{label(one)} scales nothing, or something that says its own number"
            continue
        names = {each["name"] for each in scaled[0]["spec"]["template"]["spec"]["containers"]}
        wanted = {
            each["containerResource"]["container"] for each in one["spec"]["metrics"] if "containerResource" in each
        }
        if not wanted <= names:
            yield f"{label(one)} looks at {sorted(wanted - names)}, which are no containers"


def least_rights(manifests: list[Manifest]) -> Iterator[str]:
    """One Role, for two verbs on one Deployment; only the rollout has a token of the API."""
    for one in of_kind(manifests, "ClusterRole", "ClusterRoleBinding"):
        yield f"{label(one)} reaches beyond the namespace"
    for one in of_kind(manifests, "Role"):
        for rule in one["rules"]:
            one_object = len(rule.get("resourceNames", [])) == 1
            if not one_object or rule["resources"] != ["deployments"] or set(rule["verbs"]) != {"get", "patch"}:
                yield f"{label(one)} allows {rule}"
    bound = {subject["name"] for one in of_kind(manifests, "RoleBinding") for subject in one["subjects"]}
    for maker, pod in pod_templates(manifests):
        rolls = any((each.get("args") or [""])[0] == "rollout" for each in pod["spec"]["containers"])
        if pod["spec"].get("automountServiceAccountToken") is not rolls:
            yield f"{maker} {'lacks' if rolls else 'has'} a token of the API"
        if bound and (pod["spec"].get("serviceAccountName") in bound) is not rolls:
            yield f"{maker} runs as {pod['spec'].get('serviceAccountName')}"


def the_case_book_where_needed(manifests: list[Manifest]) -> Iterator[str]:
    """Who stands before models has neither the case book nor its password: pages are the console's."""
    for name, _pod, container in containers(manifests):
        command = (container.get("args") or [""])[0]
        if command in WITHOUT_CASE_BOOK and "FIELDREPAIR_CASE_BOOK" in variables(container):
            yield f"{name} has the case book, which {command} does not need"
        if (
            command in ("sidecar", "mirror")
            and variables(container).get("FIELDREPAIR_CONSOLE", {}).get("value") != "off"
        ):
            yield f"{name} would open a case book of its own"


def the_console_finds_the_sidecars(manifests: list[Manifest]) -> Iterator[str]:
    """It asks at a headless Service over all pods with a sidecar or mirror, at the port that their containers have."""
    pods = [pod for _, pod in pod_templates(manifests)]
    for name, _pod, container in containers(manifests):
        if (container.get("args") or [""])[0] != "console":
            continue
        asked = urlsplit(str(variables(container)["FIELDREPAIR_SIDECARS"]["value"]))
        services = [one for one in of_kind(manifests, "Service") if one["metadata"]["name"] == asked.hostname]
        headless = [one for one in services if one["spec"].get("clusterIP") == "None"]
        found = [
            port
            for one in headless
            for pod in pods
            if matches(one["spec"]["selector"], pod["metadata"].get("labels", {}))
            for each in pod["spec"]["containers"]
            if (each.get("args") or [""])[0] in ("sidecar", "mirror")
            for port in each["ports"]
            if port["name"] == one["spec"]["ports"][0]["targetPort"]
        ]
        if [port["containerPort"] for port in found] != [asked.port]:
            yield f"{name} asks at {asked.geturl()}, where no sidecar is"


def names_are_legal(manifests: list[Manifest]) -> Iterator[str]:
    """Each object once, with a name that fits into a label, and only references to what is there or was named."""
    seen: set[str] = set()
    for one in manifests:
        if label(one) in seen:
            yield f"{label(one)} is there twice"
        seen.add(label(one))
        if len(one["metadata"]["name"]) > 63 - len("-0123456789-abcde"):
            yield f"{label(one)} leaves no room for the names of its pods"
    for name, _pod, container in containers(manifests):
        names = [one["name"] for one in container.get("env", [])]
        for twice in sorted({each for each in names if names.count(each) > 1}):
            yield f"{name} has {twice} twice"


def commands_know_their_settings(manifests: list[Manifest]) -> Iterator[str]:
    """Every container runs a command of ours, with options and variables that it has."""
    for name, _pod, container in containers(manifests):
        if container["name"] == FOREIGN:
            continue
        command, *options = container.get("args") or [""]
        settings = COMMANDS.get(command)
        if settings is None or "command" in container:
            yield f"{name} runs {command!r}, which is no command of ours"
            continue
        known = settings.model_fields
        for option in options:
            if option.startswith("--") and option.removeprefix("--").replace("-", "_") not in known:
                yield f"{name}: {command} has no option {option}"
        for variable in variables(container):
            setting = variable.removeprefix("FIELDREPAIR_").lower()
            if variable.startswith("FIELDREPAIR_") and setting not in known:
                yield f"{name}: {command} has no setting {setting}"


POLICIES: list[Policy] = [
    no_privileges,
    writable_where_needed,
    resources_are_set,
    images_are_pinned,
    probes_are_there,
    secrets_by_reference,
    selectors_find_their_pods,
    least_rights,
    the_case_book_where_needed,
    the_console_finds_the_sidecars,
    names_are_legal,
    commands_know_their_settings,
]


def complaints(manifests: list[Manifest]) -> list[str]:
    """All of all policies."""
    return [f"{policy.__name__}: {complaint}" for policy in POLICIES for complaint in policy(manifests)]


def literal_settings(container: Manifest) -> dict[str, Any]:
    """Settings of a container that are written out, by name."""
    return {
        name.removeprefix("FIELDREPAIR_").lower(): one["value"]
        for name, one in variables(container).items()
        if name.startswith("FIELDREPAIR_") and "value" in one
    }
