"""What ``fieldrepair backtest`` does: replay a stored field log or a benchmark case."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING

from fieldrepair_monitoring.backtest import Replay, ReplayWindow, replay
from fieldrepair_monitoring.errors import FieldInputsMissingError
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.watched_version import WatchedVersion
from fieldrepair_monitoring.windows import NothingUsable, WindowReader
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.field_log import Cursor, FieldLog

if TYPE_CHECKING:
    from fieldrepair_monitoring.commands import BacktestCommand

TOGETHER = "together"
"""What all detectors make when they decide together, as the monitor lets them."""


def run_backtest(settings: BacktestCommand) -> list[Replay]:
    """Replay what the settings name.

    Returns:
        One replay per detector, each as if it had been alone; if there are several, one of all together.

    Raises:
        ConfigurationError: neither a case nor a model version is named.
        FieldInputsMissingError: the field log has not one full window of that version and time.
        FieldRepairError: hand-over, model, case or field log cannot be read.
    """
    import torch

    if settings.monitor_threads is not None:
        torch.set_num_threads(settings.monitor_threads)
    if settings.backtest_case is not None:
        from fieldrepair_monitoring.backtest_case import load_case

        case = load_case(settings.backtest_case, device=settings.torch_device, seed=settings.monitor_seed)
        windows = case.windows(settings.window_size, calm=settings.backtest_calm_windows, seed=settings.monitor_seed)
        return _replay(settings, case.handover, case.model, windows)
    if settings.model_name is None or settings.backtest_version is None:
        raise ConfigurationError(
            "say what to replay: --model-name and --backtest-version for a stored field log, or --backtest-case "
            "FILE.npz"
        )
    settings.use_registry()
    cache = settings.state_dir / "cache" / "handovers"
    handover = load_handover(settings.model_name, settings.backtest_version, cache)
    module = load_module(settings.model_name, settings.backtest_version)
    model = ServedModel(module, handover, device=settings.torch_device)
    return _replay(settings, handover, model, _stored(settings, handover, settings.backtest_version))


def _replay(
    settings: BacktestCommand, handover: HandOver, model: ServedModel, windows: Iterator[ReplayWindow]
) -> list[Replay]:
    names = settings.detector_names_for(handover.input)
    watched = {name: WatchedVersion(handover, model, _only(settings, name)) for name in names}
    if len(names) > 1:
        watched[TOGETHER] = WatchedVersion(handover, model, settings)
    found = replay(
        watched,
        islice(windows, settings.backtest_windows),
        settings,
        lambda inputs: model.scores(inputs).argmax(axis=1),
    )
    if found[0].windows == 0:
        raise FieldInputsMissingError(
            f"there is not one full window of {settings.window_size} field inputs of models:/{settings.model_name}/"
            f"{settings.backtest_version} in {settings.field_log_uri} in the time asked for"
        )
    return found


def _only(settings: MonitorSettings, detector: str) -> MonitorSettings:
    return settings.model_copy(update={"detectors": detector})


def _stored(settings: BacktestCommand, handover: HandOver, version: str) -> Iterator[ReplayWindow]:
    """The windows of the time asked for, cut from the beginning of the log as the monitor cuts them."""
    spec = handover.input
    log = FieldLog.open(settings.field_log_uri)
    reader = WindowReader(log, str(settings.model_name), version, spec=spec, size=settings.window_size)
    since, until, shift = map(_ms, (settings.backtest_since, settings.backtest_until, settings.backtest_shift_at))
    position: Cursor = {}
    while (found := reader.next(position)) is not None:
        position = found.cursor_end
        if isinstance(found, NothingUsable) or (since is not None and found.first_timestamp_ms < since):
            continue
        if until is not None and found.first_timestamp_ms >= until:
            return
        times = found.first_timestamp_ms, found.last_timestamp_ms
        yield ReplayWindow(found.inputs, None, times, shifted=None if shift is None else times[1] >= shift)


def _ms(when: datetime | None) -> int | None:
    """Epoch milliseconds; a time without a zone is UTC."""
    if when is None:
        return None
    return round((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() * 1000)
