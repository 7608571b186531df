from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from fieldrepair_monitoring.false_alarms import LARGEST_RATE, confirmed_rate, rate_for
from fieldrepair_monitoring.settings import MonitorSettings


def test_two_of_three_by_hand_and_by_counting() -> None:
    # This window, and the one before, or the one before that, or both.
    assert confirmed_rate(0.1, 2, 3) == pytest.approx(0.1 * (2 * 0.1 * 0.9 + 0.01))
    assert confirmed_rate(0.1, 1, 1) == pytest.approx(0.1)
    drifted = np.random.default_rng(0).random(200_000) < 0.1
    pairs = drifted[2:] & (drifted[1:-1] | drifted[:-2])
    assert confirmed_rate(0.1, 2, 3) == pytest.approx(float(pairs.mean()), rel=0.05)


def test_a_rate_per_day_gives_a_rate_per_window_and_back() -> None:
    rate = rate_for(0.01, field_inputs_per_day=100_000, window_size=100, confirmations=2, windows=3)
    assert confirmed_rate(rate, 2, 3) * 1000 == pytest.approx(0.01, rel=1e-6)
    assert rate == pytest.approx((0.01 / 1000 / 2) ** 0.5, rel=0.01)
    assert rate_for(5, field_inputs_per_day=100, window_size=100, confirmations=2, windows=3) == LARGEST_RATE


def test_settings_take_either_and_check_that_a_window_could_drift() -> None:
    assert MonitorSettings().false_alarm_rate == 0.005
    daily = MonitorSettings(
        drift_false_alarms_per_day=0.01, drift_field_inputs_per_day=100_000, drift_calibration_windows=2000
    )
    assert daily.false_alarm_rate == pytest.approx(0.00223, abs=2e-5)
    with pytest.raises(ValidationError, match="are set together, or neither"):
        MonitorSettings(drift_false_alarms_per_day=0.01)
    with pytest.raises(ValidationError, match=r"drift_calibration_windows \(700\) must be larger .* \(800\)"):
        MonitorSettings(detectors="mmd,ks,lsdd,uncertainty", drift_calibration_windows=700)
    with pytest.raises(ValidationError, match="different names with commas between them, got 'mmd,mmd'"):
        MonitorSettings(detectors="mmd,mmd")
    assert MonitorSettings(detectors=" mmd, ks ,").detector_names == ("mmd", "ks")
