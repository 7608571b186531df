from typing import Any

from pyarrow import Schema, Table

class ColumnChunkMetaData:
    num_values: int
    total_uncompressed_size: int

class RowGroupMetaData:
    num_columns: int
    def column(self, i: int) -> ColumnChunkMetaData: ...

class FileMetaData:
    num_rows: int
    num_columns: int
    num_row_groups: int
    def row_group(self, i: int) -> RowGroupMetaData: ...

class ParquetFile:
    metadata: FileMetaData
    schema_arrow: Schema
    def __init__(self, source: Any) -> None: ...
    def read(self, columns: list[str] | None = ..., use_threads: bool = ...) -> Table: ...

def read_table(source: Any, *, columns: list[str] | None = ...) -> Table: ...
def write_table(table: Table, where: Any, **kwargs: Any) -> None: ...
