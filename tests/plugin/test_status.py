"""The status lines: one per part, no noise, a table in a terminal."""

from __future__ import annotations

import io

from fieldrepair_plugin.status import StatusBoard


def test_one_plain_line_per_change() -> None:
    stream, changes = io.StringIO(), 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    with StatusBoard(("registry", "model server"), stream=stream, changed=changed) as board:
        board.set("registry", "ready", "models:/digits@champion is version 1")
        board.set("registry", "ready", "models:/digits@champion is version 1")
        board.set("model server", "failed", "v2 does not come up [see log]")
        board.headline("ready: send predictions to http://127.0.0.1:8080/invocations")
        board.headline("ready: send predictions to http://127.0.0.1:8080/invocations")
    lines = stream.getvalue().splitlines()
    assert [line[10:] for line in lines] == [
        "registry      ready       models:/digits@champion is version 1",
        "model server  failed      v2 does not come up [see log]",
        "ready: send predictions to http://127.0.0.1:8080/invocations",
    ]
    assert changes == 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_live_table() -> None:
    terminal = Terminal()
    with StatusBoard(("registry", "sidecar"), stream=terminal) as board:
        board.set("registry", "starting", "asking")
        board.set("registry", "ready", "version 1")
        board.headline("ready")
    shown = terminal.getvalue()
    assert "version 1" in shown
    assert "sidecar" in shown
    assert "\x1b[" in shown  # drawn over, not line after line
