"""``python -m handbook``: write the pages that are generated."""

from __future__ import annotations

from handbook.hooks import ROOT
from handbook.licences_page import licences_page
from handbook.settings_page import settings_page


def main() -> None:
    """Write them."""
    for name, page in (("settings.md", settings_page()), ("licences.md", licences_page())):
        (ROOT / "docs" / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
