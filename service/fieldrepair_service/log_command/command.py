"""``fieldrepair log``: opens the stores and runs what was asked for."""

from __future__ import annotations

import json
import os
import sys

from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.images import image_input
from fieldrepair_service.inputs import ImageInput
from fieldrepair_service.log_command.export import export, read_spec
from fieldrepair_service.log_command.labels import Labels, open_existing
from fieldrepair_service.log_command.settings import ExportOptions, StatsOptions, TailOptions
from fieldrepair_service.log_command.stats import as_dict, as_text, gather
from fieldrepair_service.log_command.tail import tail
from fieldrepair_service.settings import StoreSettings


def run_log(settings: StoreSettings, options: TailOptions | StatsOptions | ExportOptions) -> None:
    """Do it.

    Raises:
        FieldRepairError: if it cannot be done; the message says why.
    """
    log = FieldLog.open(settings.field_log_uri, create=False)
    try:
        if isinstance(options, TailOptions):
            tail(log, options, sys.stdout)
        elif isinstance(options, StatsOptions):
            stats = gather(log, options, settings.state_dir / "spool.db")
            sys.stdout.write(json.dumps(as_dict(stats), indent=1) + "\n" if options.as_json else as_text(stats))
        else:
            _export(log, settings, options)
    except BrokenPipeError:  # piped into head, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _export(log: FieldLog, settings: StoreSettings, options: ExportOptions) -> None:
    book = open_existing(settings.case_book_url)
    try:
        spec: ImageInput | None = None
        if options.format == "images" and options.input_spec is not None:
            spec = read_spec(options.input_spec)
        elif options.format == "images" and book is not None:
            spec = _spec_of(book, options)
        elif options.input_spec is not None:
            raise ConfigurationError(f"--input-spec is for --format images, got {options.format}")
        count = export(log, Labels(book), options, spec)
    finally:
        if book is not None:
            book.close()
    sys.stderr.write(f"{count} rows are in {options.to}\n")


def _spec_of(book: CaseBook, options: ExportOptions) -> ImageInput | None:
    """How the model's inputs are images, as its newest case has it; None if it has no case, or they are none."""
    for case in book.cases():
        if options.model_name in (None, case.model_name) and options.model_version in (None, case.model_version):
            return image_input(case.input_spec) if case.input_spec.get("kind") == "image" else None
    return None
