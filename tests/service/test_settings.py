from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from fieldrepair_service.settings import StoreSettings


def test_stores_are_in_the_state_folder_unless_set(tmp_path: Path) -> None:
    settings = StoreSettings(state_dir=tmp_path)
    assert settings.field_log_uri == str(tmp_path / "field_log")
    assert settings.case_book_url == f"sqlite:///{tmp_path / 'case_book.db'}"
    elsewhere = StoreSettings(field_log="s3://bucket/log", case_book="postgresql+psycopg://db/book")
    assert elsewhere.field_log_uri == "s3://bucket/log"
    assert elsewhere.case_book_url == "postgresql+psycopg://db/book"


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIELDREPAIR_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FIELDREPAIR_FIELD_LOG", "s3://bucket/log")
    settings = StoreSettings()
    assert settings.state_dir == tmp_path
    assert settings.field_log_uri == "s3://bucket/log"


def test_parts_that_start_together_agree_on_one_private_token(tmp_path: Path) -> None:
    state = tmp_path / "state"
    found: list[str] = []
    start = threading.Barrier(8)

    def resolve() -> None:
        start.wait()
        found.append(StoreSettings(state_dir=state).resolve_control_token())

    threads = [threading.Thread(target=resolve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) >= 32
    assert [path.name for path in state.iterdir()] == ["control-token"]
    assert stat.S_IMODE((state / "control-token").stat().st_mode) == 0o600


def test_a_given_token_is_used_and_never_shown(tmp_path: Path) -> None:
    settings = StoreSettings(state_dir=tmp_path, control_token=SecretStr("a-long-enough-secret"))
    assert settings.resolve_control_token() == "a-long-enough-secret"
    assert not (tmp_path / "control-token").exists()
    assert "a-long-enough-secret" not in repr(settings)
    with pytest.raises(ValidationError, match="at least 16"):
        StoreSettings(control_token=SecretStr("short"))
