"""Pages whose middle is measured: what people wrote stays, what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path

from fieldrepair_service.errors import InputError

END = "<!-- to here -->"


def write_measured(page: Path, begin: str, measured: str) -> None:
    """Replace what stands between the marks of a page; a page that is not there is made of them.

    Raises:
        InputError: if it has not got both marks.
    """
    before = page.read_text(encoding="utf-8") if page.exists() else f"# {page.stem.capitalize()}\n\n{begin}\n{END}\n"
    page.write_text(with_measured(before, begin, measured, str(page)), encoding="utf-8")


def with_measured(text: str, begin: str, measured: str, name: str = "the page") -> str:
    """The text with what is between its marks replaced.

    Raises:
        InputError: if it has not got both.
    """
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise InputError(f"expected {name} to have a line {begin!r} and after it a line {END!r}")
    return f"{before}{begin}\n\n{measured}\n\n{END}{after}"
