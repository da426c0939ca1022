"""Tables of any length in bounded memory: ten million rows made on the fly, of which few are ever held."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from kits.statistics_tables import fakes, logistic
from skygraft.statistics import bias, completeness, fit_completeness

ROWS = 10_000_000
CHUNK = 200_000


@functools.cache
def chunk(seed: int) -> dict[str, Any]:
    columns = fakes(CHUNK, seed=seed, visits=4)
    columns.pop("band")
    return columns


def batches() -> Iterator[pa.RecordBatch]:
    """Rows of other sources each; what is measured of them comes again, since random numbers take longest."""
    for i in range(ROWS // CHUNK):
        columns = chunk(i % 5)
        yield pa.record_batch(columns | {"injection_id": columns["injection_id"] + i * CHUNK})


def reader() -> pa.RecordBatchReader:
    first = next(batches())
    return pa.RecordBatchReader.from_batches(first.schema, batches())


def peak(folder: Path, name: str) -> int:
    """Peak resident memory of the process, MB, since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024


@pytest.mark.slow
def test_ten_million_rows_take_no_more_memory_than_their_bins(tmp_path: Path) -> None:
    edges = np.arange(18.0, 24.1, 0.25)
    completeness(fakes(1000), {"mag": edges})
    for _ in batches():
        pass
    clear = Path("/proc/self/clear_refs")
    clear.write_text("5")
    before = peak(tmp_path, "VmRSS")
    started = time.process_time()
    done = completeness(reader(), {"mag": edges})
    took = time.process_time() - started
    grown = peak(tmp_path, "VmHWM") - before
    assert int(done["n"].sum()) > 0.94 * ROWS
    expected = logistic(done["mag"].values)
    np.testing.assert_allclose(done["completeness"], expected, atol=0.01)
    assert grown < 200, f"{grown} MB, and {took:.0f} s of processor time"

    clear.write_text("5")
    before = peak(tmp_path, "VmRSS")
    off = bias(reader(), by={"mag": edges}, source=None, exact_rows=1_000_000)
    grown = peak(tmp_path, "VmHWM") - before
    assert off.attrs["exact"] == "no"
    np.testing.assert_allclose(off["median"][:20], 0.01, atol=6 * off["error"][:20].max() + 1e-4)
    assert grown < 800, f"{grown} MB"


@pytest.mark.slow
def test_files_of_any_size_are_streamed(tmp_path: Path) -> None:
    schema = next(batches()).schema
    n = 10
    for k, batch in zip(range(n), batches(), strict=False):
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / f"{k}.parquet")
    dataset: Any = ds.dataset(tmp_path)
    assert dataset.schema.names == schema.names
    clear = Path("/proc/self/clear_refs")
    fit_completeness(fakes(1000), bootstrap=20)
    clear.write_text("5")
    before = peak(tmp_path, "VmRSS")
    fit = fit_completeness(tmp_path)
    assert fit.n > 0.94 * n * CHUNK
    assert fit.m50 == pytest.approx(21.5 + 0.25 * np.log(0.97 / 0.5 - 1), abs=5 * fit.m50_error)
    assert fit.m50_error > 1.2 * fit.levels[0.5].error_fisher or fit.m50_error < 0.01
    assert peak(tmp_path, "VmHWM") - before < 500
