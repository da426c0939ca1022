"""Any table gives the same statistics, and what cannot be used says what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, CorruptFileError, SkygraftError
from skygraft.statistics import completeness
from skygraft.statistics.rows import bools, floats, open_rows

BINS = {"mag": np.arange(18.0, 24.1, 0.5), "band": ["g", "r"]}


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    return fakes(2000, visits=2)


def table_of(columns: dict[str, Any]) -> pa.Table:
    table = pa.table(columns)
    fields = [f.with_metadata({"unit": "mag(AB)"}) if f.name == "mag" else f for f in table.schema]
    return table.cast(pa.schema(fields))


def forms(columns: dict[str, Any], folder: Path) -> dict[str, Any]:
    import pandas as pd

    table = table_of(columns)
    pq.write_to_dataset(table, folder / "hive", partition_cols=["tract", "patch"])
    pq.write_table(table, folder / "one.parquet", row_group_size=300)
    with pa.ipc.new_file(folder / "one.arrow", table.schema) as writer:
        writer.write_table(table)
    astropy_table = Table(columns)
    astropy_table.write(folder / "one.fits")
    astropy_table.write(folder / "one.ecsv")
    return {
        "hive": folder / "hive",
        "file": str(folder / "one.parquet"),
        "arrow": folder / "one.arrow",
        "fits": folder / "one.fits",
        "ecsv": folder / "one.ecsv",
        "dataset": ds.dataset(folder / "hive", partitioning="hive"),
        "table": table,
        "batch": table.to_batches()[0],
        "reader": pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=77)),
        "pandas": pd.DataFrame(columns),
        "astropy": astropy_table,
        "lists": {name: values.tolist() for name, values in columns.items()},
    }


def test_every_form_of_a_table_gives_the_same_to_the_last_bit(columns: dict[str, Any], tmp_path: Path) -> None:
    expected = completeness(columns, BINS)
    assert expected["n"].sum() > 1000
    for name, form in forms(columns, tmp_path).items():
        got = completeness(form, BINS)
        assert got.drop_attrs().identical(expected.drop_attrs()), name
        assert got.attrs["design_effect_source"] == expected.attrs["design_effect_source"], name


def test_a_folder_of_a_campaign_is_its_tables_by_patch(columns: dict[str, Any], tmp_path: Path) -> None:
    """Beside them lie tables of other things; and the first may have nothing but nulls in a column."""
    table = table_of(columns | {"airmass": np.where(columns["patch"] < 4, np.nan, 1.5)})
    pq.write_to_dataset(table, tmp_path, partition_cols=["tract", "patch"])
    pq.write_table(pa.table({"tract": ["x"], "found": [3.5]}), tmp_path / "images.parquet")
    (tmp_path / "parts/tract=7/patch=0").mkdir(parents=True)
    pq.write_table(pa.table({"mag": ["y"]}), tmp_path / "parts/tract=7/patch=0/a.parquet")
    (tmp_path / ".lock").write_text("")
    schema = table.drop_columns(["tract", "patch"]).schema.append(pa.field("extra", pa.float64()))
    pq.write_metadata(schema, tmp_path / "_common_metadata")
    assert completeness(tmp_path, BINS).drop_attrs().identical(completeness(columns, BINS).drop_attrs())
    assert np.isnan(completeness(tmp_path, {"extra": [0.0, 1.0]}, bootstrap=0)["completeness"]).all()


def test_polars_frames_are_tables(columns: dict[str, Any]) -> None:
    polars = pytest.importorskip("polars", reason="polars is in the group docs")
    frame = polars.DataFrame(columns)
    expected = completeness(columns, BINS).drop_attrs()
    assert completeness(frame, BINS).drop_attrs().identical(expected)
    assert completeness(frame.lazy(), BINS).drop_attrs().identical(expected)


def test_units_come_from_the_table_and_go_into_the_result(columns: dict[str, Any]) -> None:
    assert completeness(table_of(columns), "mag")["mag"].attrs["units"] == "mag(AB)"
    with_units = QTable({"found": columns["found"], "size": columns["mag"] * u.arcsec})
    assert completeness(with_units, "size")["size"].attrs["units"] == "arcsec"


def test_of_many_columns_the_nearest_come_first_and_not_all_are_listed() -> None:
    table = {f"column_{i}": np.arange(3.0) for i in range(100)} | {"mag": np.arange(3.0), "found": np.ones(3, bool)}
    with pytest.raises(CatalogError, match=r"no column magn; it has mag, .*column_0, .*\(102 columns\)") as caught:
        completeness(table, "magn")
    assert "column_60" not in str(caught.value)


def test_missing_columns_are_named_with_the_nearest(columns: dict[str, Any]) -> None:
    with pytest.raises(CatalogError, match=r"no column mg; it has .*injection_id.*nearest names are mg: mag") as caught:
        completeness(columns, "mg")
    assert caught.value.key == "mg"
    for options in (
        {"found": "fond"},
        {"weight": "mag_cal_weight"},
        {"source": "injection"},
        {"patch": ("tract", "pach")},
        {"usable": "useable"},
        {"where": pc.field("bnd") == "r"},
        {"where": [("bnd", "==", "r")]},
        {"where": "usabel"},
    ):
        with pytest.raises(CatalogError, match="nearest names are"):
            completeness(columns, "mag", **options)  # type: ignore[arg-type]


def test_conditions_narrow_and_unusable_rows_stay_out(columns: dict[str, Any]) -> None:
    in_r = columns["band"] == "r"
    for where in (pc.field("band") == "r", [("band", "==", "r")]):
        assert completeness(columns, None, where=where)["n"] == (in_r & columns["usable"]).sum()
        assert completeness(columns, None, where=where, usable=None)["n"] == in_r.sum()
    assert completeness(columns, None, where="found")["n"] == (columns["found"] & columns["usable"]).sum()
    only = {name: columns[name] for name in ("mag", "found")}
    assert completeness(only, None)["n"] == columns["mag"].size
    with pytest.raises(CatalogError, match="cannot be searched"):
        completeness(columns, None, where=pc.field("band") > 3)
    with pytest.raises(SkygraftError, match="cannot be understood"):
        completeness(columns, None, where=[("band", "~", "r")])


def test_nulls_are_no_numbers_and_not_found() -> None:
    batch = pa.record_batch(
        {
            "x": pa.array([1, None, 3], pa.int32()),
            "f": pa.array([True, None, False]),
            "k": pa.array([1, 0, None], pa.int8()),
            "s": ["a", "b", "c"],
            "five": [0, 1, 5],
        }
    )
    np.testing.assert_array_equal(floats(batch, "x"), [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(bools(batch, "f"), [True, False, False])
    np.testing.assert_array_equal(bools(batch, "k"), [True, False, False])
    with pytest.raises(CatalogError, match="holds string, not numbers"):
        floats(batch, "s")
    with pytest.raises(CatalogError, match="holds 5, where only true"):
        bools(batch, "five")


def test_big_endian_masked_and_text_columns(tmp_path: Path) -> None:
    table = {
        "mag": np.ma.array([20.0, 21.0, 22.0], mask=[False, True, False]),
        "found": np.array([1, 0, 1], ">i2"),
        "band": np.array([b"r", b"i", b"r"]),
    }
    got = completeness(table, {"mag": [19.0, 23.0], "band": "auto"})
    assert got["band"].values.tolist() == ["i", "r"]
    assert got["n"].values.tolist() == [[0, 2]]
    assert got.attrs["n_outside"] == 1


def test_what_is_no_table_is_an_error(tmp_path: Path) -> None:
    for data, match in (
        (42, "int is no table"),
        ({}, "no columns"),
        ({"a": [1], "b": [1, 2]}, "differ in length"),
        ({"a": np.zeros((2, 2))}, "shape"),
        (tmp_path / "none", "no such table"),
        (tmp_path, "no Parquet file"),
    ):
        with pytest.raises(CatalogError, match=match):
            completeness(data)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        completeness(tmp_path / "bad.parquet")


def test_a_reader_is_read_once() -> None:
    table = pa.table(fakes(100))
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    with pytest.raises(CatalogError, match="only once"):
        completeness(reader, "mag")


def test_a_column_that_follows_from_others_need_not_be_there(columns: dict[str, Any]) -> None:
    deep = columns | {"depth": np.full(columns["mag"].size, 21.0)}
    got = completeness(deep, {"mag_below_depth": BINS["mag"] - 21.0})
    assert got["n"].values.tolist() == completeness(columns, {"mag": BINS["mag"]})["n"].values.tolist()
    assert got["mag_below_depth"].attrs["units"] == "mag"


def test_rows_of_rows_keep_both_conditions(columns: dict[str, Any]) -> None:
    rows = open_rows(columns, where=pc.field("band") == "r")
    assert (
        completeness(rows, None, where=pc.field("mag") < 20)["n"]
        == ((columns["band"] == "r") & (columns["mag"] < 20) & columns["usable"]).sum()
    )
