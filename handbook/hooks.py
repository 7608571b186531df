"""Hooks of mkdocs: pages that live outside of ``docs/``, and source files that pages link to.

The README is the site's first page. Links are written for the repository's web view; here they are turned into the
site's. A link to a file that no page is made of gets a copy of it, as plain text.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository's root -> pages of the site."""

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_INFO = re.compile(r"^```(\w+) \w+$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that live in the repository's root, and what pages link to."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text_of_page(text, PurePosixPath(name))))
    texts = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for page, text in texts:
        for target in re.findall(r"\]\(([^)\s#]+)", text):
            source = outside_of(page, target)
            if source is not None and files.get_file_from_path(copy_of(source)) is None:
                content = (ROOT / source).read_text(encoding="utf-8")
                files.append(File.generated(config, copy_of(source), content=content))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that nobody has given a place at the end of the navigation, so that they can be found."""
    nav = cast("list[object]", config.nav or [])
    named = set(re.findall(r"[\w-]+\.md", str(nav)))
    others = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    if others:
        config.nav = [*nav, {"More": others}]
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site."""
    del config, files
    text = _INFO.sub(r"```\1", markdown)  # a second word names the block for a test

    def replaced(match: re.Match[str]) -> str:
        source = outside_of(page.file.src_uri, match[2])
        if source is None:
            return match[0]
        found = PAGES.get(source) or copy_of(source)
        return f"{match[1]}{relpath(found, str(PurePosixPath(page.file.src_uri).parent))}{match[3] or ''}{match[4]}"

    return _LINK.sub(replaced, text)


def text_of_page(text: str, place: PurePosixPath) -> str:
    """A page of the repository's root as one of ``docs/``: its links to ``docs/...`` lose that folder.

    Args:
        text: the page's Markdown.
        place: where it is in the repository.
    """

    def replaced(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        target = normpath(str(place.parent / target))
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            target = f"../{target}"
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return _LINK.sub(replaced, text)


def outside_of(page: str, target: str) -> str | None:
    """The file of the repository, outside of ``docs/``, that a page's link leads to; None if it is none."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = normpath(f"docs/{PurePosixPath(page).parent}/{target}")
    return None if path.startswith(("docs/", "../")) or not (ROOT / path).is_file() else path


def copy_of(source: str) -> str:
    """Where the copy of a repository's file is in the site."""
    return f"source/{source}.txt"
