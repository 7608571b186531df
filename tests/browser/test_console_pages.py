"""Every page of the console in a browser: readable for everybody, in every size and colour, and with keys alone."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from examples.console.serving import Served, serve_console
from fieldrepair_service.case_book import Case, CaseBook, CaseState
from fieldrepair_service.console.security import Security
from fieldrepair_service.roles import Role
from tests.browser.conftest import TOKENS

if TYPE_CHECKING:
    from tests.browser.conftest import ConsoleServer

SignIn = Callable[..., Page]
MakeCase = Callable[..., Case]

_MARKUP = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>"


@pytest.fixture(scope="module")
def served() -> Generator[Served]:
    """A console with the example's story: a case in every state. Only looked at."""
    with serve_console(security=Security(TOKENS)) as console:
        yield console


@pytest.fixture
def visit(chromium: Browser, served: Served) -> Generator[Callable[..., Page]]:
    """A signed-in page of the story's console; the test fails if a page broke its own security policy."""
    problems: list[str] = []
    contexts: list[Any] = []

    def make(**options: Any) -> Page:
        context = chromium.new_context(base_url=served.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        sign_in_at(page, "Ann Meyer", Role.APPROVER)
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


def sign_in_at(page: Page, name: str, role: Role) -> None:
    page.goto("/login")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Token").fill(TOKENS[role])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/login" not in url)


PAGES = {
    "login": "/login",
    "overview": "/",
    "cases": "/cases",
    "audit": "/audit",
    "annotating case": "/cases/{annotating}",
    "training case": "/cases/{training}",
    "accepted case": "/cases/{accepted}",
    "rejected case": "/cases/{rejected}",
    "promote": "/cases/{accepted}/promote",
    "retry": "/cases/{rejected}/retry",
    "dismiss": "/cases/{training}/dismiss",
}


def path_of(served: Served, name: str) -> str:
    assert served.story is not None
    return PAGES[name].format(**asdict(served.story))


