"""``fieldrepair lineage``: lineage on the terminal, for people or as JSON."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.lineage import CaseLineage, Lineage, Link, case_lineage, version_lineage
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_service.case_book import open_case_book
from fieldrepair_service.errors import StoreError

_WIDE = 10_000
_CASE = re.compile(r"case:(?P<id>[0-9]+)")


def run_lineage(target: str, case_book_url: str, *, as_json: bool, look_into_log: bool) -> None:
    """Print where a version comes from, or what a case has led to.

    Args:
        target: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``case:ID``.
        case_book_url: for a case.
        as_json: print JSON.
        look_into_log: also say how much of each window the field log still has.

    Raises:
        ModelUriError: the target is none of these, or is not there.
        RegistryError, StoreError: MLflow or a store does not answer.
    """
    case = _CASE.fullmatch(target)
    if case is not None:
        _require_book(case_book_url)
        with open_case_book(case_book_url, migrate=False) as book:
            found: Lineage | CaseLineage = case_lineage(book, int(case["id"]), look_into_log=look_into_log)
    elif target.startswith("models:/"):
        uri = parse_model_uri(target)
        found = version_lineage(uri.name, wanted_version(uri), look_into_log=look_into_log)
    else:
        raise ModelUriError(f"expected models:/NAME/VERSION, models:/NAME@ALIAS or case:ID, got {target!r}")
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
        return
    # Into a file or a pipe, a line is a line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    if isinstance(found, Lineage):
        console.print(tree_of(found))
        return
    console.print(
        f"[bold]case {found.case}[/bold] of {escape(found.model_name)} version {found.model_version}: "
        f"{found.state}{': ' + escape(found.reason) if found.reason else ''}"
    )
    if not found.versions:
        console.print("no version came of it")
    for one in found.versions:
        console.print(tree_of(one))


def tree_of(lineage: Lineage) -> Tree:
    """The chain as a tree, each version below the one that was made from it."""
    root = branch = _branch(lineage.links[0])
    for link in lineage.links[1:]:
        child = _branch(link)
        branch.add(child)
        branch = child
    return root


def _branch(link: Link) -> Tree:
    aliases = "".join(f" [green]@{escape(alias)}[/green]" for alias in link.aliases)
    title = f"[bold]models:/{escape(link.name)}/{link.version}[/bold]{aliases}"
    if link.registered_ms is None:
        return Tree(f"{title} [red]deleted[/red]")
    branch = Tree(title)
    by = f" by run {link.run_id}" if link.run_id else ""
    where = f" [dim]{escape(link.run_url)}[/dim]" if link.run_url else ""
    branch.add(f"registered {_moment(link.registered_ms)}{by}{where}")
    if link.children:
        branch.add(f"repaired as version {', '.join(link.children)}")
    if link.repair is not None:
        for line in _repair_lines(link.repair, link.rows_left):
            branch.add(line)
    elif link.parent_version:
        branch.add(f"a repair of version {link.parent_version}; its run has no record of it")
    return branch


def _repair_lines(repair: dict[str, Any], rows_left: int | None) -> list[str]:
    case, event, window, labels = repair["case"], repair["event"], repair["window"], repair["labels"]
    verdict, agreement = repair["verdict"], labels["agreement"]
    lines = [
        f"case {case['id']}, attempt {case['attempt']}, opened {_moment(case['opened_ms'])}",
        f"drift event {event['id']}, {_moment(event['opened_ms'])}: {escape(event['summary'])}",
    ]
    span = f", {_moment(window['first_ms'])} to {_moment(window['last_ms'])}" if window["first_ms"] else ""
    left = ""
    if rows_left is not None:
        left = "; all of them still there" if rows_left >= window["rows"] else f"; [red]{rows_left} still there[/red]"
    lines.append(f"field log window: {window['rows']} rows of {escape(window['field_log'])}{span}{left}")
    share = "not measured" if agreement["share"] is None else f"{agreement['agreed']} of {agreement['tasks']}"
    lines.append(
        f"labels: {labels['repair']} to learn from, {labels['acceptance']} to judge by, {labels['skipped']} skipped, "
        f"by {len(labels['people'])} labeller(s); agreement {share}"
    )
    rate = "" if verdict["repair_rate"] is None else f", repair rate {verdict['repair_rate']:.1%}"
    word = "[green]accepted[/green]" if verdict["accepted"] else "[red]not accepted[/red]"
    lines.append(f"verdict: {word}{rate}, {verdict['negative_flips']} negative flips, p = {verdict['p_value']:.2g}")
    return lines


def _require_book(url: str) -> None:
    """A case book that is not there must not be made by looking for it."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise StoreError(f"there is no case book at {url}; name it with --case-book or --state-dir")


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
