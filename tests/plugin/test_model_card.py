"""The model card: what a reviewer must find on it, whatever the classes are called and however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fieldrepair_plugin.acceptance import Predictions, judge
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.label_evidence import LabelEvidence
from fieldrepair_plugin.model_card import DESCRIPTION_LIMIT, CardFacts, model_card
from fieldrepair_service.case_book import NewDriftEvent, NewTask, Purpose, WindowRecord, open_case_book

NAMES = ("a|b", "<img src=x>", *(f"class {number}" for number in range(2, 300)))


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[CardFacts]:
    """An accepted repair of a model with 300 classes; nine of its twelve labels are by two people."""
    with open_case_book(f"sqlite:///{tmp_path}/book.db") as book:
        event = NewDriftEvent(
            "m", "7", "mmd", 0.5, 0.01, 0.1, 0, {}, 100, 0.61, 0.93, "mmd 0.5 > 0.1\n# not a title", NAMES, {}
        )
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.5, 0.1, 0.01, drifted=True)
        opened = book.record_windows("m", "7", {"w": (1, 0)}, [window], event)
        assert opened is not None
        tasks = [NewTask("r", row, Purpose.REPAIR, answers_wanted=2 if row < 9 else 1) for row in range(12)]
        book.plan_case(opened.case_id, tasks, budget=12, acceptance_size=0, pool_cursor={"w": (9, 0)}, note="")
        for person in ("ada", "gr*ce"):
            while (task := book.next_task(opened.case_id, person)) is not None:
                if task.row == 11:
                    book.skip(task.id, person, not_sure=True)
                else:
                    book.submit(task.id, task.row % 2, person)
        case = book.case(opened.case_id)
        labels = np.repeat(np.arange(300), 2).astype(np.int64)
        before = np.where(np.arange(600) < 40, (labels + 1) % 300, labels)
        verdict = judge(Predictions(before, labels, labels), Predictions(labels, labels, labels), NAMES)
        yield CardFacts(
            case=case, event=opened, window=FieldLogWindow("s3://log", "m", "7", {}, {"w": (9, 0)}, rows=700),
            labels=LabelEvidence.of(book, case), verdict=verdict, class_names=NAMES,
            training={"recipe": "paper", "epochs": 10}, by_request=False,
            examples={"repaired": (40, ["a|b: class 3, now a|b"] * 16), "broken": (0, [])},
            files=["repaired.png", "broken.png"], run_id="abc", run_url="http://mlflow/#/experiments/1/runs/abc",
        )  # fmt: skip


def test_everything_a_reviewer_asks_is_on_the_card(facts: CardFacts) -> None:
    card = model_card(facts)
    for part in (
        "## What shifted\n\nmmd 0.5 \\> 0.1 \\# not a title\n",
        "`mmd` 0.5 over 0.1, p = 0.01",
        "Accuracy estimated without labels: 61.0%, on the reference 93.0%",
        "| field (acceptance sample) | 600 | 93.3% [91.0%, 95.1%] | 100.0% [99.4%, 100.0%] | 40 | 0 |",
        "Repair rate, the share of field mistakes that are right now: 100.0% [91.2%, 100.0%]",
        "- Negative flips, right before and wrong now: 0 of 600",
        "- 11 field inputs to learn from (budget 12), 0 to judge by",
        "By 2 people: ada (12), gr\\*ce (9)",
        "- Not answered with a class: 1 (1 not sure)",
        "- Agreement: 9 of 9 inputs that two people labelled, Cohen's kappa 1.00",
        "and 270 more",
        "requests were so large",
        "| a\\|b | 2 | 0 | 0 |",
        "**Repaired: 40**\n\n- a\\|b: class 3, now a\\|b (16 times)\n- ... and 24 more\n\n![repaired](repaired.png)",
        "[version 7](http://mlflow/#/models/m/versions/7)",
        "700 rows of `s3://log`",
        "[abc](http://mlflow/#/experiments/1/runs/abc)",
        'set_registered_model_alias("m", "champion", "7")',
    ):
        assert part in card, part
    assert "<img" not in card.replace("\\<img", "")


def test_the_description_fits_and_says_what_it_lacks(facts: CardFacts) -> None:
    text = model_card(facts, limit=DESCRIPTION_LIMIT)
    assert len(text) <= DESCRIPTION_LIMIT
    for title in ("What shifted", "Better and worse", "What was not judged", "Approve, and roll back"):
        assert f"## {title}" in text
    assert "## Class by class" not in text
    assert "for want of room: " in text
    assert "class by class" in text.split("for want of room: ")[1]
    assert len(model_card(facts, limit=300)) <= 300


def test_a_rejected_repair_says_so(facts: CardFacts) -> None:
    labels = np.arange(40, dtype=np.int64) % 3
    same = judge(Predictions(labels, labels, labels), Predictions(labels, labels, labels), ("x", "y", "z"))
    card = model_card(replace(facts, verdict=same, class_names=("x", "y", "z"), by_request=True))
    assert card.startswith("# m: no repair of version 7 found (case 1)")
    assert "**Did not pass its acceptance test**" in card
    assert "cannot show the candidate is better" in card
    assert "no mistakes to repair" in card
    assert "Nothing to approve: version 7 goes on being served." in card
    assert "set_registered_model_alias" not in card
