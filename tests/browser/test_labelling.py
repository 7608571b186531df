"""The labelling page in a browser, as people use it: with keys alone, in twos, with a thousand classes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from fieldrepair_service.case_book import Case
from fieldrepair_service.examples import EXAMPLES, ExampleIndex, example_name
from fieldrepair_service.inputs import TabularInput, TextInput
from fieldrepair_service.roles import Role

if TYPE_CHECKING:
    from tests.browser.conftest import ConsoleServer

SignIn = Callable[..., Page]
MakeCase = Callable[..., Case]
NASTY = ["<script>document.title='owned'</script>", '"><img src=x onerror="document.title=1">', "{{ 7 * 7 }}"]


def _row(index: int) -> npt.NDArray[np.float32]:
    return np.array([index, 0], dtype=np.float32)


def _words(index: int) -> npt.NDArray[np.int64]:
    del index
    return np.array([1, 2, 0], dtype=np.int64)


def _question(page: Page, text: str) -> None:
    expect(page.locator("#task-heading")).to_have_text(text)


def _labels(console: ConsoleServer, case: Case) -> list[int | None]:
    return [task.label for task in console.book.tasks(case.id)]


def _attach_examples(console: ConsoleServer, case: Case, classes: int) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8 * 28, 28), 90).save(buffer, "PNG")
    for index in range(classes):
        console.book.attach(case.id, example_name(index), "image/png", buffer.getvalue())
    found = ExampleIndex(counts=dict.fromkeys(range(classes), 8), tile=28, left_out=len(case.class_names) - classes)
    console.book.attach(case.id, EXAMPLES, "application/json", found.model_dump_json().encode())


def test_forty_questions_with_the_keyboard_alone(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 40)
    page = sign_in("Ann", Role.LABELLER)
    page.goto(f"/label/{case.id}")
    for number in range(1, 41):
        _question(page, f"Question {number} of 40")
        page.keyboard.press({38: "s", 39: "n"}.get(number, str(1 + number % 3)))
    _question(page, "All questions are answered")
    expect(page.locator("#status")).to_contain_text("All questions are answered")
    expect(page.locator("#answers")).to_be_hidden()
    assert _labels(console, case) == [None if n in (38, 39) else n % 3 for n in range(1, 41)]
    assert {(entry.actor, entry.role) for entry in console.book.audit_trail()} == {("Ann", "labeller")}
    assert {answer.source for answer in console.book.answers(case.id)} == {"console"}


def test_undo_later_and_coming_back(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 5)
    tasks = console.book.tasks(case.id)
    page = sign_in("Ann")
    page.goto(f"/label/{case.id}")
    shown = page.locator("#task")
    expect(shown).to_have_attribute("data-task", str(tasks[0].id))
    page.keyboard.press("2")
    expect(shown).to_have_attribute("data-task", str(tasks[1].id))
    page.keyboard.press("u")
    expect(shown).to_have_attribute("data-task", str(tasks[0].id))
    assert _labels(console, case) == [None] * 5
    page.keyboard.press("3")
    page.keyboard.press("l")  # a key while the answer is on its way is not taken for the next question
    expect(page.locator("form.busy")).to_have_count(0)
    expect(shown).to_have_attribute("data-task", str(tasks[1].id))
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_attribute("data-task", str(tasks[2].id))
    page.reload()
    expect(shown).to_have_attribute("data-task", str(tasks[2].id))  # where she left off
    expect(page.locator(".budget")).to_contain_text("1 of 5 answered, 1 by you")
    for key in "111":
        before = shown.get_attribute("data-task")
        page.keyboard.press(key)
        expect(shown).not_to_have_attribute("data-task", before or "")
    expect(shown).to_have_attribute("data-task", str(tasks[1].id))  # what was put off comes at the end


def test_two_labellers_never_get_the_same_question(
    console: ConsoleServer, sign_in: SignIn, make_case: MakeCase
) -> None:
    case = make_case(console, 8)
    pages = [sign_in("Ann"), sign_in("Bob", Role.LABELLER)]
    seen: list[set[str]] = [set(), set()]
    for page in pages:
        page.goto(f"/label/{case.id}")
    for _ in range(4):
        for page, tasks in zip(pages, seen, strict=True):
            task = page.locator("#task").get_attribute("data-task") or ""
            tasks.add(task)
            page.keyboard.press("1")
            expect(page.locator("#task")).not_to_have_attribute("data-task", task)
    assert len(seen[0]) == len(seen[1]) == 4
    assert not seen[0] & seen[1]


def test_two_differ_and_a_third_decides(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 2, double=2)
    ann, bob, cyd = (sign_in(name) for name in ("Ann", "Bob", "Cyd"))
    for page, keys in ((ann, "11"), (bob, "12")):
        page.goto(f"/label/{case.id}")
        for key in keys:
            task = page.locator("#task").get_attribute("data-task") or ""
            page.keyboard.press(key)
            expect(page.locator("#task")).not_to_have_attribute("data-task", task)
    _question(bob, "Nothing free right now")
    expect(bob.locator(".budget")).to_contain_text("answered twice: 2, same answer 50 %")
    cyd.goto(f"/label/{case.id}")
    cyd.keyboard.press("2")
    _question(cyd, "All questions are answered")
    assert sorted(label or 0 for label in _labels(console, case)) == [0, 1]
    _question(bob, "All questions are answered")  # his page looks again by itself


def test_a_thousand_classes_are_found_by_typing(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    names = [f"species {number}" for number in range(1_000)]
    case = make_case(console, 3, class_names=names)
    _attach_examples(console, case, 4)
    page = sign_in()
    page.goto(f"/label/{case.id}")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("77")
    expect(page.locator("#matches")).to_have_text("19 of 1000 classes")
    expect(page.locator(".class.marked")).to_have_text("species 77")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    _question(page, "Question 2 of 3")
    expect(page.locator("#search")).to_have_value("")
    page.keyboard.type("no such class")
    expect(page.locator("#nothing")).to_be_visible()
    page.keyboard.press("Enter")  # nothing is marked, so nothing is answered
    page.keyboard.press("Escape")
    page.keyboard.press("5")
    _question(page, "Question 3 of 3")
    page.keyboard.press("e")
    expect(page.locator("#examples")).to_contain_text("There was room for the examples of 4 classes; 996 more")
    assert _labels(console, case)[:2] == [177, 4]


def test_ten_thousand_questions(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 10_000, logged=30, double=5_000)
    page = sign_in()
    page.goto(f"/label/{case.id}")
    for number in range(1, 5):
        _question(page, f"Question {number} of 10000")
        page.keyboard.press("1")
    _question(page, "Question 5 of 10000")


def test_what_came_from_outside_is_shown_as_text(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    spec = TabularInput(features=(NASTY[0], "b"), units=(NASTY[1], ""), categories={"b": (NASTY[2], "x")})
    case = make_case(
        console,
        2,
        class_names=NASTY,
        model_name=NASTY[1],
        spec=spec.model_dump(mode="json"),
        instance=_row,
    )
    _attach_examples(console, case, 3)
    page = sign_in(NASTY[0][:60])
    page.goto(f"/label/{case.id}")
    page.keyboard.press("e")
    page.keyboard.press("p")
    for name in NASTY:
        expect(page.locator("#classes")).to_contain_text(name)
        expect(page.locator("#task")).to_contain_text(name)
    page.keyboard.press("1")
    _question(page, "Question 2 of 2")
    expect(page.locator(".said")).to_have_text(f"Labelled {NASTY[0]}.")
    expect(page.locator("#status")).to_contain_text(NASTY[0])
    assert page.title() == f"Label case {case.id} · fieldrepair"
    assert page.locator("#task img, #classes img, #task script").count() == 0


def test_it_works_without_javascript(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 4)
    page = sign_in("Ann", java_script_enabled=False)
    page.goto(f"/label/{case.id}")
    page.get_by_role("button", name="one").click()
    _question(page, "Question 2 of 4")
    page.get_by_role("button", name="Not sure").click()
    _question(page, "Question 3 of 4")
    page.get_by_role("button", name="Undo my last answer").click()
    _question(page, "Question 2 of 4")
    page.get_by_text("What the model said").click()
    expect(page.locator("#prediction")).to_contain_text("(88 % sure)")
    assert _labels(console, case) == [1, None, None, None]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase, scheme: str) -> None:
    few, many = make_case(console, 4, double=1), make_case(console, 2, class_names=[f"kind {n}" for n in range(40)])
    text = TextInput(length=3, vocabulary=("", "good", "film"))
    other = make_case(
        console,
        1,
        spec=text.model_dump(mode="json"),
        instance=_words,
    )
    _attach_examples(console, few, 3)
    page = sign_in("Ann", color_scheme=scheme)
    for case, keys in ((few, "2ep+"), (many, ""), (other, ""), (other, "1")):
        page.goto(f"/label/{case.id}")
        for key in keys:
            page.keyboard.press(key)
            expect(page.locator("form.busy")).to_have_count(0)
        violations = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in violations] == []


def test_a_narrow_window_needs_no_sideways_scrolling(
    console: ConsoleServer, sign_in: SignIn, make_case: MakeCase
) -> None:
    case = make_case(console, 2, class_names=["a", "pneumonoultramicroscopicsilicovolcanoconiosis" * 2])
    page = sign_in("Ann", viewport={"width": 320, "height": 640})
    page.goto(f"/label/{case.id}")
    expect(page.locator("#subject")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_who_may_not_label_is_told(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 2)
    page = sign_in("Eve", Role.VIEWER)
    answer = page.goto(f"/label/{case.id}")
    assert answer is not None
    assert answer.status == 403
    expect(page.locator("main")).to_contain_text("needs the role labeller")
