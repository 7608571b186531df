from collections.abc import Iterator, Sequence

from pyarrow import RecordBatch, Schema, Table
from pyarrow.compute import Expression as Expression
from pyarrow.compute import field as field
from pyarrow.compute import scalar as scalar

class Fragment:
    partition_expression: Expression
    physical_schema: Schema
    def to_table(
        self,
        schema: Schema | None = ...,
        columns: Sequence[str] | None = ...,
        filter: Expression | None = ...,
        batch_size: int = ...,
    ) -> Table: ...
    def to_batches(
        self,
        schema: Schema | None = ...,
        columns: Sequence[str] | None = ...,
        filter: Expression | None = ...,
        batch_size: int = ...,
        batch_readahead: int = ...,
        use_threads: bool = ...,
    ) -> Iterator[RecordBatch]: ...
    def count_rows(self, filter: Expression | None = ...) -> int: ...

class FileFragment(Fragment):
    path: str

class Dataset:
    schema: Schema
    def get_fragments(self, filter: Expression | None = ...) -> Iterator[FileFragment]: ...
    def to_table(
        self, columns: Sequence[str] | None = ..., filter: Expression | None = ..., batch_size: int = ...
    ) -> Table: ...
    def to_batches(
        self, columns: Sequence[str] | None = ..., filter: Expression | None = ..., batch_size: int = ...
    ) -> Iterator[RecordBatch]: ...
    def count_rows(self, filter: Expression | None = ...) -> int: ...

class FileSystemDataset(Dataset): ...
