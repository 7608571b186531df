"""The measured part of the page on monitoring: medians over ramps, bounds, and who is compared with whom."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.drift_record import Record
from benchmarks.drift_report import BEGIN, comparison_table, default_table, detector_table, main, ramp_table
from benchmarks.pages import END

DEFAULT = "mmd+uncertainty+trend"
CALM = Record(
    case="scanner", detector=DEFAULT, stream="no_drift", shifted=False, windows=10_000, window_size=333, alarms=3,
    alarms_while_calm=3, alarm_rate_upper=0.0008, configured_rate=0.005, confirmed_alarms=0, delay_windows=None,
    confirmed_delay_windows=None, loss_at_alarm=None, loss_at_confirmation=None, true_accuracy=0.97,
    estimated_accuracy=0.96, interval_low=0.93, interval_high=0.99, trusted_share=1.0, milliseconds_per_window=1.0,
)  # fmt: skip
SHIFTED = replace(
    CALM, stream="shifted", shifted=True, windows=20, delay_windows=1, confirmed_delay_windows=2, true_accuracy=0.884,
    estimated_accuracy=0.86, interval_low=0.792, interval_high=0.932,
)  # fmt: skip


def ramps(stream: str, losses: list[float | None], detector: str = DEFAULT) -> list[Record]:
    """One record per draw, named as the benchmark names them: ``ramp``, ``ramp_1``, ..., ``ramp_1_compared``."""
    base, compared, _ = stream.partition("_compared")
    return [
        replace(
            SHIFTED,
            detector=detector,
            stream=(base if draw == 0 else f"{base}_{draw}") + compared,
            delay_windows=None if loss is None else round(40 * loss),
            confirmed_delay_windows=None if loss is None else round(40 * loss) + 1,
            loss_at_alarm=loss,
            loss_at_confirmation=None if loss is None else loss + 0.05,
        )
        for draw, loss in enumerate(losses)
    ]


def test_the_default_is_told_with_its_bound_and_its_estimate() -> None:
    assert (
        "| scanner | 10,000 of 333 | 3 (0.08 %) | 0 | 1 (2) | 88.4 %, 86.0 % [79.2, 93.2] | 100 % |"
        in default_table([CALM, SHIFTED])
    )


def test_ramps_are_told_by_median_and_range_and_those_never_seen_are_said() -> None:
    records = [
        *ramps("ramp", [0.3, 0.4, None, 0.2, 0.5]),
        *ramps("ramp_after_calm", [0.1, 0.2, 0.3, 0.15, 0.25]),
        *ramps("ramp_compared", [0.9, 0.9, 0.9, 0.9, 0.9]),
    ]
    row = ramp_table(records).splitlines()[-1]
    assert row == (
        "| scanner | 20 % (10 to 30 %) | 25 % (15 to 35 %) | 35 % (20 to 50 %), 1 of 5 never | "
        "40 % (25 to 55 %), 1 of 5 never | - |"
    )


def test_each_detector_has_a_column_and_the_highest_bound_is_said() -> None:
    alone = replace(CALM, detector="mmd", alarms=11, alarm_rate_upper=0.0018)
    other = replace(CALM, detector="lsdd", case="camera", alarms=48, alarm_rate_upper=0.0061, confirmed_alarms=5)
    lines = detector_table([CALM, alone, other]).splitlines()
    assert "0.61 %" in lines[0]
    assert lines[2] == "| case | `mmd` | `lsdd` |"
    assert lines[4:] == ["| scanner | 11 | - |", "| camera | - | 48, 5 confirmed |"]


def test_others_are_compared_by_the_median_ramp() -> None:
    ours = replace(CALM, detector="fieldrepair", stream="no_drift_fresh_reference", windows=100, alarms=0)
    theirs = replace(ours, detector="alibi-detect MMDDrift", alarms=5, alarm_rate_upper=0.103, configured_rate=None)
    late = ramps("ramp_after_calm_compared", [0.1, 0.2, 0.3], "fieldrepair")
    early = [replace(each, alarms_while_calm=2 * at % 4) for at, each in enumerate(late)]
    records = [
        ours,
        theirs,
        replace(SHIFTED, detector="fieldrepair", stream="shifted_compared"),
        replace(SHIFTED, detector="alibi-detect MMDDrift", stream="shifted_compared"),
        *ramps("ramp_compared", [0.25, None, 0.5], "fieldrepair"),
        *early,
        *ramps("ramp_compared", [None, None, 0.5], "alibi-detect MMDDrift"),
    ]
    lines = comparison_table(records).splitlines()
    assert lines[-2] == "| scanner | fieldrepair | 0 of 100 (0.1 %) | 1 (2) | 20 (21) | 8 (9) | 1 of 3 |"
    assert lines[-1] == "| scanner | alibi-detect MMDDrift | 5 of 100 (10.3 %) | 1 (2) | never (never) |  |  |"


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page, file = tmp_path / "monitoring.md", tmp_path / "records.json"
    page.write_text(f"# Monitoring\n\nBy hand.\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    file.write_text(json.dumps([asdict(CALM), asdict(SHIFTED), {"measurement": "soak", "windows": 5}]))
    assert main([str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| scanner |" in text
    assert "old\n" not in text
    assert text.startswith("# Monitoring\n\nBy hand.")
    assert text.endswith("More.\n")
