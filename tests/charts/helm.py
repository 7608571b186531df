"""Helm as the tests use it: one process per set of values, its answer kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "fieldrepair"
VALUES = Path(__file__).with_name("values")
GOLDEN = Path(__file__).with_name("golden")
KUBERNETES = "1.34.0"
"""The version that templates are told they are rendered for."""
RELEASE, NAMESPACE = "digits", "ml"

Manifest = dict[str, Any]


def program() -> str:
    """Helm, as `make test` built it; skips where there is none."""
    found = os.environ.get("FIELDREPAIR_HELM", "")
    if found and os.access(found, os.X_OK):
        return found
    cached = sorted((Path.home() / ".cache" / "fieldrepair").glob("helm-v3.*"))
    on_path = shutil.which("helm")
    if cached or on_path:
        return str(cached[-1]) if cached else str(on_path)
    pytest.skip("needs helm: `make test` builds it where Go is installed, or put it on PATH")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Helm with these arguments, whatever it answers."""
    return subprocess.run([program(), *arguments], capture_output=True, text=True, timeout=60)


@cache
def rendered_text(name: str) -> str:
    """What the chart is with a set of values of ``values/``."""
    done = template("--values", str(VALUES / f"{name}.yaml"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``helm template`` of the chart."""
    where = ("--namespace", NAMESPACE, "--kube-version", KUBERNETES)
    return run("template", RELEASE, str(CHART), *where, *arguments)


def rendered(name: str) -> list[Manifest]:
    """The same as objects; each call gives new ones, to be changed at will."""
    return parsed(rendered_text(name))


def parsed(text: str) -> list[Manifest]:
    """The objects of a YAML stream."""
    return [cast(Manifest, one) for one in yaml.load_all(text, Loader=_Loader) if one]


class _Loader(yaml.CSafeLoader):
    """YAML without its dates and ``=``: Kubernetes reads YAML as JSON, which has none."""


_NO_JSON = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NO_JSON]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def value_sets() -> list[str]:
    """Names of the sets of values."""
    return sorted(path.stem for path in VALUES.glob("*.yaml"))