@pytest.fixture(scope="module")
def in_colours(chromium: Browser, served: Served) -> Generator[Callable[..., Page]]:
    """A page for each colour scheme, of somebody signed in or of nobody, kept from test to test."""
    pages: dict[tuple[str, bool], Page] = {}

    def make(scheme: Any, *, signed_in: bool) -> Page:
        key = (scheme, signed_in)
        if key not in pages:
            context = chromium.new_context(base_url=served.url, color_scheme=scheme, reduced_motion="reduce")
            pages[key] = context.new_page()
            if signed_in:
                sign_in_at(pages[key], "Ann Meyer", Role.APPROVER)
        return pages[key]

    yield make
    for page in pages.values():
        page.context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_accessibility_violation(
    in_colours: Callable[..., Page], served: Served, scheme: str, name: str
) -> None:
    """In dark only the colours differ, so only they are looked at again."""
    page = in_colours(scheme, signed_in=name != "login")
    page.goto(path_of(served, name))
    assert page.url == served.url + path_of(served, name)  # not somewhere else
    # Closed parts are looked at as well; the hundreds of dots inside charts, each of which is one picture, are not.
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.evaluate("for (const each of document.querySelectorAll('svg circle')) each.remove()")
    response: object = Axe().run(page, options={"runOnly": ["color-contrast"]} if scheme == "dark" else {}).response
    answer = cast("dict[str, list[dict[str, Any]]]", response)
    assert any(each["id"] == "color-contrast" for each in answer["passes"])  # it did look
    serious = [each for each in answer["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []


def test_a_narrow_window_never_scrolls_sideways(visit: Callable[..., Page], served: Served) -> None:
    page = visit(viewport={"width": 360, "height": 740})
    wide: list[str] = []
    for name in PAGES:
        path = path_of(served, name)
        page.goto(path)
        excess: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if excess > 0:
            wide.append(f"{path} by {excess} px")
    assert wide == []


def test_the_overview_says_what_is_served_and_what_waits(visit: Callable[..., Page], served: Served) -> None:
    page = visit()
    page.goto("/")
    digits = page.get_by_role("region", name="digits", exact=True)
    expect(digits).to_contain_text("version 3 is served")
    expect(digits).to_contain_text("Version 4 waits for approval.")
    chart = digits.get_by_role("img", name="Drift statistic as a multiple of its threshold")
    expect(chart.locator("circle")).to_have_count(90)
    expect(chart.locator("line.event")).to_have_count(2)
    digits.get_by_text("The same as a table").click()
    expect(digits.get_by_role("row")).to_have_count(21)
    expect(page.get_by_role("region", name="Traffic")).to_contain_text("not_sampled", use_inner_text=False)
    digits.get_by_role("link", name="decide").click()
    assert served.story is not None
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Case {served.story.accepted}")


def test_the_case_page_explains_a_verdict(visit: Callable[..., Page], served: Served) -> None:
    assert served.story is not None
    page = visit()
    page.goto(f"/cases/{served.story.accepted}")
    expect(page.get_by_role("listitem").filter(has=page.get_by_text("Accepted", exact=True))).to_have_attribute(
        "aria-current", "step"
    )
    result = page.get_by_role("region", name="Acceptance test")
    expect(result).to_contain_text("Repair rate")
    thumbnails = result.locator("ul.thumbs img")
    assert thumbnails.count() >= 5
    thumbnails.first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('ul.thumbs img').naturalWidth > 0")
    result.get_by_text("Confusion before and after").click()
    expect(result.get_by_role("table", name="Before").locator("tbody tr")).to_have_count(10)
    labels = page.get_by_role("region", name="Labels and regions")
    expect(labels.locator("svg.map circle.exemplar")).to_have_count(24)
    expect(labels.locator("svg.map circle:not(.exemplar)")).to_have_count(600)
    expect(page.get_by_role("img", name="Field inputs most unlike the reference")).to_be_visible()
    run = page.get_by_role("region", name="Records").get_by_role("link").first
    assert (run.get_attribute("href") or "").startswith("http://127.0.0.1:5000/#/runs/")


def test_an_empty_console_says_what_to_do(console: ConsoleServer, sign_in: SignIn) -> None:
    page = sign_in()
    expect(page.get_by_role("main")).to_contain_text("No model server is named yet")
    expect(page.get_by_role("main")).to_contain_text("No model is known yet")
    for path, text in (("/cases", "There is no repair case."), ("/audit", "Nothing has been recorded.")):
        page.goto(path)
        expect(page.get_by_role("main")).to_contain_text(text)
    page.goto("/cases/7")
    expect(page.get_by_role("alert")).to_have_text("there is no case 7")


def test_signing_in_and_promoting_with_keys_alone(
    console: ConsoleServer, chromium: Browser, make_case: MakeCase
) -> None:
    case = accepted(console.book, make_case(console, 2).id)
    context = chromium.new_context(base_url=console.url)
    page = context.new_page()
    page.goto(f"/cases/{case.id}")
    press = page.keyboard
    expect(page.get_by_label("Your name")).to_be_focused()
    press.type("Ann")
    press.press("Tab")
    press.type("not the token")
    press.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This token is not known. Check it and try again.")
    expect(page.get_by_label("Token")).to_be_focused()
    press.type(TOKENS[Role.APPROVER])
    press.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Case {case.id}")  # where it was going
    press.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    press.press("Enter")
    focus(page, "Promote version 4")
    press.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Promote the candidate")
    expect(page.get_by_role("main")).to_contain_text("moves from version 3 to version 4")
    focus(page, "Promote")
    press.press("Enter")
    expect(page.get_by_role("main")).to_contain_text("Approved by Ann")
    approval = console.book.case(case.id).approval
    assert approval is not None
    assert (approval.by, approval.version, approval.moved_ms) == ("Ann", "4", None)
    entry = console.book.audit_trail(1)[0]
    assert (entry.actor, entry.role, entry.action, entry.target) == ("Ann", "approver", "promote", f"case {case.id}")
    console.book.answer_approval(case.id)  # the watcher has moved the alias: the page hears of it
    expect(page.get_by_role("main")).to_contain_text("the alias is on version 4")
    focus(page, "Sign out")
    press.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto(f"/cases/{case.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    context.close()


def test_a_link_from_elsewhere_finds_who_is_signed_in(console: ConsoleServer, sign_in: SignIn) -> None:
    page = sign_in()
    # Another host name is another site: from there, the first request comes without the session's cookie.
    page.route("http://chat.example/", lambda route: route.fulfill(body=f'<a href="{console.url}/audit">link</a>'))
    page.goto("http://chat.example/")
    page.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit trail")


def test_retrying_and_dismissing_with_a_reason(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 2)
    console.book.transition(case.id, CaseState.REJECTED, "too few labels")
    page = sign_in("Ann")
    page.goto(f"/cases/{case.id}")
    page.get_by_role("link", name="Try again").click()
    expect(page.get_by_role("main")).to_contain_text("attempt 2")
    page.get_by_label("Reason").fill("more inputs have come in")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Nothing has been chosen to label yet.")).to_be_visible()
    page.get_by_role("link", name="Dismiss").click()
    page.get_by_label("Reason").fill("the camera was replaced")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("h1 + .badge")).to_have_text("dismissed")
    assert console.book.case(case.id).state is CaseState.DISMISSED
    page.goto("/audit")
    expect(page.get_by_role("row").nth(1)).to_contain_text("Ann")
    expect(page.get_by_role("row").nth(1)).to_contain_text("the camera was replaced")
    expect(page.get_by_role("row").nth(2)).to_contain_text("retry")


def test_who_may_not_decide_is_told_so(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(console, 2)
    for role, may_label in ((Role.VIEWER, False), (Role.LABELLER, True)):
        page = sign_in("Vic", role)
        page.goto(f"/cases/{case.id}")
        expect(page.get_by_role("main")).to_contain_text(f"need the role approver; yours is {role}.")
        expect(page.get_by_role("link", name="Label 2 inputs")).to_have_count(int(may_label))
        expect(page.get_by_role("link", name="Dismiss")).to_have_count(0)
        page.goto(f"/cases/{case.id}/dismiss")
        expect(page.get_by_role("alert")).to_have_text(f"this needs the role approver, and Vic has the role {role}")
    assert console.book.case(case.id).state is CaseState.ANNOTATING


def test_live_progress_goes_on_after_the_server_restarts(
    console: ConsoleServer, sign_in: SignIn, make_case: MakeCase
) -> None:
    case = make_case(console, 1)
    book = console.book
    book.submit(book.tasks(case.id)[0].id, 0, "Ann")
    book.transition(case.id, CaseState.TRAINING)
    book.update_progress(case.id, {"stage": "supervised", "done": 1, "total": 9, "epoch": 1, "epochs": 10})
    page = sign_in("Ann", Role.VIEWER)
    page.goto(f"/cases/{case.id}")
    epochs = page.get_by_label("Epochs")
    expect(epochs).to_have_attribute("value", "1")
    book.update_progress(case.id, {"stage": "training", "done": 2, "total": 10, "epoch": 2, "epochs": 10})
    expect(epochs).to_have_attribute("value", "2")
    expect(page.get_by_role("status")).to_contain_text("epoch 2 of 10 finished")
    console.stop()
    expect(page.get_by_text("connection lost, trying again")).to_be_visible()
    book.update_progress(case.id, {"stage": "supervised", "done": 5, "total": 9, "epoch": 3, "epochs": 10})
    console.start()
    expect(epochs).to_have_attribute("value", "3", timeout=20_000)
    expect(page.get_by_text("connection lost, trying again")).to_be_hidden()
    book.transition(case.id, CaseState.REJECTED, "no repair found")
    expect(page.get_by_role("heading", name="No repair found")).to_be_visible(timeout=10_000)  # the page loads anew


def test_markup_in_names_is_shown_as_text(console: ConsoleServer, sign_in: SignIn, make_case: MakeCase) -> None:
    case = make_case(
        console, 4, class_names=[f"cat{_MARKUP}", "dog", "\"quoted\" 'name'"], model_name=f"model{_MARKUP}"
    )
    book = console.book
    for task in book.tasks(case.id):
        book.submit(task.id, 0, f"Bo{_MARKUP}")
    event = book.events()[0]
    row = {"name": _MARKUP, "reference_share": 0.1, "field_share": 0.2, "change": 0.1, "p_value": 0.01}
    unlike = {"request_id": _MARKUP, "row": 0, "distance": 1.0, "predicted_class": _MARKUP, "neighbour_index": 0}
    book.explain_event(event.id, {"summary": _MARKUP, "classes": [row], "unlike": [unlike]})
    points = b'{"method":"<script>","of":1,"tau":null,"points":[[0.5,0.5,0.5,0,1]]}'
    book.attach(case.id, "map.json", "application/json", points)
    book.attach(case.id, "page.html", "text/html", _MARKUP.encode())
    accepted(book, case.id, note=f"note {_MARKUP}", reason=f"reason {_MARKUP}")
    page = sign_in(f"Ann{_MARKUP}"[:100])
    for path in ("/", "/cases", f"/cases/{case.id}", f"/cases/{case.id}/promote", "/audit", "/login"):
        page.goto(path)
        assert page.evaluate("window.pwned") is None, path
        expect(page.locator("main img[src=x], main script")).to_have_count(0)
    page.goto(f"/cases/{case.id}")
    expect(page.get_by_role("main")).to_contain_text(f"reason {_MARKUP}")
    expect(page.locator("#live")).to_contain_text(f"note {_MARKUP}")
    book.update_case(case.id, note=f"another note {_MARKUP}")  # comes by server-sent events
    expect(page.locator("#live")).to_contain_text(f"another note {_MARKUP}")
    assert page.evaluate("window.pwned") is None
    answer = page.request.get(f"/cases/{case.id}/attachments/page.html")
    assert answer.headers["content-disposition"] == "attachment"


def test_markup_that_came_through_the_api_is_shown_as_text(
    console: ConsoleServer, sign_in: SignIn, make_case: MakeCase
) -> None:
    """Client request ids and header values are those of the traffic: the fixture has markup in both."""
    case = make_case(console, 4, model_name=f"model{_MARKUP}")
    row = (
        console.log.read_rows([(task.request_id, 0) for task in console.book.tasks(case.id)][:1])
        .to_table()
        .to_pylist()[0]
    )
    assert "<img" in row["client_request_id"]
    assert "<script>" in dict(row["headers"])["user-agent"]
    asked = console.book.tasks(case.id)[0]
    page = sign_in("Ann")
    send = page.request.post
    bearer = {"authorization": f"Bearer {TOKENS[Role.APPROVER]}"}
    truth = {"client_request_id": row["client_request_id"], "label": _MARKUP}
    stored = send("/api/labels", headers=bearer, data={"source": f"desk{_MARKUP}"[:100], "labels": [truth]})
    assert stored.json()["stored"] == 1
    lines = f'task_id,label,labeller\n{asked.id},one,"Cyd{_MARKUP}"\n'
    plain = {**bearer, "content-type": "text/csv"}
    assert send(f"/api/cases/{case.id}/labels/csv", headers=plain, data=lines).json()["stored"] == 1
    refused = send(f"/api/cases/{case.id}/labels/csv", headers=plain, data=f'task_id,label\n{asked.id},"{_MARKUP}"\n')
    assert (refused.status, refused.headers["content-type"]) == (422, "application/json")
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert "line 2" in refused.json()["detail"]
    for path in ("/", "/cases", f"/cases/{case.id}", f"/label/{case.id}", "/audit", f"/cases/{case.id}/{_MARKUP}"):
        page.goto(path)
        assert page.evaluate("window.pwned") is None, path
        expect(page.locator("img[src=x], main script, main img[onerror]")).to_have_count(0)
    page.goto("/audit")
    for text in (f"desk{_MARKUP}"[:100], f"Cyd{_MARKUP}"):
        expect(page.get_by_role("main")).to_contain_text(text)


def accepted(book: CaseBook, case_id: int, note: str = "", reason: str = "better") -> Case:
    """The case as the worker leaves it with candidate 4."""
    book.transition(case_id, CaseState.TRAINING)
    book.update_case(case_id, candidate_version="4")
    return book.transition(case_id, CaseState.ACCEPTED, reason, note=note)


def focus(page: Page, name: str) -> None:
    """Press Tab until the link or button of this name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    raise AssertionError(f"Tab never came to {name!r}")
