"""``fieldrepair label``: the same queue from a terminal, by a real control port."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from fastapi import FastAPI
from PIL import Image

from fieldrepair_service.api import case_router
from fieldrepair_service.case_book import Case, CaseBook
from fieldrepair_service.errors import ConfigurationError, NotInCaseBook, StoreUnavailable
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.half_blocks import half_blocks
from fieldrepair_service.http_errors import install_error_handlers
from fieldrepair_service.inputs import ImageInput, TabularInput
from fieldrepair_service.label_client import LabelClient
from fieldrepair_service.label_command import LabelCommand
from fieldrepair_service.label_terminal import LabelTerminal, matching

Start = Callable[..., str]


@pytest.fixture
def port(
    sqlite_book: CaseBook, log_inputs: Callable[..., FieldLog], serve: Callable[[FastAPI], httpx.Client]
) -> Callable[..., str]:
    """Serves the case API over a log with instances of the tasks that ``plan`` makes; gives its URL."""

    def start(instance: npt.NDArray[np.generic]) -> str:
        keys = [(f"r{i}", i) for i in range(4)] + [(f"a{i}", i) for i in range(3)]
        app = FastAPI()
        app.include_router(case_router(sqlite_book, log_inputs([(*key, instance) for key in keys])), prefix="/api")
        install_error_handlers(app)
        return str(serve(app).base_url)

    return start


def _session(url: str, case: Case, lines: str, labeller: str = "ann") -> str:
    out = io.StringIO()
    with LabelClient(url, "no-token-needed", labeller) as client:
        LabelTerminal(client, case.id, io.StringIO(lines), out).run()
    return out.getvalue()


def test_a_case_is_labelled(
    port: Start, sqlite_book: CaseBook, open_case: Callable[..., Case], plan: Callable[..., Case]
) -> None:
    case = plan(sqlite_book, open_case(sqlite_book).id)
    picture = np.zeros(ImageInput(height=4, width=6).shape, dtype=np.float32)
    picture[0, :, :3] = 1
    said = _session(port(picture), case, "cat\n2\nu\n1\nwhale\nd\ns\nn\nl\n7\n3\n?\nc\n")
    assert "Question 1 of 7" in said
    assert "███" in said
    assert "1 cat   2 dog   3 7" in said
    assert "Taken back; answer it again." in said
    assert "No class is called that." in said
    # cat, dog and back, cat, "d" = dog, skip, not sure, later, "7" is a name, "3" is a number
    tasks = [(task.state, task.label, task.reason) for task in sqlite_book.tasks(case.id)]
    assert tasks[:4] == [
        ("labelled", 0, None),
        ("labelled", 0, None),
        ("labelled", 1, None),
        ("skipped", None, "skip"),
    ]
    assert tasks[4] == ("skipped", None, "not_sure")
    assert [label for _, label, _ in tasks[5:]] == [2, 2]
    assert "7 answered; no question is free now" in said
    assert {answer.source for answer in sqlite_book.answers(case.id)} == {"terminal"}


def test_the_end_of_the_input_quits(
    port: Start, sqlite_book: CaseBook, open_case: Callable[..., Case], plan: Callable[..., Case]
) -> None:
    spec = TabularInput(features=("age", "plan"), units=("years", ""), categories={"plan": ("free", "\x1b[31mpaid")})
    case = plan(sqlite_book, open_case(sqlite_book, input_spec=spec.model_dump(mode="json")).id)
    said = _session(port(np.array([30.5, 1], dtype=np.float32)), case, "cat\n")
    assert "  age   30.5 years\n  plan  \N{REPLACEMENT CHARACTER}[31mpaid" in said
    assert said.endswith("1 answered, 6 left. Thank you.\n")


def test_numbers_names_and_beginnings() -> None:
    names = ["cat", "dog", "7", "door", "Cow"]
    assert [matching(said, names) for said in ("7", "2", "do", "co", "door", "6", "x")] == [
        [2],
        [1],
        [1, 3],
        [4],
        [3],
        [],
        [],
    ]


def test_a_port_that_does_not_answer_is_named() -> None:
    with (
        LabelClient("http://127.0.0.1:9", "token", "ann") as client,
        pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"),
    ):
        client.cases()


def test_the_command_finds_token_and_case(
    port: Start,
    sqlite_book: CaseBook,
    open_case: Callable[..., Case],
    plan: Callable[..., Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = port(np.zeros(ImageInput(height=4, width=6).shape, dtype=np.float32))
    options = {"control_url": url, "labeller": "ann", "state_dir": tmp_path / "state"}
    with pytest.raises(ConfigurationError, match="has neither labeller-token nor control-token"):
        LabelCommand(**options).cli_cmd()  # pyright: ignore[reportArgumentType]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "control-token").write_text("a-token-of-some-length\n")
    with pytest.raises(NotInCaseBook, match="no case takes labels now"):
        LabelCommand(**options).cli_cmd()  # pyright: ignore[reportArgumentType]
    case = plan(sqlite_book, open_case(sqlite_book).id)
    monkeypatch.setattr(sys, "stdin", io.StringIO("dog\nq\n"))
    LabelCommand(**options).cli_cmd()  # pyright: ignore[reportArgumentType]
    assert f"Case {case.id}, as ann." in capsys.readouterr().out
    assert sqlite_book.task_counts(case.id).labelled == 1


def test_half_blocks_keep_pixels_and_proportions() -> None:
    picture = Image.new("RGB", (2, 2), (255, 255, 255))
    picture.putpixel((1, 0), (10, 20, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert half_blocks(buffer.getvalue(), 2, 9, colour=False) == "█▄"
    assert half_blocks(buffer.getvalue(), 4, 9, colour=False) == "██\n████"
    white, dark = "255;255;255", "10;20;30"
    assert half_blocks(buffer.getvalue(), 2, 9, colour=True) == (
        f"\x1b[38;2;{white}m\x1b[48;2;{white}m▀\x1b[38;2;{dark}m\x1b[48;2;{white}m▀\x1b[0m"
    )
    wide = io.BytesIO()
    Image.new("L", (400, 100), 255).save(wide, "PNG")
    lines = half_blocks(wide.getvalue(), 80, 20, colour=False).splitlines()
    assert (len(lines), len(lines[0])) == (10, 80)
