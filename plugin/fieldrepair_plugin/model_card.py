"""The model card of a repair: one page of Markdown from which a reviewer can approve it, or see why not.

It is stored in the repair's run, ``repair/model_card.md``, beside the pictures that it shows, and as the description of
the model version, where MLflow's databases have room for 5,000 characters: what does not fit there is left out, the
least important first, and the description says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote

from fieldrepair_plugin.acceptance import ClassVerdict, SampleVerdict, Verdict
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.label_evidence import LabelEvidence
from fieldrepair_plugin.paired import Share
from fieldrepair_plugin.repair_run import ARTIFACT_FOLDER
from fieldrepair_service.case_book import Case, DriftEvent

CARD_FILE = "model_card.md"
DESCRIPTION_LIMIT = 5000
"""Characters that MLflow's databases have for the description of a model version."""
_MOST_EXAMPLES = 10
_MOST_CLASSES = 30


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says."""

    case: Case
    event: DriftEvent
    window: FieldLogWindow
    labels: LabelEvidence
    verdict: Verdict
    class_names: Sequence[str]
    training: Mapping[str, object]
    """How it was trained: name -> value, in the order to be shown."""
    examples: Mapping[str, tuple[int, Sequence[str]]]
    """``repaired`` and ``broken`` -> how many, and some of them in words."""
    files: Sequence[str]
    """Files beside the card that belong to the examples."""
    by_request: bool
    """Whether no request has inputs both in training and in the acceptance sample."""
    run_id: str
    run_url: str
    """Where the run can be seen."""


@dataclass(frozen=True)
class _Section:
    title: str
    lines: Sequence[str]
    rank: int
    """What is left out first where there is little room: the highest."""


def model_card(facts: CardFacts, *, limit: int | None = None) -> str:
    """The card as Markdown.

    Args:
        facts: what it says.
        limit: at most so many characters; sections are left out, and what is still too long is cut.
    """
    sections = [
        _Section("What shifted", _shift(facts), 1),
        _Section("Better and worse", _comparison(facts.verdict), 0),
        _Section("Why this verdict", [f"- {_escaped(reason)}" for reason in facts.verdict.reasons], 2),
        _Section("What was not judged", _not_judged(facts), 1),
        _Section("What was labelled", _labels(facts), 3),
        _Section("Class by class", _classes(facts), 6),
        _Section("Examples", _examples(facts), 7),
        _Section("How it was trained", _training(facts), 5),
        _Section("Where it comes from", _lineage(facts), 4),
        _Section("Approve, and roll back", _decision(facts), 0),
    ]
    left_out: list[_Section] = []
    text = _rendered(facts, sections, left_out)
    while limit is not None and len(text) > limit and any(section.rank for section in sections):
        last = max(sections, key=lambda section: section.rank)
        sections.remove(last)
        left_out.append(last)
        text = _rendered(facts, sections, left_out)
    return text if limit is None or len(text) <= limit else f"{text[: limit - 4].rstrip()} ..."


def _rendered(facts: CardFacts, sections: Sequence[_Section], left_out: Sequence[_Section]) -> str:
    case, accepted = facts.case, facts.verdict.accepted
    lines = [
        f"# {case.model_name}: repair of version {case.model_version} (case {case.id}, attempt {case.attempt})"
        if accepted
        else f"# {case.model_name}: no repair of version {case.model_version} found (case {case.id})",
        "",
        "**Passed its acceptance test**; waits for approval." if accepted else "**Did not pass its acceptance test**.",
    ]
    for section in sections:
        lines += ["", f"## {section.title}", "", *section.lines]
    if left_out:
        names = ", ".join(section.title.lower() for section in left_out)
        whole = f"The whole card is `{ARTIFACT_FOLDER}/{CARD_FILE}` in [the run]({facts.run_url})."
        lines += ["", f"Left out here, for want of room: {names}. {whole}"]
    return "\n".join(lines) + "\n"


def _shift(facts: CardFacts) -> list[str]:
    event, explanation = facts.event, facts.event.explanation
    p_value = "" if event.p_value is None else f", p = {event.p_value:.2g}"
    lines = [
        _escaped(event.summary),
        "",
        f"- Drift event {event.id}, {_moment(event.opened_ms)}, after {event.field_inputs_until_alert} field inputs: "
        f"`{event.detector}` {event.statistic:.3g} over {event.threshold:.3g}{p_value}",
    ]
    if event.estimated_accuracy is not None and event.reference_accuracy is not None:
        lines.append(
            f"- Accuracy estimated without labels: {event.estimated_accuracy:.1%}, on the reference "
            f"{event.reference_accuracy:.1%}"
        )
    told = None if explanation is None else explanation.get("summary")
    if isinstance(told, str):
        lines.append(f"- {_escaped(told)}")
    return lines


def _comparison(verdict: Verdict) -> list[str]:
    rate = "no mistakes to repair" if verdict.repair_rate is None else _share(verdict.repair_rate)
    return [
        "| | inputs | before | after | repaired | broken |",
        "|---|---|---|---|---|---|",
        _row("field (acceptance sample)", verdict.field),
        _row("reference (validation)", verdict.reference),
        "",
        f"- Repair rate, the share of field mistakes that are right now: {rate}",
        f"- Negative flips, right before and wrong now: {verdict.negative_flips} of {verdict.field.counts.n}",
        f"- Better in the field? Exact one-sided McNemar test, p = {verdict.p_value:.2g}, needed: below "
        f"{verdict.alpha:g}",
        f"- Loss on the reference: at most {100 * verdict.loss_bound:.2f} points with {1 - verdict.alpha:.0%} "
        f"confidence, needed: below {100 * verdict.margin:g} (a negative number is a gain)",
        "",
        "In brackets: 95 % confidence intervals.",
    ]


def _row(name: str, sample: SampleVerdict) -> str:
    counts = sample.counts
    before, after = _share(sample.champion_accuracy), _share(sample.candidate_accuracy)
    return f"| {name} | {counts.n} | {before} | {after} | {counts.repaired} | {counts.broken} |"


def _not_judged(facts: CardFacts) -> list[str]:
    verdict = facts.verdict
    few = [one for one in verdict.classes if not one.judged]
    lines: list[str] = []
    if few:
        listed = ", ".join(f"{_escaped(one.name)} ({one.inputs})" for one in few[:_MOST_CLASSES])
        listed += f" and {len(few) - _MOST_CLASSES} more" if len(few) > _MOST_CLASSES else ""
        lines.append(
            f"- Single classes with too few reference inputs (fewer than {few[0].needed}): {listed}. Such a class may "
            "have become worse without anybody noticing."
        )
    else:
        lines.append("- Every class had enough reference inputs to be judged.")
    lines.append(f"- Single classes in the field: {verdict.field.counts.n} labels are for all classes together.")
    lines.append("- Traffic after the window below: it may differ from what was labelled.")
    if not facts.by_request:
        lines.append(
            "- How much of the gain is resemblance: requests were so large that single ones have inputs both in "
            "training and in the acceptance sample, and inputs of one request resemble each other."
        )
    return lines


def _labels(facts: CardFacts) -> list[str]:
    labels, agreement = facts.labels, facts.labels.agreement
    people = ", ".join(f"{_escaped(name)} ({count})" for name, count in sorted(labels.people.items()))
    lines = [
        f"- {labels.repair} field inputs to learn from (budget {facts.case.budget or 0}), {labels.acceptance} to judge "
        "by, drawn at random before anything else and never trained on",
        f"- By {len(labels.people)} {'person' if len(labels.people) == 1 else 'people'}: {people or 'nobody'}"
        + (f"; {labels.ground_truth} from ground truth" if labels.ground_truth else ""),
    ]
    if labels.skipped:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in labels.reasons.items())
        lines.append(f"- Not answered with a class: {labels.skipped} ({reasons})")
    if agreement.share is None:
        lines.append("- Agreement: not measured, no input was labelled by two people")
    else:
        kappa = "" if agreement.kappa is None else f", {agreement.statistic}'s kappa {agreement.kappa:.2f}"
        lines.append(f"- Agreement: {agreement.agreed} of {agreement.tasks} inputs that two people labelled{kappa}")
    counts = ", ".join(f"{_escaped(name)} {count}" for name, count in labels.classes.items())
    return [*lines, f"- Labels of each class: {counts}"]


def _classes(facts: CardFacts) -> list[str]:
    """Reference and field, class by class, with what the evidence is."""
    verdict = facts.verdict
    lines = [
        "| class | reference inputs | repaired | broken | loss at most (points) | verdict "
        "| field inputs | before | after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(verdict.classes):
        total = sum(verdict.field.champion_confusion[number])
        before, after = (
            _share(Share.of(confusion[number][number], total, "wilson"))
            for confusion in (verdict.field.champion_confusion, verdict.field.candidate_confusion)
        )
        bound = "" if one.bound is None else f"{100 * one.bound:.1f}"
        lines.append(
            f"| {_escaped(one.name)} | {one.inputs} | {one.repaired} | {one.broken} | {bound} | {_said(one)} "
            f"| {total} | {before} | {after} |"
        )
    return lines


def _said(one: ClassVerdict) -> str:
    return ("passed" if one.passed else "not passed") if one.judged else "too few to judge"


def _examples(facts: CardFacts) -> list[str]:
    """Of repaired and broken acceptance inputs: the truth, what was answered, what is answered now."""
    lines: list[str] = []
    for name, (count, some) in facts.examples.items():
        listed = Counter(some).most_common(_MOST_EXAMPLES)
        more = count - sum(times for _, times in listed)
        lines += [f"**{name.capitalize()}: {count}**", ""]
        lines += [f"- {_escaped(words)}" + (f" ({times} times)" if times > 1 else "") for words, times in listed]
        lines += [f"- ... and {more} more", ""] if more else [""]
        pictures = [file for file in facts.files if file.startswith(name)]
        lines += [f"![{name}]({file})" if file.endswith(".png") else f"[{file}]({file})" for file in pictures]
        lines.append("")
    return lines[:-1]


def _training(facts: CardFacts) -> list[str]:
    return [f"- {name}: {value}" for name, value in facts.training.items()]


def _lineage(facts: CardFacts) -> list[str]:
    case, window = facts.case, facts.window
    parent = f"#/models/{quote(case.model_name, safe='')}/versions/{case.model_version}"
    span = ""
    if window.first_ms is not None and window.last_ms is not None:
        span = f", asked for from {_moment(window.first_ms)} to {_moment(window.last_ms)}"
    return [
        f"- Parent: [version {case.model_version}]({facts.run_url.partition('#')[0]}{parent})",
        f"- Case {case.id}, opened {_moment(case.created_ms)} by drift event {case.event_id}",
        f"- Field inputs: {window.rows} rows of `{window.field_log}`{span}. In the run they are the dataset "
        "`field-log-window`; `mlflow.data.get_source(...).load()` reads them again",
        "- Labels: `repair/labels.csv` in the run",
        f"- Run: [{facts.run_id}]({facts.run_url})",
    ]


def _decision(facts: CardFacts) -> list[str]:
    case = facts.case
    if not facts.verdict.accepted:
        return [f"Nothing to approve: version {case.model_version} goes on being served."]
    return [
        f"Approve it with the button on the page of case {case.id}, or by moving the alias `champion` of "
        f"`{case.model_name}` to this version. Roll back by moving it back:",
        "",
        "```python",
        f'mlflow.MlflowClient().set_registered_model_alias("{case.model_name}", "champion", "{case.model_version}")',
        "```",
    ]


def _share(share: Share | None) -> str:
    return "" if share is None else f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _escaped(text: str) -> str:
    """Words from outside (class names, labellers, summaries) that must not become Markdown or HTML of their own."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
