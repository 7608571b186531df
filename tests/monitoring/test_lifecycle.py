"""Processes end when they are asked to, whatever they are doing at that moment."""

import subprocess
import sys

import pytest

SIGNAL_WHILE_WAITING = """
import signal
from fieldrepair_monitoring.lifecycle import stopped_by_signals

with stopped_by_signals("bye") as stop:
    # What ``stop.wait()`` holds for an instant, before and after it sleeps. A handler that sets the event here would
    # wait for a lock of its own thread.
    with stop._cond:
        signal.raise_signal(signal.{name})
    print("stopped" if stop.wait(30) else "not stopped")
"""

TWO_SIGNALS = """
import signal, time
from fieldrepair_monitoring.lifecycle import stopped_by_signals

with stopped_by_signals("bye"):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(30)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_in_the_middle_of_a_wait_stops_it(name: str) -> None:
    script = SIGNAL_WHILE_WAITING.format(name=name)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "stopped\n"


def test_a_second_signal_ends_the_process_at_once() -> None:
    run = subprocess.run([sys.executable, "-c", TWO_SIGNALS], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == -15
