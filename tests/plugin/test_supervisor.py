"""``up`` before anything is started; with real parts it is in tests/faults/plugin/test_up_faults.py and tests/e2e."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fieldrepair_plugin.errors import AlreadyRunningError, ModelUriError
from fieldrepair_plugin.settings import UpSettings
from fieldrepair_plugin.supervisor import Supervisor, only_one
from fieldrepair_service.errors import ConfigurationError


def test_one_up_per_state_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time\nfrom pathlib import Path\nfrom fieldrepair_plugin.supervisor import only_one\n"
            "with only_one(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = rf"\(process {holder.pid}\) already works in .*--state-dir"
        with pytest.raises(AlreadyRunningError, match=message), only_one(tmp_path):
            raise AssertionError("held twice")
    finally:
        holder.kill()  # the kernel lets go of the folder, nobody has to clean up
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    with only_one(tmp_path):
        pass


def test_a_model_uri_that_cannot_be_read_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelUriError, match="expected models:/NAME@ALIAS"):
        Supervisor(UpSettings(model="digits", state_dir=tmp_path))


def test_the_parts_trace_where_up_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIELDREPAIR_OTLP_ENDPOINT", raising=False)
    with pytest.raises(ConfigurationError, match="expected the URL of a collector"):
        Supervisor(UpSettings(model="models:/digits@champion", state_dir=tmp_path, otlp_endpoint="collector:4318"))
    for endpoint in (None, "http://127.0.0.1:4318"):
        up = Supervisor(UpSettings(model="models:/digits@champion", state_dir=tmp_path, otlp_endpoint=endpoint))
        plans = up._plans()  # pyright: ignore[reportPrivateUsage] - what a part is started with
        assert [plan.environment().get("FIELDREPAIR_OTLP_ENDPOINT") for plan in plans] == [endpoint] * 3
