"""The labelling page in a browser, as people use it: with keys alone, in twos, with a thousand classes."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from fieldrepair_service.case_book import Case
from fieldrepair_service.roles import Role

MakeCase = Callable[..., Case]


def _question(page: Page, text: str) -> None:
    expect(page.locator("#task-heading")).to_have_text(text)


def test_forty_questions_with_the_keyboard_alone(console, sign_in, make_case: MakeCase) -> None:
    case = make_case(console, 40)
    page = sign_in("Ann", Role.LABELLER)
    page.goto(f"/label/{case.id}")
    for number in range(1, 41):
        _question(page, f"Question {number} of 40")
        page.keyboard.press(str(1 + number % 3))
    _question(page, "All questions are answered")
