"""Commands of the service package. Light on purpose: the parts are imported when a command runs."""

from __future__ import annotations

from pydantic_settings import CliSubCommand

from fieldrepair_service.console_settings import ConsoleSettings
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.lean import keep_pandas_out
from fieldrepair_service.log_command.settings import ExportOptions, StatsOptions, TailOptions
from fieldrepair_service.mirror.settings import MirrorSettings
from fieldrepair_service.settings import StoreSettings
from fieldrepair_service.sidecar_settings import SidecarSettings


class SidecarCommand(SidecarSettings):
    """Forward traffic to a model server and log every field input.

    Every request goes to --upstream as it came and its answer comes back as it is. Inputs and predictions of
    POST /invocations are written to the field log beside the request path: a full disk or a slow store never
    fails or delays a prediction.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT, then finish what is in flight and write what is spooled."""
        keep_pandas_out()
        from fieldrepair_service.sidecar import run_sidecar  # here, so that --help is quick

        run_sidecar(self)


class MirrorCommand(MirrorSettings):
    """Take the events of KServe's inference logger and log every field input.

    For where nobody may stand in the request path: point `logger.url` of an InferenceService, `mode: all`, at
    --events-port. Requests and answers are brought together by their id, and go into the field log as those of the
    sidecar do.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT, then write what is spooled."""
        keep_pandas_out()
        from fieldrepair_service.mirror.mirror import run_mirror  # here, so that --help is quick

        run_mirror(self)


class ConsoleCommand(ConsoleSettings):
    """Serve the console and the case API by themselves, for sidecars that leave them out.

    For several sidecars, and on Kubernetes: the pages show what all of --sidecars do, and no sidecar needs the case
    book. Tokens, case book and field log are those of the other parts: give it their --state-dir, or the same settings.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT."""
        keep_pandas_out()
        from fieldrepair_service.console_process import run_console  # here, so that --help is quick

        run_console(self)


class LogCommand(StoreSettings):
    """Look at the field log: tail, stats, export."""

    tail: CliSubCommand[TailOptions]
    """Show the newest rows, one line each, and those that come after them."""

    stats: CliSubCommand[StatsOptions]
    """Count rows by day, model version and class; say what was dropped, and how large the table is."""

    export: CliSubCommand[ExportOptions]
    """Write rows, with their labels, to a file or folder that other tools read."""

    def cli_cmd(self) -> None:
        """Run the one that was named."""
        options = self.tail or self.stats or self.export
        if options is None:
            raise ConfigurationError("say what to do with the log: tail, stats or export (--help explains each)")
        keep_pandas_out()
        from fieldrepair_service.log_command.command import run_log  # here, so that --help is quick

        run_log(self, options)
