"""Schemas of the Prometheus operator's kinds, which Kubernetes' own schemas do not have.

They are in the operator's Go module, which the Go tool fetches and keeps; without Go these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from tests.charts.helm import Manifest, parsed

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def operator_problem(manifest: Manifest) -> str | None:
    """Why the operator would refuse the object; None if it would not. Skips without Go."""
    schema = _schemas().get(manifest["kind"])
    if schema is None:
        return f"{manifest['kind']} is no kind of the operator's"
    errors = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]
    return "; ".join(errors) or None


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in (_module_folder() / "example" / "prometheus-operator-crd").glob("*.yaml"):
        [definition] = parsed(path.read_text())
        for version in definition["spec"]["versions"]:
            if version["name"] == "v1":
                found[definition["spec"]["names"]["kind"]] = _closed(version["schema"]["openAPIV3Schema"])
    return found


def _closed(schema: Any) -> Any:
    """The API server drops fields that a schema does not name; here they are mistakes."""
    if isinstance(schema, list):
        return [_closed(one) for one in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in cast(dict[str, Any], schema).items()}
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("anyOf", None)
        closed["type"] = ["integer", "string"]
    properties = closed.get("properties")
    # A property may itself be called "properties"; then this is no schema but a table of them.
    if isinstance(properties, dict) and "additionalProperties" not in closed and "type" in closed:
        closed["additionalProperties"] = False
    return closed


@cache
def _module_folder() -> Path:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        pytest.skip("needs Go to fetch the Prometheus operator's schemas")
    done = subprocess.run(
        [go, "mod", "download", "-json", MODULE], capture_output=True, text=True, timeout=120, cwd="/"
    )
    if done.returncode != 0:
        pytest.skip(f"needs the Go module {MODULE} for its schemas: {done.stdout[-300:]}{done.stderr[-300:]}")
    return Path(json.loads(done.stdout)["Dir"])
