"""``fieldrepair label``: answer the questions of a case in the terminal."""

from __future__ import annotations

import getpass
import sys

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fieldrepair_service.errors import ConfigurationError, NotInCaseBook
from fieldrepair_service.settings import StoreSettings


class LabelCommand(StoreSettings):
    """Answer the questions of a repair case in the terminal; the same queue as the console's.

    Talks to the control port that has the console. Pictures are drawn with Unicode half blocks.
    """

    case: CliPositionalArg[int] = Field(default=0, ge=0)
    """The case to label; without one, the newest that takes labels."""
    control_url: str = "http://127.0.0.1:8081"
    """Control port with the console: the sidecar's, or that of `fieldrepair console`."""
    labeller: str | None = None
    """The name that your answers are recorded under. Default: your login name."""

    def cli_cmd(self) -> None:
        """Ask until there is no question left, the input ends or the labeller quits."""
        from fieldrepair_service.label_client import LabelClient  # here, so that --help is quick
        from fieldrepair_service.label_terminal import LabelTerminal

        with LabelClient(self.control_url, self._token(), self.labeller or getpass.getuser()) as client:
            case_id = self.case or _newest(client.cases())
            sys.stdout.write(f"Case {case_id}, as {client.labeller}.\n")
            LabelTerminal(client, case_id, sys.stdin, sys.stdout).run()

    def _token(self) -> str:
        """The token given, or one from the state folder of a sidecar on this machine."""
        if self.control_token is not None:
            return self.control_token.get_secret_value()
        for name in ("labeller-token", "control-token"):
            path = self.state_dir / name
            if path.is_file():
                return path.read_text().strip()
        raise ConfigurationError(
            f"no token: {self.state_dir} has neither labeller-token nor control-token; set FIELDREPAIR_CONTROL_TOKEN, "
            "or --state-dir to the sidecar's state folder"
        )


def _newest(cases: list[dict[str, object]]) -> int:
    if not cases:
        raise NotInCaseBook("no case takes labels now")
    return int(str(cases[0]["id"]))
