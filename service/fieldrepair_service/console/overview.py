"""The overview: per model what is served, how far the field has drifted, and what waits for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from fieldrepair_service.case_book import OPEN_STATES, Case, CaseBook, CaseState, DriftEvent, TaskCounts, WindowRecord
from fieldrepair_service.console.charts import Panel, Series, accuracy_panel, drift_panel, sparkline
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, viewer
from fieldrepair_service.console.throughput import Throughput
from fieldrepair_service.console.traffic import Served, TrafficSource
from fieldrepair_service.console.trials import CanaryView, ShadowView, running_trials
from fieldrepair_service.exchange import UNKNOWN_MODEL
from fieldrepair_service.stores import Stores

_WINDOWS = 120
_VERSIONS = 3
_EVENTS = 20
_CASES_PER_PAGE = 100


@dataclass(frozen=True)
class OpenCase:
    """A case and how far its labels are."""

    case: Case
    counts: TaskCounts


@dataclass(frozen=True)
class ModelView:
    """What the overview says about one model."""

    name: str
    served: list[str]
    """Versions that requests are sent to, that of most sidecars first; several while a rollout is under way."""
    watched: str | None
    """The version that the monitor judged last."""
    drift: Panel | None
    accuracy: Panel | None
    windows: list[tuple[str, WindowRecord]]
    """The last windows with their version, newest first: the table for those who do not see the charts."""
    events: list[DriftEvent]
    open_event: DriftEvent | None
    open_cases: list[OpenCase]
    waiting: list[Case]
    """Accepted cases: their candidate waits for approval."""
    rejected: list[Case]
    shadow: ShadowView | None
    """Of the candidate, while it runs."""
    canary: CanaryView | None
    """Of a version on its way in."""


def overview_router(pages: Pages, stores: Stores, traffic: TrafficSource, throughput: Throughput) -> APIRouter:
    """Routes ``/``, ``/cases`` and ``/audit``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def overview(request: Request, visitor: Annotated[Visitor, Depends(viewer)]) -> Response:
        view = await traffic.view()
        served = [share.served for share in view.served]

        def render() -> Response:
            rates = throughput.rates()
            return pages.render(
                request,
                "overview.html",
                visitor,
                traffic=view,
                numbers=view.numbers,
                models=model_views(stores.book, served),
                rate=rates[-1] if rates else None,
                rate_line=sparkline(rates),
            )

        return await run_in_threadpool(render)

    @router.get("/cases")
    def cases(
        request: Request, visitor: Annotated[Visitor, Depends(viewer)], state: CaseState | None = None
    ) -> Response:
        found = stores.book.cases(state, limit=_CASES_PER_PAGE)
        counts = stores.book.task_counts_of(found)
        return pages.render(
            request,
            "cases.html",
            visitor,
            cases=[OpenCase(case, counts[case.id]) for case in found],
            state=state,
            states=list(CaseState),
            limit=_CASES_PER_PAGE,
        )

    @router.get("/audit")
    def audit(
        request: Request,
        visitor: Annotated[Visitor, Depends(viewer)],
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    ) -> Response:
        entries = stores.book.audit_trail(limit=_CASES_PER_PAGE, before_id=before)
        return pages.render(
            request, "audit.html", visitor, entries=entries, more=len(entries) == _CASES_PER_PAGE, before=before
        )

    return router


def model_views(book: CaseBook, active: Sequence[Served]) -> list[ModelView]:
    """One view per model that is served, watched or under repair; the served one first."""
    checkpoints = sorted(book.checkpoints(), key=lambda checkpoint: checkpoint.updated_ms)
    cases = book.cases(limit=_CASES_PER_PAGE)
    served = [one for one in active if one.model_name != UNKNOWN_MODEL]
    named: list[str] = [one.model_name for one in served]
    named += [checkpoint.model_name for checkpoint in reversed(checkpoints)]
    named += [case.model_name for case in cases]
    views: list[ModelView] = []
    for name in dict.fromkeys(named):
        versions = [checkpoint.model_version for checkpoint in checkpoints if checkpoint.model_name == name]
        views.append(
            _model_view(
                book,
                name,
                [one.model_version for one in served if one.model_name == name],
                versions[-_VERSIONS:],
                [case for case in cases if case.model_name == name],
            )
        )
    return views


def _model_view(
    book: CaseBook, name: str, served: list[str], versions: Sequence[str], cases: Sequence[Case]
) -> ModelView:
    series = [Series(version, book.windows(name, version, limit=_WINDOWS)) for version in versions]
    series = sorted((each for each in series if each.windows), key=lambda each: each.windows[0].last_timestamp_ms)
    windows = [(each.version, window) for each in series for window in each.windows]
    events = book.events(name, limit=_EVENTS)
    reference = next((event.reference_accuracy for event in events if event.reference_accuracy is not None), None)
    working = [case for case in cases if case.state in OPEN_STATES and case.state is not CaseState.ACCEPTED]
    counts = book.task_counts_of(working)
    shadow, canary = running_trials(book, name)
    return ModelView(
        name=name,
        served=served,
        watched=versions[-1] if versions else None,
        drift=drift_panel(name, series, events) if windows else None,
        accuracy=accuracy_panel(name, series, events, reference),
        windows=sorted(windows, key=lambda each: each[1].last_timestamp_ms, reverse=True)[:20],
        events=events,
        open_event=next((event for event in events if event.ended_ms is None), None),
        open_cases=[OpenCase(case, counts[case.id]) for case in working],
        waiting=[case for case in cases if case.state is CaseState.ACCEPTED],
        rejected=[case for case in cases if case.state is CaseState.REJECTED],
        shadow=shadow,
        canary=canary,
    )
