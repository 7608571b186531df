"""The upstream that a sidecar was last pointed to, in its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldrepair_service.last_upstream import UPSTREAM_FILE, LastUpstream
from fieldrepair_service.upstream import UpstreamView


def view(generation: int, url: str = "http://127.0.0.1:5001") -> UpstreamView:
    return UpstreamView(generation, url, "digits", str(generation), 0)


def test_the_latest_one_is_kept(tmp_path: Path) -> None:
    kept = LastUpstream(tmp_path)
    assert kept.read() is None
    kept.keep(view(1))
    kept.keep(view(3, "https://models:8443/prefix"))
    kept.keep(view(2))  # written by a slower thread
    assert LastUpstream(tmp_path).read() == ("https://models:8443/prefix", "digits", "3")
    assert [path.name for path in tmp_path.iterdir()] == [UPSTREAM_FILE]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"url": "http://h"}',
        b'{"url": "file:///x", "model_name": "m", "model_version": "1"}',
        b"\xff",
    ],
)
def test_a_file_that_is_no_use_is_left_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / UPSTREAM_FILE).write_bytes(content)
    assert LastUpstream(tmp_path).read() is None
    assert "does not name an upstream" in caplog.text


def test_a_disk_that_takes_nothing_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LastUpstream(tmp_path / "not-there").keep(view(1))
    assert "cannot be kept" in caplog.text
