"""A stand-in for the Kubernetes API server, with one Deployment: reads it, merges patches into it, checks the token.

What it does was compared with a real API server's answers (test_real_cluster.py runs the same rollout on one).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

TOKEN = "the-account's-token"


class StandIn:
    """One Deployment behind an API like Kubernetes'."""

    def __init__(self, deployment: dict[str, Any], namespace: str) -> None:
        self.deployment = json.loads(json.dumps(deployment))
        self.deployment["metadata"] |= {"namespace": namespace, "generation": 1}
        self.deployment["spec"].setdefault("replicas", 1)
        self.deployment.setdefault("status", {})
        self.path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment['metadata']['name']}"
        self.requests: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """What the pods are to serve."""
        annotations: dict[str, str] = self.deployment["spec"]["template"]["metadata"].get("annotations") or {}
        return str(annotations.get("fieldrepair.io/model-version", ""))

    def report(self, *, updated: int, replicas: int, available: int, reason: str = "NewReplicaSetAvailable") -> None:
        """What the Deployment controller would write."""
        with self._lock:
            self.deployment["status"] = {
                "observedGeneration": self.deployment["metadata"]["generation"],
                "updatedReplicas": updated,
                "replicas": replicas,
                "availableReplicas": available,
                "conditions": [{"type": "Progressing", "reason": reason, "message": f"because of {reason}"}],
            }

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            if headers.get("authorization") != f"Bearer {TOKEN}":
                return 401, {"kind": "Status", "message": "Unauthorized"}
            if self.refusal is not None:
                return self.refusal[0], {"kind": "Status", "message": self.refusal[1]}
            if path.partition("?")[0] != self.path:
                return 404, {"kind": "Status", "message": f"{path} not found"}
            if method == "PATCH":
                if headers.get("content-type") != "application/merge-patch+json":
                    return 415, {"kind": "Status", "message": "the body of the request was in an unknown format"}
                changed = _merged(self.deployment, json.loads(body))
                if changed["spec"] != self.deployment["spec"]:
                    changed["metadata"]["generation"] += 1
                self.deployment = changed
            return 200, cast(dict[str, Any], json.loads(json.dumps(self.deployment)))


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged: dict[str, Any] = dict(cast(dict[str, Any], target)) if isinstance(target, dict) else {}
    for key, value in cast(dict[str, Any], patch).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


@contextmanager
def served(standin: StandIn) -> Generator[str]:
    """Serve it on a free port; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content = standin.answer(self.command, self.path, headers, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def account(folder: Path, namespace: str, token: str = TOKEN, authority: Path | None = None) -> Path:
    """The files that a pod has of its service account."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(token)
    (folder / "namespace").write_text(namespace)
    if authority is not None:
        (folder / "ca.crt").write_bytes(authority.read_bytes())
    return folder
