"""Parts of the report that appear only where their data are there: transients, classes, crowding by fakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xarray as xr

from report.page_reader import Page
from report.recovery_tables import write_recovery
from skygraft.campaign import Campaign
from skygraft.recovery.recover import recover
from skygraft.report import make_report


def changed(folder: Path, **columns: Any) -> Any:
    """Write all rows as one table with other columns, and return it."""
    files = sorted(folder.glob("tract=*/patch=*/*.parquet"))
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])
    for name, make in columns.items():
        array = pa.array(make(table.to_pandas()).tolist())
        k = table.schema.get_field_index(name)
        table = table.append_column(name, array) if k < 0 else table.set_column(k, name, array)
    for path in files[1:]:
        path.unlink()
    pq.write_table(table, files[0])
    return ds.dataset(files[0]).to_table().to_pandas()


@pytest.mark.usefixtures("no_figure_files")
def test_transients_and_crowding(copied: Callable[..., Campaign]) -> None:
    campaign = copied()
    folder = write_recovery(campaign, m50=21.0)
    rows = changed(
        folder,
        object_id=lambda rows: rows.injection_id // 4,
        mjd=lambda rows: 60000.0 + 5.0 * (rows.injection_id % 4),
        phase=lambda rows: 5.0 * (rows.injection_id % 4) - 5.0,
        blend=lambda rows: np.where(rows.injection_id % 5 == 0, "fake", ""),
    )
    path = make_report(campaign)
    page = Page(path)
    usable = rows[rows.usable]
    text = page.sections["transients"]
    n, caught = usable.object_id.nunique(), usable[usable.found].object_id.nunique()
    assert f"Of {n} objects with a usable epoch, {caught} were found" in text
    # First detection by pandas.
    start = usable.groupby("object_id").mjd.min()
    first = usable[usable.found].groupby("object_id").mjd.min()
    delay = (first - start.loc[first.index]).to_numpy()
    assert f"{np.percentile(delay, 84):.2f}" in text
    with xr.open_dataset(path.parent / "numbers/transient_efficiency_phase.nc", engine="h5netcdf") as table:
        assert int(table["n"].sum()) == len(usable) and int(table["n_found"].sum()) == usable.found.sum()
    names = {one.stem for one in (path.parent / "figures").glob("transients-*.png")}
    assert names == {"transients-mag", "transients-snr_expected", "transients-phase", "transients-first"}
    part = 100 * (usable.blend == "fake").mean()
    assert f"{part:.1f} % of the usable fakes have light of other fakes" in page.sections["completeness"]
    assert "min_separation" in page.sections["completeness"]
    assert "classes" not in page.sections


@pytest.mark.usefixtures("no_figure_files")
def test_few_fakes_have_no_selection_function_and_no_crowd(copied: Callable[..., Campaign]) -> None:
    campaign = copied()
    folder = write_recovery(campaign, m50=21.0)
    changed(folder, usable=lambda rows: np.arange(len(rows)) < 12, blend=lambda rows: np.full(len(rows), "real"))
    stale = campaign.layout.root / "report/numbers/selection.nc"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier report")
    page = Page(make_report(campaign))
    assert re.search(r"There is no selection function: .*of 20 that a curve takes", page.sections["selection"])
    assert not stale.exists() and "selection.nc" not in page.sections["files"]
    assert "min_separation" not in page.sections["completeness"] and "transients" not in page.sections


def test_recover_says_that_fakes_crowd_each_other(copied: Callable[..., Campaign]) -> None:
    campaign = copied()
    summary = recover(campaign, n_workers=0)
    files = sorted(str(path) for path in campaign.layout.root.glob("recovery/tract=*/patch=*/*.parquet"))
    rows: pd.DataFrame = ds.dataset(files).to_table().to_pandas()
    crowded = int((rows.usable & (rows.blend == "fake")).sum())
    # 40 fakes in 30 x 30 arcsec, with apertures of 2.4 arcsec.
    assert summary.n_crowded == summary.to_dict()["n_crowded"] == crowded > 0.1 * summary.n_usable
    said = f"{100 * crowded / summary.n_usable:.1f} % of the usable sources have light of other injected"
    assert said in str(summary) and "min_separation" in str(summary)


@pytest.mark.parametrize("n", [1, 3])
def test_images_that_each_run_made(copied: Callable[..., Campaign], n: int) -> None:
    campaign = copied()
    for record in sorted(campaign.layout.records.rglob("*.json"))[:n]:
        record.unlink()
    assert campaign.run(n_workers=0).n_done == n
    text = Page(make_report(campaign)).sections["provenance"]
    assert re.findall(r"\d\d:\d\d:\d\d [-\d]+ [:\d]+ (\d+)\b", text) == ["4", str(n)]
