"""The Delta table under the field log: opened, made where there is none, and given the columns of later versions."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from arro3.core import Schema
from deltalake import DeltaTable
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from fieldrepair_service.data_files import SKIP_BY
from fieldrepair_service.errors import StoreError
from fieldrepair_service.field_log_columns import COLUMN_NAMES, FIELD_LOG_COLUMNS

logger = logging.getLogger(__name__)

ADDED_LATER = ("headers", "trace_id", "columns")
"""Columns that a table made by fieldrepair 0.1 does not have. All may be null, so that its rows stay as they are."""

_CREATE_ATTEMPTS = 20


def open_or_create(where: str, storage_options: dict[str, str] | None, *, create: bool = True) -> DeltaTable:
    """The table at a folder or URI, complete.

    Raises:
        StoreError: if the place cannot be reached, or holds a table that is not a field log.
    """
    failure: Exception | None = None
    for attempt in range(_CREATE_ATTEMPTS):
        try:
            return DeltaTable(where, storage_options=storage_options)
        except TableNotFoundError as error:
            if not create:
                raise StoreError(f"there is no field log at {where}") from error
        except (DeltaError, OSError) as error:
            raise StoreError(f"the field log at {where} cannot be opened: {error}") from error
        try:
            if "://" not in where:
                Path(where).mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(
                where,
                schema=Schema.from_arrow(FIELD_LOG_COLUMNS),
                partition_by=["date"],
                name="fieldrepair field log",
                configuration={"delta.dataSkippingStatsColumns": ",".join(SKIP_BY)},
                storage_options=storage_options,
            )
        except (DeltaError, OSError) as error:
            # Most likely another process created it at this moment; the next round opens theirs.
            failure = error
            time.sleep(0.01 * 2 ** min(attempt, 4))
    raise StoreError(f"the field log at {where} cannot be created: {failure}") from failure


def complete(table: DeltaTable, where: str) -> None:
    """Give the table the columns it lacks, if it is a field log at all. Several processes may do so at once.

    Adding a column changes the table's description and no data file: rows written before have null there.

    Raises:
        StoreError: if the table is no field log, or cannot be changed.
    """
    for attempt in range(_CREATE_ATTEMPTS):
        present = {field.name for field in table.schema().fields}
        missing = [name for name in COLUMN_NAMES if name not in present]
        if not missing:
            return
        strange = [name for name in missing if name not in ADDED_LATER]
        if strange:
            raise StoreError(f"the Delta table at {where} is not a field log: it has no column {', '.join(strange)}")
        columns = DeltaSchema.from_arrow(Schema.from_arrow(FIELD_LOG_COLUMNS)).fields
        try:
            table.alter.add_columns([column for column in columns if column.name in missing])
            logger.info("the field log at %s now has the columns %s", where, ", ".join(missing))
        except CommitFailedError:  # another process is at it, or has just appended
            time.sleep(0.01 * 2 ** min(attempt, 4))
            _refresh(table, where)
        except (DeltaError, OSError) as error:
            raise StoreError(f"the field log at {where} cannot get the columns {missing}: {error}") from error
    raise StoreError(f"the field log at {where} did not get its new columns in {_CREATE_ATTEMPTS} attempts")


def _refresh(table: DeltaTable, where: str) -> None:
    try:
        table.update_incremental()
    except (DeltaError, OSError) as error:
        raise StoreError(f"the field log at {where} cannot be read: {error}") from error
