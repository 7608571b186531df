"""A labeller's view of the case API, over HTTP."""

from __future__ import annotations

from typing import Any, cast

import httpx

from fieldrepair_service.errors import Conflict, InputError, NotInCaseBook, StoreUnavailable

_KINDS: dict[int, type[NotInCaseBook | Conflict | InputError]] = {404: NotInCaseBook, 409: Conflict, 422: InputError}


class LabelClient:
    """Talks to one control port for one labeller. A context manager that closes its connections.

    Every method raises ``StoreUnavailable`` when the port does not answer, or does not let us in, and else the error
    that the answer's status stands for.

    Args:
        url: of the control port.
        token: its bearer token.
        labeller: who answers.
    """

    def __init__(self, url: str, token: str, labeller: str) -> None:
        self.labeller = labeller
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> LabelClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def cases(self) -> list[dict[str, Any]]:
        """Cases that take labels."""
        return self._call("GET", "/api/cases", params={"state": "annotating"}).json()

    def next_task(self, case_id: int, after: int | None = None) -> dict[str, Any] | None:
        """The next question, or None when none is free."""
        params: dict[str, str | int] = {"labeller": self.labeller}
        if after is not None:
            params["after"] = after
        answer = self._call("GET", f"/api/cases/{case_id}/tasks/next", params=params)
        return None if answer.status_code == 204 else answer.json()

    def input(self, task_id: int) -> dict[str, Any]:
        """The field input of a question in words and numbers."""
        return self._call("GET", f"/api/tasks/{task_id}/input").json()

    def picture(self, task_id: int) -> bytes:
        """PNG of a question's field input, one pixel for each of its pixels."""
        return self._call("GET", f"/api/tasks/{task_id}/image.png", params={"scale": 1}).content

    def label(self, task_id: int, index: int) -> dict[str, Any]:
        """Answer with a class."""
        body = {"label": index, "labeller": self.labeller, "source": "terminal"}
        return self._call("POST", f"/api/tasks/{task_id}/label", json=body).json()

    def skip(self, task_id: int, *, not_sure: bool) -> dict[str, Any]:
        """Answer without a class."""
        body = {"labeller": self.labeller, "not_sure": not_sure, "source": "terminal"}
        return self._call("POST", f"/api/tasks/{task_id}/skip", json=body).json()

    def undo(self, task_id: int) -> dict[str, Any]:
        """Take an answer back."""
        return self._call("POST", f"/api/tasks/{task_id}/undo", json={"labeller": self.labeller}).json()

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise StoreUnavailable(
                f"the control port {self._client.base_url} does not answer: {error or type(error).__name__}"
            ) from error
        if answer.is_success:
            return answer
        raise _KINDS.get(answer.status_code, StoreUnavailable)(_detail(answer))


def _detail(answer: httpx.Response) -> str:
    try:
        body: object = answer.json()
    except ValueError:
        body = None
    detail = cast(dict[str, object], body).get("detail") if isinstance(body, dict) else None
    return str(detail) if detail else f"the control port answered with status {answer.status_code}"
