from typing import Any

from pyarrow import DataType, Table

class ReadOptions:
    def __init__(self, *, use_threads: bool = ..., block_size: int | None = ...) -> None: ...

class ConvertOptions:
    def __init__(
        self,
        *,
        column_types: dict[str, DataType] | None = ...,
        null_values: list[str] | None = ...,
        strings_can_be_null: bool | None = ...,
    ) -> None: ...

def read_csv(
    input_file: Any,
    read_options: ReadOptions | None = ...,
    parse_options: Any = ...,
    convert_options: ConvertOptions | None = ...,
) -> Table: ...
