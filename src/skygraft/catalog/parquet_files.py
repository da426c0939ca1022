"""Read and write Parquet catalogues, with errors that name the file if it is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.catalog.arrow import from_arrow, pandas_index, with_index
from skygraft.catalog.text_tables import FETCH_AGAIN
from skygraft.errors import CatalogError, CorruptFileError

__all__ = ["ParquetCatalog", "open_parquet", "read_parquet", "write_parquet"]

_ROWS, _ROWS_PER_BYTE = 100_000, 4
"""A file is damaged if it has more rows than both: this many, and this many per byte (positions do not compress)."""
_READ_BYTES = 1 << 20
"""Compressed bytes of each column in memory: row groups may be as large as the file."""


class ParquetCatalog:
    """An open Parquet catalogue.

    Attributes
    ----------
    names : list of str
        Names of the columns, including a range index that pandas stored in the metadata.
    n_rows : int
        Number of rows.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path
        with _parquet_errors(path):
            self._schema = file.schema_arrow
            self.n_rows = int(file.metadata.num_rows)
            self._index = pandas_index(self._schema, self.n_rows)
            self.names = [*self._schema.names, *([self._index[0]] if self._index else [])]
        size = path.stat().st_size
        if self.n_rows > max(_ROWS, _ROWS_PER_BYTE * size):
            raise CorruptFileError(
                f"the file claims {self.n_rows} rows, and has {size} bytes", path=path, fix=FETCH_AGAIN
            )

    def read(self) -> Any:
        """Return all rows, converted by `from_arrow`."""
        with _parquet_errors(self._path):
            table = self._file.read()
        return self._converted(table, 0)

    def chunks(self, chunk_rows: int) -> Iterator[Any]:
        """Iterate over chunks of up to `chunk_rows` rows, in the order of the file, as astropy tables."""
        for table in self.arrow_chunks(chunk_rows):
            yield from_arrow(table, origin=str(self._path))

    def arrow_chunks(self, chunk_rows: int) -> Iterator[pa.Table]:
        """Iterate as `chunks` does, over Arrow tables."""
        batches = self._file.iter_batches(batch_size=chunk_rows)
        first = 0
        while True:
            with _parquet_errors(self._path):
                batch = next(batches, None)
                if batch is None:
                    return
                table = pa.Table.from_batches([batch], schema=self._schema)
            yield self._checked(table, first)
            first += batch.num_rows

    def _checked(self, table: pa.Table, first_row: int) -> pa.Table:
        with _parquet_errors(self._path):
            # Finds invalid UTF-8 and offsets beyond the data before they are accessed.
            table.validate(full=True)
        return with_index(table, self._index, first_row)

    def _converted(self, table: pa.Table, first_row: int) -> Any:
        return from_arrow(self._checked(table, first_row), origin=str(self._path))


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[ParquetCatalog]:
    """Open a Parquet catalogue; page checksums are verified if the file has them.

    Yields
    ------
    ParquetCatalog

    Raises
    ------
    CorruptFileError
        If the file cannot be read, when it is opened or later.
    """
    with _parquet_errors(path):
        # Not pq.read_table, which imports pandas: seconds in every worker.
        # Without read-ahead, which keeps all that was read of the file in memory, and takes more time.
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=_READ_BYTES)
    with file:
        yield ParquetCatalog(file, path)


def read_parquet(path: Path) -> Any:
    """Read a Parquet file as an astropy table; errors as in `open_parquet`."""
    with open_parquet(path) as file:
        return file.read()


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write an Arrow table as Parquet, with page checksums."""
    pq.write_table(table, path, write_page_checksum=True)


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Context in which pyarrow's exceptions become errors that name the file; other errors pass."""
    try:
        yield
    except CatalogError:
        raise
    except pa.ArrowMemoryError as error:
        raise CorruptFileError(
            f"not a readable Parquet file: it claims more than memory holds ({error})", path=path, fix=FETCH_AGAIN
        ) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptFileError(f"not a readable Parquet file: {reason}", path=path, fix=FETCH_AGAIN) from error
