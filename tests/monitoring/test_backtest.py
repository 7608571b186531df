"""Replays say what the monitor would have said, window by window, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fieldrepair_monitoring.backtest import Replay, table
from fieldrepair_monitoring.backtest_case import load_case
from fieldrepair_monitoring.backtest_run import run_backtest
from fieldrepair_monitoring.commands import BacktestCommand
from fieldrepair_monitoring.errors import FieldInputsMissingError, HandOverError, ReferenceSetError
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.resnet8 import ResNet8
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_service.case_book import open_case_book
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.field_log import FieldLog

if TYPE_CHECKING:
    from tests.monitoring.conftest import Digits, FieldWriter, Registered

MakeSettings = Callable[..., MonitorSettings]


def command(settings: MonitorSettings, **changes: Any) -> BacktestCommand:
    return BacktestCommand.model_validate({**settings.model_dump(), **changes})


def at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


@pytest.fixture
def past(digits: Digits, field: FieldWriter) -> int:
    """A shift that came and went; when it came."""
    field.write(digits.field_x[:150])
    began = field.clock_ms + 10
    field.write(np.ascontiguousarray(np.rot90(digits.field_x[150:400], axes=(2, 3))))
    field.write(digits.field_x[400:600])
    return began


def test_a_replay_says_what_the_monitor_said(
    past: int, registry: Registered, settings: MakeSettings, log: FieldLog, tmp_path: Path
) -> None:
    with open_case_book(f"sqlite:///{tmp_path}/book.db") as book:
        Monitor(settings(), log, book, MonitorMetrics()).round()
        [event] = book.events()
        windows = book.windows(registry.name, "1")
    [replay] = run_backtest(
        command(settings(), model_name=registry.name, backtest_version="1", backtest_shift_at=at(past))
    )
    [alarm] = replay.alarms
    assert (replay.windows, replay.drifted) == (len(windows), sum(window.drifted for window in windows))
    assert (alarm.window, alarm.estimated_accuracy) == (event.window_index, event.estimated_accuracy)
    assert (replay.shift_window, alarm.delay_windows, replay.false_alarms) == (3, 2, 0)
    assert alarm.ended_window == 10, "the third calm window after the shift"
    assert alarm.at_ms == windows[event.window_index].last_timestamp_ms
    assert alarm.true_accuracy is None


@pytest.mark.usefixtures("registry")
def test_the_command_prints_each_detector_and_all_together_and_leaves_the_case_book_alone(
    past: int, settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = command(
        settings(detectors="ks,frouros_ks"),
        model_name="digits",
        backtest_version="1",
        backtest_json=True,
        backtest_since=at(past),
        backtest_windows=4,
    )
    wanted.cli_cmd()
    printed = json.loads(capsys.readouterr().out)
    assert [each["detector"] for each in printed] == ["ks", "frouros_ks", "together"]
    assert {each["windows"] for each in printed} == {4}
    assert all(each["first_drifted"] == 0 for each in printed)
    assert all(each["shift_window"] is None for each in printed), "nobody said when the shift was"
    assert not (wanted.state_dir / "case_book.db").exists()


@pytest.mark.usefixtures("registry", "past")
def test_what_cannot_be_replayed_is_said(settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match="--model-name and --backtest-version"):
        run_backtest(command(settings()))
    later = datetime(2030, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(FieldInputsMissingError, match="not one full window of 50 field inputs of models:/digits/1"):
        run_backtest(command(settings(), model_name="digits", backtest_version="1", backtest_since=later))


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case as benchmarks have them, of grey noise; its model has learned nothing."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count, low in (("train", 60, 0), ("val", 100, 0), ("field", 75, 128)):
        arrays[f"{part}_x"] = generator.integers(low, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_y"] = generator.integers(0, 3, count)
    np.savez(tmp_path / "noise.npz", **arrays)
    torch.manual_seed(0)
    described = {"mean": [0.5], "std": [0.25], "channels": 1, "classes": 3, "width": 4}
    network = ResNet8(1, 3, 4)
    torch.save({"state_dict": network.state_dict(), **described}, tmp_path / "noise.pt")
    return tmp_path / "noise.npz"


def test_a_case_is_unchanged_traffic_first_and_then_the_field_in_its_order(case: Path) -> None:
    loaded = load_case(case, device="cpu", seed=0)
    windows = list(loaded.windows(20, calm=4, seed=0))
    assert [window.shifted for window in windows] == [False] * 4 + [True] * 3
    assert (np.concatenate([window.inputs for window in windows[4:]]) == loaded.field_x[:60]).all()
    reference = {row.tobytes() for row in loaded.handover.reference.val_x}
    assert len(reference) == 50
    assert not any(row.tobytes() in reference for window in windows[:4] for row in window.inputs)
    with pytest.raises(ReferenceSetError, match="a window needs 60 inputs, but the case has 50 unchanged ones"):
        list(loaded.windows(60, calm=4, seed=0))


def test_a_shift_of_a_case_is_seen_with_its_true_accuracy(case: Path, settings: MakeSettings) -> None:
    [replay] = run_backtest(
        command(
            settings(window_size=20, detectors="ks", require_harm=False), backtest_case=case, backtest_calm_windows=5
        )
    )
    assert (replay.windows, replay.shift_window, replay.false_alarms) == (8, 5, 0)
    alarm = replay.first_alarm
    assert alarm is not None
    assert alarm.delay_windows is not None
    assert 2 <= alarm.delay_windows <= 3
    assert alarm.true_accuracy is not None
    assert 0 <= alarm.true_accuracy <= 1


def no_model(case: Path) -> None:
    case.with_suffix(".pt").unlink()


def another_checkpoint(case: Path) -> None:
    torch.save({"mean": [0.5]}, case.with_suffix(".pt"))


def no_case(case: Path) -> None:
    case.unlink()


def no_field(case: Path) -> None:
    np.savez(case, train_x=np.zeros((3, 2)), train_y=[0], val_x=[0], val_y=[0])


@pytest.mark.parametrize(
    ("break_it", "error", "says"),
    [
        (no_model, HandOverError, "noise.pt does not exist"),
        (another_checkpoint, HandOverError, "found mean"),
        (no_case, ReferenceSetError, "noise.npz does not exist"),
        (no_field, ReferenceSetError, "lacks field_x, field_y"),
    ],
)
def test_a_case_that_is_none_is_refused(
    case: Path, break_it: Callable[[Path], object], error: type[Exception], says: str
) -> None:
    break_it(case)
    with pytest.raises(error, match=says):
        load_case(case, device="cpu", seed=0)


def test_the_table_says_never_where_nothing_fired() -> None:
    head, line = table([Replay("mmd", windows=12)]).splitlines()
    assert head.split()[:3] == ["detector", "windows", "drifted"]
    assert line.split() == ["mmd", "12", "0", "-", "-", "never", "-", "-", "-"]
