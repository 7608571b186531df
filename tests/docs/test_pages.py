"""The site builds without a warning and fetches nothing; generated pages are up to date; links lead somewhere."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path, PurePosixPath

import pytest

from fieldrepair_service.cli import COMMANDS_GROUP
from fieldrepair_service.log_format import JsonFormatter
from handbook.hooks import ROOT, outside_of, text_of_page
from handbook.licences_page import BUSINESS_SOURCE, UnknownLicenceError, dependencies, licence_of
from handbook.settings_page import PREFIX, settings_page

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="?([^"\s>]+)', text)
        fetched += re.findall(r'<link[^>]*rel="?(?:stylesheet|icon|preload|preconnect)[^>]*href="?([^"\s>]+)', text)
        assert fetched, page
        assert [url for url in fetched if url.startswith(("http:", "https:", "//"))] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text()), style


def test_what_lives_outside_of_the_docs_folder_is_in_the_site(site: Path) -> None:
    assert "Every command on this page is run by a test" in (site / "quickstart.html").read_text()
    assert 'href="quickstart.html"' in (site / "index.html").read_text()
    assert 'href="source/plugin/fieldrepair_plugin/hybrid.py.txt"' in (site / "repair.html").read_text()
    source = "plugin/fieldrepair_plugin/hybrid.py"
    assert (site / "source" / f"{source}.txt").read_text() == (ROOT / source).read_text()
    assert "Unreleased" in (site / "changelog.html").read_text()


def test_links_are_turned_and_others_left_alone() -> None:
    text = "[a](docs/up.md#stopping) [b](CHANGELOG.md) [c](https://delta.io) ![d](docs/images/x.png) [e](LICENSE)"
    assert text_of_page(text, PurePosixPath("README.md")) == (
        "[a](up.md#stopping) [b](changelog.md) [c](https://delta.io) ![d](images/x.png) [e](../LICENSE)"
    )
    assert outside_of("up.md", "../LICENSE") == "LICENSE"
    assert outside_of("up.md", "console.md") is None
    assert outside_of("up.md", "../../etc/passwd") is None


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_links_lead_somewhere_in_the_repository_too(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (folder / target).exists(), f"{page} links to {target}"


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page == settings_page(), "run `python -m handbook`"
    for entry in entry_points(group=COMMANDS_GROUP):
        assert f"| `fieldrepair {entry.name}` |" in page
        for name, field in entry.load().model_fields.items():
            if "SubCommand" not in repr(field.metadata):
                assert f"`{PREFIX}{name.upper()}`" in page, f"{name} of {entry.name}"


def test_a_setting_is_told_with_type_range_and_default() -> None:
    page = (DOCS / "settings.md").read_text()
    assert (
        "| `--window-size` `FIELDREPAIR_WINDOW_SIZE` | whole number, ≥ 10 | 100 | "
        "Field inputs that are judged together. Only full windows are judged. |"
    ) in page
    assert "| `--durability` `FIELDREPAIR_DURABILITY` | `async`, `sync` | `async` |" in page
    assert "| 4194304 (4 MiB) |" in page


def test_every_field_of_log_lines_and_every_span_is_explained() -> None:
    page = (DOCS / "observability.md").read_text()
    record = logging.LogRecord("fieldrepair_service.x", logging.INFO, "x.py", 1, "message", None, None)
    fields = set(json.loads(JsonFormatter("sidecar").format(record))) | {"exception"}
    source = "".join(path.read_text() for path in (ROOT / "service" / "fieldrepair_service").glob("*.py"))
    told = re.findall(r"log\.say\(([^\n]*)\)$", source, re.MULTILINE)
    assert len(told) >= 3
    fields |= {name for call in told for name in re.findall(r"(\w+)=", call)}
    fields |= set(re.findall(r"about\[\"(\w+)\"\]", source)) | {"event", "request_id"}
    assert {"path", "status", "detail", "left_out_before"} <= fields
    explained = "".join(re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE))
    assert {field for field in fields if f"`{field}`" not in explained} == set()

    parts = ("service/fieldrepair_service", "monitoring/fieldrepair_monitoring", "plugin/fieldrepair_plugin")
    code = "".join(path.read_text() for part in parts for path in (ROOT / part).glob("*.py"))
    spans = set(re.findall(r'[._]span\(\s*"([^"]+)"', code))
    assert len(spans) >= 8
    assert {span for span in spans if f"`{span}`" not in page} == set()


def test_nothing_is_installed_under_a_licence_that_nobody_has_looked_at() -> None:
    found = dependencies()  # raises where there is one
    assert len(found) > 80
    assert {package.name for package in found.values() if package.licence == BUSINESS_SOURCE} == {"alibi-detect"}


def test_an_unknown_licence_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "odd-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: odd\nVersion: 1.0\nLicense-Expression: AGPL-3.0-only\n"
    )
    from importlib.metadata import PathDistribution

    with pytest.raises(UnknownLicenceError, match=r"odd 1\.0: its metadata says \['AGPL-3\.0-only'\]"):
        licence_of(PathDistribution(folder))


def test_the_page_of_licences_has_every_dependency_and_says_what_is_so() -> None:
    page = (DOCS / "licences.md").read_text()
    rows = dict(re.findall(r"^\| (\S+) \| ([^|]+) \|", page, re.MULTILINE))
    found = dependencies()
    for package in found.values():
        if package.direct:
            assert rows[f"**{package.name}**"] == package.licence, "run `python -m handbook`"
    # Others come and go with new releases of theirs; those that are on the page must not be wrong.
    for name, licence in rows.items():
        plain = name.strip("*")
        try:
            distribution(plain)
        except PackageNotFoundError:
            continue
        if plain not in ("package", "---"):
            assert licence_of(distribution(plain)) == licence, f"{plain}: run `python -m handbook`"
