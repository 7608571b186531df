"""The quick start as it stands: its files are saved, its commands run, one after the other in one shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldrepair_plugin.processes import free_port, group_members

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def script_of(text: str) -> str:
    """What a reader does: type each ``sh`` block, and save each block that has a title under it."""
    lines = ["set -o errexit -o pipefail"]
    for language, title, content in _BLOCK.findall(text):
        if language == "sh":
            lines.append(content)
        elif title:
            lines.append(f"cat > {title} <<'END-OF-FILE'\n{content}END-OF-FILE\n")
        else:
            raise AssertionError(f"a block that nobody runs: {content}")
    return "\n".join(lines)


def stop_all(group: int) -> None:
    """Whatever a script that did not come to its end has left: ``up``, which ends its parts, in their own groups."""
    for number, patience in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and group_members(group):
            time.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_every_command_of_the_quick_start_works(tmp_path: Path) -> None:
    script = script_of(PAGE.read_text())
    # The page names the default ports, which may be in use here.
    traffic, control = free_port(), free_port()
    for default, free in (("8080", traffic), ("8081", control)):
        assert f"http://127.0.0.1:{default}" in script
        script = script.replace(f"http://127.0.0.1:{default}", f"http://127.0.0.1:{free}")
    # Other tests of this process leave MLflow's experiment there.
    own = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in own},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "FIELDREPAIR_TRAFFIC_PORT": str(traffic),
        "FIELDREPAIR_CONTROL_PORT": str(control),
        "FIELDREPAIR_MONITOR_METRICS_PORT": "0",
    }
    log = tmp_path / "output.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["/bin/bash", "-c", script], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as shell,
    ):
        try:
            shell.wait(500)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not done after 500 s:\n{log.read_text()}")
        finally:
            stop_all(shell.pid)
    told = log.read_text()
    assert shell.returncode == 0, told
    assert '"state":"accepted"' in told, told
    # Before and after the repair, in the order of the page.
    shares = re.findall(r"^(normal|bright) lamp: (\d+)% right$", told, re.MULTILINE)
    assert [lamp for lamp, _ in shares] == ["normal", "bright"] * 2
    clean, bright, clean_after, repaired = (int(share) for _, share in shares)
    assert clean >= 90
    assert bright <= 70
    assert repaired >= bright + 10
    assert clean_after >= clean - 3
