"""What is known of the measurements of a campaign's images: some 60 bytes for each, for millions of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.campaign.products import ProductLayout, read_part_header
from skygraft.campaign.sweep_tables import PatchParts
from skygraft.campaign.sweep_task import SweptImage
from skygraft.catalog.arrow_arrays import arrow_array
from skygraft.disk import atomic_path
from skygraft.records.comparison import stat_files
from skygraft.records.files import Layout
from skygraft.records.image_states import ImageRows
from skygraft.records.packs import stat_packed
from skygraft.records.plan_file import Plan
from skygraft.tables.arrow import numbers

__all__ = ["FAILED", "MEASURED", "SweepState"]

UNKNOWN, MEASURED, FAILED = range(3)

_SETTINGS = b"skygraft-settings"
_AT_ONCE = 20_000
_THREADS = 16
_MOST_MESSAGES = 1000

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("tract", pa.int64()),
        ("patch", pa.int64()),
        ("key", pa.string()),
        ("n_rows", pa.int64()),
        pa.field("seconds", pa.float64(), metadata={"unit": "s"}),
        ("error", pa.string()),
        ("message", pa.string()),
        ("record_size", pa.int64()),
        ("record_time", pa.int64()),
    ]
)


class SweepState:
    """What is known of the measurement of every image of a plan of N images.

    Parameters
    ----------
    plan : Plan
        The plan.
    files : ProductLayout
        Where the product lies.
    settings : str
        `skygraft.campaign.products.settings_digest`.

    Attributes
    ----------
    state : ndarray of uint8, shape (N,)
        Unknown, `MEASURED` or `FAILED`.
    """

    def __init__(self, plan: Plan, files: ProductLayout, settings: str) -> None:
        n = len(plan)
        self.plan, self.files, self.settings = plan, files, settings
        self.state = np.zeros(n, dtype=np.uint8)
        self._keys = np.zeros((n, 32), dtype=np.uint8)
        self._n_rows = np.zeros(n, dtype=np.int64)
        self._seconds = np.zeros(n, dtype=np.float32)
        self._stamps = np.full((n, 2), -1, dtype=np.int64)
        self._messages: dict[int, tuple[str, str]] = {}

    def recall(self, done: NDArray[np.bool_]) -> None:
        """Recall what the table of images says, of images that are done and whose records are still the same.

        Parameters
        ----------
        done : ndarray of bool, shape (N,)
            Whether each image is done.
        """
        with (
            contextlib.suppress(OSError, pa.ArrowException, ValueError, KeyError),
            pq.ParquetFile(self.files.images) as file,
        ):
            if (file.metadata.metadata or {}).get(_SETTINGS, b"").decode() != self.settings:
                return
            rows_of = ImageRows(self.plan)
            for batch in file.iter_batches(_AT_ONCE, columns=_SCHEMA.names, use_threads=False):
                self._enter_batch(batch, rows_of, done)
        self._forget_changed()

    def _enter_batch(self, batch: pa.RecordBatch, rows_of: ImageRows, done: NDArray[np.bool_]) -> None:
        rows = rows_of.find(batch.column("image_id").to_pylist())
        keep = rows >= 0
        keep[keep] = done[rows[keep]]
        errors = batch.column("error").to_pylist()
        failed = np.array([bool(error) for error in errors], dtype=np.bool_)
        keys = [b"" if not key else bytes.fromhex(key) for key in batch.column("key").to_pylist()]
        keep &= failed | np.array([len(key) == 32 for key in keys], dtype=np.bool_)
        rows = rows[keep]
        self.state[rows] = np.where(failed[keep], FAILED, MEASURED)
        joined = b"".join(key.ljust(32, b"\0")[:32] for key in keys)
        self._keys[rows] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)[keep]
        self._n_rows[rows] = numbers(batch.column("n_rows"))[keep]
        self._seconds[rows] = numbers(batch.column("seconds"))[keep]
        self._stamps[rows, 0] = numbers(batch.column("record_size"))[keep]
        self._stamps[rows, 1] = numbers(batch.column("record_time"))[keep]

    def _forget_changed(self) -> None:
        """Forget what was measured on images that were rebuilt since, by the size and time of their records."""
        layout, start = Layout(self.files.root), 0
        with ThreadPoolExecutor(_THREADS) as pool:
            for batch in self.plan.batches(["tract", "patch", "stem"], _AT_ONCE):
                rows = start + np.flatnonzero(self.state[start : start + batch.num_rows] != UNKNOWN)
                columns = batch.take(arrow_array(rows - start)).to_pydict().values()
                paths = [str(layout.record(*place)) for place in zip(*columns, strict=True)]
                found = stat_files(paths, pool)
                missing = np.flatnonzero(found[:, 0] < 0)
                if missing.size:
                    found[missing] = stat_packed([paths[i] for i in missing.tolist()])
                self.state[rows[np.any(found != self._stamps[rows], axis=1)]] = UNKNOWN
                start += batch.num_rows

    def enter(self, one: SweptImage) -> None:
        """Enter the result of an image."""
        row = one.row
        self._messages.pop(row, None)
        if one.status == "not done":
            self.state[row] = UNKNOWN
            return
        self.state[row] = FAILED if one.status == "failed" else MEASURED
        self._keys[row] = np.frombuffer(bytes.fromhex(one.key).ljust(32, b"\0"), dtype=np.uint8)
        self._n_rows[row], self._seconds[row], self._stamps[row] = one.n_rows, one.seconds, one.stamp
        if one.status == "failed" and len(self._messages) < _MOST_MESSAGES:
            self._messages[row] = one.error, one.message

    def seconds(self) -> float:
        """Processor time of all measurements, s."""
        return float(self._seconds[self.state == MEASURED].sum(dtype=np.float64))

    def patches(self) -> Iterator[PatchParts]:
        """Yield the measured images, home patch by home patch, in the order of the plan."""
        home: tuple[int, int] | None = None
        rows: list[int] = []
        start = 0
        for batch in self.plan.batches(["tract", "patch"], _AT_ONCE):
            tract, patch = (numbers(batch.column(name)) for name in ("tract", "patch"))
            for i in np.flatnonzero(self.state[start : start + batch.num_rows] == MEASURED).tolist():
                here = int(tract[i]), int(patch[i])
                if here != home:
                    if home is not None:
                        yield self._parts(home, rows)
                    home, rows = here, []
                rows.append(start + i)
            start += batch.num_rows
        if home is not None:
            yield self._parts(home, rows)

    def _parts(self, home: tuple[int, int], rows: list[int]) -> PatchParts:
        return PatchParts(*home, tuple(rows), tuple(self._keys[row].tobytes() for row in rows))

    def save(self) -> None:
        """Write the table of images, in the order of the plan.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        start = 0
        schema = _SCHEMA.with_metadata({_SETTINGS: self.settings.encode()})
        with (
            atomic_path(self.files.images) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=["error"]) as writer,
        ):
            for batch in self.plan.batches(["image_id", "tract", "patch", "stem"], _AT_ONCE):
                rows = start + np.flatnonzero(self.state[start : start + batch.num_rows] != UNKNOWN)
                if rows.size:
                    writer.write_table(self._table(batch.take(arrow_array(rows - start)), rows, schema))
                start += batch.num_rows

    def _table(self, images: pa.RecordBatch, rows: NDArray[np.int64], schema: pa.Schema) -> pa.Table:
        messages = [("", "")] * len(rows)
        keys = [self._keys[row].tobytes().hex() if self._keys[row].any() else "" for row in rows.tolist()]
        for i in np.flatnonzero(self.state[rows] == FAILED).tolist():
            messages[i] = self._messages.get(int(rows[i])) or self._message(images.slice(i, 1))
        columns = [
            *(images.column(name) for name in ("image_id", "tract", "patch")),
            pa.array(keys, pa.string()),
            arrow_array(self._n_rows[rows]),
            arrow_array(self._seconds[rows].astype(np.float64).round(3)),
            pa.array([error for error, _ in messages], pa.string()),
            pa.array([message for _, message in messages], pa.string()),
            arrow_array(self._stamps[rows, 0].copy()),
            arrow_array(self._stamps[rows, 1].copy()),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _message(self, image: pa.RecordBatch) -> tuple[str, str]:
        """Why an image failed, from the file of its measurement: messages of a million are not kept in memory."""
        place = (image.column(name)[0].as_py() for name in ("tract", "patch", "stem"))
        header = read_part_header(self.files.part(*place))
        if header is None or not header.error:
            return "OutputError", "its measurement could not be written"
        return header.error, header.message
