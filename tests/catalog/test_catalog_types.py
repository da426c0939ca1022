"""Columns of every type, of every kind of table: exactly what was given, or refused by the column's name."""

from __future__ import annotations

import dataclasses
import datetime
import io
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft import inject
from skygraft.catalog import as_table, normalize_catalog, partition_catalog, read_catalog, read_partitions
from skygraft.catalog import values as numbers
from skygraft.catalog.io import iter_catalog
from skygraft.errors import CatalogError
from skygraft.testing import make_exposure

D = Decimal
BIG = 2**53 + 1  # the first whole number that double precision cannot hold
NOTHING = -1  # what a missing visit means

BASE = {
    "ra": [150.1, 150.1, 150.101],
    "dec": [2.2, 2.201, 2.2],
    "source_type": ["Sersic"] * 3,
    "mag_r": [20.0, 21.0, 22.0],
    "n": [1.0, 1.0, 1.0],
    "half_light_radius": [0.5, 0.5, 0.5],
}


def column(table, name):
    return np.asarray(table[name]).tolist()


def arrow(**columns):
    return pa.table({name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in (BASE | columns).items()})


def extension(kind, storage):
    return pa.ExtensionArray.from_storage(kind, storage)


DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(38, 2), pa.decimal128(38, 20), pa.decimal256(70, 9)]
WHOLE_DECIMALS = [pa.decimal32(9, 0), pa.decimal64(18, 0), pa.decimal128(38, 0), pa.decimal256(70, 0)]

# An Arrow column `visit`, and what it means.
WHOLE = {
    **{f"{k}": (pa.array([7, None, 2], k), [7, NOTHING, 2]) for k in (pa.int8(), pa.int16(), pa.int32(), pa.uint8())},
    **{f"{k}": (pa.array([7, None, 2], k), [7, NOTHING, 2]) for k in (pa.uint16(), pa.uint32(), pa.float16())},
    **{f"{k}": (pa.array([BIG, None, 2], k), [BIG, NOTHING, 2]) for k in (pa.int64(), pa.uint64())},
    **{f"{k}": (pa.array([D(20), None, D(2)], k), [20, NOTHING, 2]) for k in WHOLE_DECIMALS + DECIMALS},
    "large decimal128": (pa.array([D(BIG), None, D(2)], pa.decimal128(38, 0)), [BIG, NOTHING, 2]),
    "large decimal256 with a scale": (pa.array([D(BIG), None, D(2)], pa.decimal256(70, 9)), [BIG, NOTHING, 2]),
    "decimal of a negative scale": (pa.array([D(700), None, D(200)], pa.decimal128(5, -2)), [700, NOTHING, 200]),
    "double": (pa.array([7.0, None, np.nan]), [7, NOTHING, NOTHING]),
    **{
        f"{k}": (pa.array([str(BIG), None, " 2 "], k), [BIG, NOTHING, 2])
        for k in (pa.string(), pa.large_string(), pa.string_view())
    },
    **{
        f"{k}": (pa.array([str(BIG).encode(), None, b"2"], k), [BIG, NOTHING, 2])
        for k in (pa.binary(), pa.large_binary(), pa.binary_view())
    },
    "fixed_size_binary": (pa.array([b"0007", None, b"   2"], pa.binary(4)), [7, NOTHING, 2]),
    "text in other forms": (pa.array(["1e3", "2.0", "nan"]), [1000, 2, NOTHING]),
    "null": (pa.nulls(3), [NOTHING] * 3),
    "dictionary of numbers": (pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array([7, None])), [7, -1, -1]),
    "dictionary of text": (pa.array(["7", "2", None]).dictionary_encode(), [7, 2, NOTHING]),
    "dictionary of views": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.uint32()), pa.array(["7", "2"], pa.string_view())),
        [7, 2, NOTHING],
    ),
    "empty dictionary": (pa.DictionaryArray.from_arrays(pa.nulls(3, pa.int8()), pa.array([], pa.int64())), [-1] * 3),
    "run ends": (pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([7, None])), [7, 7, NOTHING]),
    "lists of one": (pa.array([[7], [2], None]), [7, 2, NOTHING]),
    "large lists of one": (pa.array([[7], [], [2]], pa.large_list(pa.int64())), [7, NOTHING, 2]),
    "fixed lists of one": (pa.array([[7], [None], [2]], pa.list_(pa.int64(), 1)), [7, NOTHING, 2]),
    "list views of one": (pa.array([[7], None, [2]], pa.list_view(pa.int64())), [7, NOTHING, 2]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_of_every_arrow_type(name):
    given, meant = WHOLE[name]
    assert column(normalize_catalog(arrow(visit=given)), "visit") == meant
    ids = pa.concat_arrays([given[:1], given[:1], given[:1]]) if "run" not in name else given
    if "dictionary" not in name and name not in ("null", "run ends"):
        with pytest.raises(CatalogError, match=f"{meant[0]} \\(rows 0 and 1\\)"):
            normalize_catalog(arrow(injection_id=ids))


NO_NUMBERS = {
    "bool": (pa.array([True, False, None]), "bool"),
    "bool8": (extension(pa.bool8(), pa.array([1, 0, None], pa.int8())), "bool"),
    "date32": (pa.array([datetime.date(2020, 1, 2)] * 3), "date32.*2020-01-02"),
    "date64": (pa.array([datetime.date(2020, 1, 2)] * 3, pa.date64()), "date64.*2020-01-02"),
    "timestamp": (pa.array([BIG, 2, None], pa.timestamp("ns", "UTC")), "timestamp.*UTC.*1970-04-15"),
    "time32": (pa.array([datetime.time(5)] * 3, pa.time32("s")), "time32.*05:00:00"),
    "time64": (pa.array([datetime.time(5)] * 3), "time64.*05:00:00"),
    "duration": (pa.array([BIG, 2, None], pa.duration("s")), f"duration.*{BIG}"),
    "interval": (pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()), "month_day_nano_interval"),
    "struct": (pa.array([{"a": 7}] * 3), "struct<a: int64>.*7"),
    "map": (pa.array([[("a", 7)]] * 3, pa.map_(pa.string(), pa.int64())), "map<string.*7"),
    "union": (pa.UnionArray.from_sparse(pa.array([0] * 3, pa.int8()), [pa.array([7] * 3)]), "union"),
    "uuid": (extension(pa.uuid(), pa.array([b"0" * 16] * 3, pa.binary(16))), "uuid.*30303030"),
    "two a row": (pa.array([[1, 2], [3, 4], [5, 6]]), r"arrays of shape \(2,\)"),
    "ragged": (pa.array([[1, 2], [3], []]), r"list<.*\[1, 2\]"),
    "lists of structs": (pa.array([[{"a": 7}]] * 3), "list<.*struct"),
    "dictionary of dates": (pa.array([datetime.date(2020, 1, 2)] * 3).dictionary_encode(), "dictionary.*2020-01-02"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_holds_no_number_is_refused_with_its_type_and_a_value(name):
    given, reason = NO_NUMBERS[name]
    for wanted in ("visit", "q", "injection_id", "ra", "mag_r"):
        with pytest.raises(CatalogError, match=f"column '{wanted}'.*{reason}"):
            normalize_catalog(arrow(**{wanted: given}))
    # Nobody asks for it under another name.
    assert len(normalize_catalog(arrow(observed=given))) == 3


@pytest.mark.parametrize(
    ("given", "row", "reason"),
    [
        (pa.array([1, 2**64 - 1, 3], pa.uint64()), 1, f"{2**64 - 1} is beyond the largest whole number .*{2**63 - 1}"),
        (pa.array([D(1), D(2**63), D(3)], pa.decimal128(38, 0)), 1, f"{2**63}.* is beyond"),
        (pa.array([D(1), D(10**60), D(3)], pa.decimal256(70, 0)), 1, r"1E\+60|10{10,}"),
        (pa.array(["1", "2", str(2**63)]), 2, f"'{2**63}' is beyond"),
        (pa.array([1.0, 2.0**53, 3.0]), 1, "float64, in which whole numbers from 9007199254740992 on"),
        (pa.array([1.0, 2.0**24, 3.0], pa.float32()), 1, "float32, in which whole numbers from 16777216 on"),
        (pa.array([1.0, 2.0**11, 3.0], pa.float16()), 1, "float16, in which whole numbers from 2048 on"),
        (pa.array([1.0, 5.5, 3.0]), 1, r"5\.5 is not a whole number"),
        (pa.array([D("1.0"), D("5.5"), D("3.0")]), 1, r"5\.5.* is not a whole number"),
        (pa.array([1.0, np.inf, 3.0]), 1, "inf is not a whole number"),
        (pa.array(["1", "1,000", "3"]), 1, "'1,000' is not a whole number"),
        (pa.array(["1", "1_000", "3"]), 1, "'1_000' is not a whole number"),
        (pa.array(["1", "1e99", "3"]), 1, "'1e99' is beyond"),
        (pa.array(["1", "x", "3"]), 1, "'x' is not a whole number"),
    ],
)
def test_whole_numbers_that_cannot_be_exact_are_refused_for_what_they_are(given, row, reason):
    for name in ("injection_id", "visit"):
        with pytest.raises(CatalogError, match=f"{name} = .*(?:{reason})") as caught:
            normalize_catalog(arrow(**{name: given}))
        assert (caught.value.row, caught.value.key) == (row, name)


@pytest.mark.parametrize("kind", DECIMALS, ids=str)
def test_decimals_are_the_numbers_that_they_say(kind):
    table = normalize_catalog(arrow(q=pa.array([D("0.3"), None, D("0.25")], kind)))
    assert column(table, "q") == [0.3, 1.0, 0.25]
    # As a column that is only carried along, too.
    table = normalize_catalog(arrow(redshift=pa.array([D("0.3"), None, D("0.25")], kind)))
    assert column(table, "redshift")[::2] == [0.3, 0.25] and np.isnan(table["redshift"][1])
    table = normalize_catalog(arrow(host=pa.array([D(30), None, D(25)], pa.decimal128(38, 0))))
    assert table["host"].tolist() == [30, None, 25]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.decimals("-1e20", "1e20", allow_nan=False, places=12), min_size=1, max_size=5), st.integers(0, 2))
def test_decimals_are_rounded_as_their_text_is(values, skipped):
    table = as_table(pa.table({"x": pa.array([D(0)] * skipped + values, pa.decimal128(38, 12))}).slice(skipped))
    assert numbers(table, "x").tolist() == [float(str(value)) for value in values]


def test_text_booleans_and_units():
    table = normalize_catalog(arrow(q=["0.3", "nan", "2.5e-1"], mag_per_pixel=["true", "F", ""]))
    assert column(table, "q") == [0.3, 1.0, 0.25]
    assert column(table, "mag_per_pixel") == [True, False, False]
    with pytest.raises(CatalogError, match="mag_per_pixel = 2 is neither true nor false"):
        normalize_catalog(arrow(mag_per_pixel=[2, 1, 0]))
    with pytest.raises(CatalogError, match="q = '0,3' is not a number") as caught:
        normalize_catalog(arrow(q=["0.5", "0,3", "1"]))
    assert caught.value.row == 1
    for unit, factor in (("radians", np.degrees(1)), ("DEG", 1.0), ("degrees_east", 1.0), ("hourangle", 15.0)):
        source = arrow(pa=[1.0, 2.0, 3.0])
        source = source.set_column(6, source.schema.field("pa").with_metadata({"unit": unit}), source["pa"])
        np.testing.assert_allclose(column(normalize_catalog(source), "pa"), factor * np.array([1, 2, 3]), rtol=1e-14)
    for unit in ("furlongs", b"\xff"):
        source = source.set_column(6, source.schema.field("pa").with_metadata({"unit": unit}), source["pa"])
        with pytest.raises(CatalogError, match=r"column 'pa' is in .*(furlongs|xff).*cannot be converted to deg"):
            normalize_catalog(source)
    percent = Table(BASE | {"q": np.array([80, 90, 100]) * u.percent})
    assert column(normalize_catalog(percent), "q") == [0.8, 0.9, 1.0]
    percent["q"] = np.array([0.8, 0.9, 1.0]) * u.deg
    with pytest.raises(CatalogError, match=r"column 'q' is in deg, .* a number without unit"):
        normalize_catalog(percent)
    with pytest.raises(CatalogError, match="column 'draw_size' is in arcsec, not in pix"):
        normalize_catalog(Table(BASE | {"draw_size": [3, 3, 3] * u.arcsec}))


def test_nanomaggies_are_converted_from_the_unit_that_is_said():
    obiwan = {"ra": [1.0], "dec": [2.0], "sersic": [1.0], "shape_r": [1.0], "shape_e1": [0.0], "shape_e2": [0.0]}
    for flux in (10.0, [10.0] * u.Unit("nmgy", parse_strict="silent"), [36.31] * u.uJy):
        table = Table(obiwan)
        table["flux_g"] = flux
        assert normalize_catalog(table)["mag_g"].value[0] == pytest.approx(20.0, abs=1e-12)


def squares():
    class Squares:
        def locate(self, ra, dec):
            return np.zeros(len(ra), dtype=int), np.zeros(len(ra), dtype=int)

        def to_dict(self):
            return {"kind": "one"}

    return Squares()


@pytest.mark.parametrize("name", [*WHOLE, *NO_NUMBERS])
def test_files_read_whole_in_parts_and_for_campaigns_are_the_same(tmp_path, name):
    given = (WHOLE.get(name) or NO_NUMBERS[name])[0]
    path = tmp_path / "a.parquet"
    try:
        pq.write_table(arrow(visit=given, other=given), path)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError):
        pytest.skip("Parquet cannot hold it")
    if name in NO_NUMBERS:
        for read in (read_catalog, lambda p: list(iter_catalog(p, chunk_rows=2))):
            with pytest.raises(CatalogError, match=r"a\.parquet, key visit: column 'visit'"):
                read(path)
        with pytest.raises(CatalogError, match="column 'visit'"):
            partition_catalog(path, squares(), tmp_path / "out", chunk_rows=1)
        return
    whole = read_catalog(path)
    assert column(whole, "visit") == WHOLE[name][1]
    parts = [value for part in iter_catalog(path, chunk_rows=1) for value in column(part, "visit")]
    assert parts == WHOLE[name][1]
    if "list" in name:  # whether they have one value each is not known before the last row; they are not carried along
        return
    partition_catalog(path, squares(), tmp_path / "out", chunk_rows=1)
    stored = read_partitions(tmp_path / "out", [(0, 0)])
    assert column(stored, "visit") == WHOLE[name][1]
    assert stored.colnames == whole.colnames
    others = (np.ma.asarray(table["other"]) for table in (stored, whole))
    np.testing.assert_array_equal(*(np.char.strip(o.filled("")) if o.dtype.kind == "U" else o for o in others))


def test_a_decimal_visit_is_drawn_into_its_own_image_only():
    source = arrow(visit=pa.array([D(5), D(6), None], pa.decimal128(10, 0)))
    exposure = make_exposure((120, 120), center=(150.1, 2.2))
    exposure = dataclasses.replace(exposure, data_id=dataclasses.replace(exposure.data_id, visit=6))
    truth = inject(exposure, source).truth
    assert (truth["flux_deposited"] != 0).tolist() == [False, True, True]


# A column of a pandas DataFrame, and what it means as `visit`.
FRAMES = {
    "int64": (np.array([BIG, 1, 2]), [BIG, 1, 2]),
    "Int64": (pd.array([BIG, None, 2], dtype="Int64"), [BIG, NOTHING, 2]),
    "UInt8": (pd.array([7, None, 2], dtype="UInt8"), [7, NOTHING, 2]),
    "Float64": (pd.array([7.0, None, 2.0], dtype="Float64"), [7, NOTHING, 2]),
    "string": (pd.array([str(BIG), None, "2"], dtype="string"), [BIG, NOTHING, 2]),
    "str": ([str(BIG), None, "2"], [BIG, NOTHING, 2]),
    "object": (pd.Series([BIG, "7", pd.NA], dtype=object), [BIG, 7, NOTHING]),
    "object of decimals": (pd.Series([D(BIG), np.int8(7), 2.0], dtype=object), [BIG, 7, 2]),
    "category": (pd.Categorical([7, 2, 7]), [7, 2, 7]),
    "category of text": (pd.Categorical([str(BIG), None, "2"]), [BIG, NOTHING, 2]),
    "arrow decimal": (pd.array([D(7), None, D(2)], dtype=pd.ArrowDtype(pa.decimal128(38, 2))), [7, NOTHING, 2]),
    "arrow dictionary": (
        pd.array(["7", None, "2"], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
        [7, NOTHING, 2],
    ),
    "sparse": (pd.arrays.SparseArray([7, 0, 2]), [7, 0, 2]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_data_frames(name):
    values, meant = FRAMES[name]
    assert column(normalize_catalog(pd.DataFrame(BASE | {"visit": values})), "visit") == meant


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pd.to_datetime(["2020-01-02"] * 3), "datetime64.*2020-01-02"),
        (pd.to_datetime(["2020-01-02"] * 3, utc=True), "timestamp.*UTC"),
        (pd.to_timedelta([1, 2, 3]), "timedelta64"),
        (pd.period_range("2020", periods=3, freq="D"), "period"),
        (pd.interval_range(0, 3), "interval"),
        (np.array([1j, 1, 1]), "complex128.*1j"),
        (pd.array([True, None, False], dtype="boolean"), "bool"),
        (pd.array([datetime.date(2020, 1, 2)] * 3, dtype=pd.ArrowDtype(pa.date32())), "date32.*2020-01-02"),
    ],
)
def test_data_frames_of_other_types(values, reason):
    for name in ("visit", "q"):
        with pytest.raises(CatalogError, match=f"column '{name}' is of type .*{reason}"):
            normalize_catalog(pd.DataFrame(BASE | {name: values}))
    assert len(normalize_catalog(pd.DataFrame(BASE | {"other": values}))) == 3


def test_elements_of_object_columns_are_named():
    for bad, reason in (({"a": 1}, "of type dict"), ([1, 2], "2 values"), (2**70, "beyond"), (True, "true or false")):
        frame = pd.DataFrame(BASE | {"visit": pd.Series([7, bad, 2], dtype=object)})
        with pytest.raises(CatalogError, match=f"visit = .*{reason}") as caught:
            normalize_catalog(frame)
        assert caught.value.row == 1


@pytest.mark.parametrize("index", [pd.Index([30, 10, 20], name="injection_id"), pd.RangeIndex(5, 20, 5)])
def test_a_named_index_is_a_column_in_memory_and_in_files(tmp_path, index):
    frame = pd.DataFrame(BASE, index=index.rename("injection_id"))
    frame.to_parquet(tmp_path / "a.parquet")
    meant = index.tolist()
    assert column(normalize_catalog(frame), "injection_id") == meant
    assert column(read_catalog(tmp_path / "a.parquet"), "injection_id") == meant
    parts = iter_catalog(tmp_path / "a.parquet", chunk_rows=2)
    assert [number for part in parts for number in column(part, "injection_id")] == meant
    both = pd.DataFrame(BASE).set_index(["ra", "dec"])
    assert column(normalize_catalog(both), "dec") == BASE["dec"]


class Polars:
    """A table that is known by the Arrow stream that it gives only, as Polars' are."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


class Interchange:
    def __init__(self, frame):
        self._frame = frame

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._frame.__dataframe__(nan_as_null, allow_copy)


def structured():
    kinds = [("ra", "f8"), ("dec", ">f8"), ("source_type", "S8"), ("mag_r", "f4"), ("n", "f2")]
    rows = list(zip(*(BASE[name] for name, _ in kinds), BASE["half_light_radius"], [BIG, 1, 2], strict=True))
    return np.array(rows, dtype=[*kinds, ("half_light_radius", "f8"), ("visit", "i8")])


def dataset():
    data = xr.Dataset({name: ("row", values) for name, values in BASE.items()} | {"visit": ("row", [BIG, 1, 2])})
    data["image"] = (("y", "x"), np.zeros((2, 2)))
    return data


TABLES = {
    "Table": lambda: Table(BASE | {"visit": [BIG, 1, 2]}),
    "QTable": lambda: QTable(BASE | {"visit": [BIG, 1, 2]}),
    "pandas": lambda: pd.DataFrame(BASE | {"visit": [BIG, 1, 2]}),
    "pyarrow": lambda: arrow(visit=[BIG, 1, 2]),
    "RecordBatch": lambda: arrow(visit=[BIG, 1, 2]).to_batches()[0],
    "stream": lambda: Polars(arrow(visit=pa.array([D(BIG), D(1), D(2)], pa.decimal128(38, 0)))),
    "interchange": lambda: Interchange(pd.DataFrame(BASE | {"visit": [BIG, 1, 2]})),
    "structured array": structured,
    "FITS data": lambda: fits.BinTableHDU(Table(BASE | {"visit": [BIG, 1, 2]})).data,
    "xarray": dataset,
    "dict": lambda: BASE | {"visit": [BIG, 1.0, 2], "source_type": "Sersic"},
    "dict of anything": lambda: (
        BASE | {"visit": pd.array([BIG, 1, 2]), "ra": pa.array(BASE["ra"]), "dec": xr.DataArray(BASE["dec"])}
    ),
}


@pytest.mark.filterwarnings("ignore:.*interchange.*")
@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_taken_by_normalize_catalog_and_inject(name, tmp_path):
    given = TABLES[name]()
    assert column(normalize_catalog(given), "visit") == [BIG, 1, 2]
    exposure = make_exposure((120, 120), center=(150.1, 2.2))
    assert exposure.data_id.visit == 1
    truth = inject(exposure, given).truth
    assert (truth["flux_deposited"] > 0).tolist() == [False, True, False]
    given = TABLES[name]() if name != "QTable" else normalize_catalog(TABLES[name]())
    partition_catalog(given, squares(), tmp_path)
    assert column(read_partitions(tmp_path, [(0, 0)]), "visit") == [BIG, 1, 2]


def test_what_is_no_table_is_told_what_is():
    for thing in (None, [1, 2], 3, pd.Series([1])):
        with pytest.raises(CatalogError, match="Give an astropy Table, a pandas or Polars DataFrame"):
            normalize_catalog(thing)
    with pytest.raises(CatalogError, match=r"is a path.*read_catalog"):
        normalize_catalog("fakes.ecsv")
    with pytest.raises(CatalogError, match=r"different lengths: .*visit \(2\)"):
        normalize_catalog(BASE | {"visit": [1, 2]})

    class Lazy:
        def collect(self):
            pass

    with pytest.raises(CatalogError, match="Compute it first"):
        normalize_catalog(Lazy())


def test_lists_and_single_values_of_a_dict_are_what_they_say():
    table = normalize_catalog(BASE | {"dec": 0.1 * u.rad, "source_type": "Star", "visit": None, "q": Decimal("0.3")})
    np.testing.assert_allclose(column(table, "dec"), np.degrees(0.1), rtol=1e-14)
    assert column(table, "visit") == [NOTHING] * 3 and column(table, "source_type") == ["Star"] * 3
    for visit, reason in (([True, 2, 3], "true or false"), ([7, "x", 2], "'x' is not"), ([2.0**53, 1, 2], "exact")):
        with pytest.raises(CatalogError, match=f"visit = .*{reason}"):
            normalize_catalog(BASE | {"visit": visit})


def test_units_and_dimensions_of_xarray():
    data = dataset()
    data["ra"].attrs["units"] = "radians"
    data["ra"] = data["ra"].copy(data=[0.1, 0.2, 0.3])
    data["dec"].attrs["units"] = b"degrees_north"
    data = data.assign(visit=7)
    table = normalize_catalog(data)
    np.testing.assert_allclose(column(table, "ra"), np.degrees([0.1, 0.2, 0.3]), rtol=1e-14)
    assert column(table, "dec") == BASE["dec"] and column(table, "visit") == [7, 7, 7]
    with pytest.raises(CatalogError, match=r"column 'q' has the dimensions \('row', 'k'\)"):
        normalize_catalog(data.assign(q=(("row", "k"), np.ones((3, 2)))))


def test_times_of_astropy_are_epochs_in_tai():
    epoch = Time([60000.0] * 3, format="mjd", scale="utc")
    table = normalize_catalog(QTable(BASE | {"epoch_mjd": epoch}))
    np.testing.assert_allclose(column(table, "epoch_mjd"), 60000 + 37 / 86400, rtol=0, atol=1e-10)


def test_masked_columns_of_tables():
    for visit in (MaskedColumn([7, 6, 2], mask=[0, 1, 0]), MaskedColumn(["7", "x", "2"], mask=[0, 1, 0])):
        assert column(normalize_catalog(Table(BASE | {"visit": visit})), "visit") == [7, NOTHING, 2]
    table = Table(BASE | {"visit": np.array([[7], [6], [2]]), "q": np.ma.array([0.5, 9, 1], mask=[0, 1, 0])})
    table = normalize_catalog(table)
    assert column(table, "visit") == [7, 6, 2] and column(table, "q") == [0.5, 1.0, 1.0]


def test_a_column_twice():
    doubled = pa.Table.from_arrays([*arrow().columns, pa.array([9.0] * 3)], names=[*BASE, "ra"])
    frame = pd.concat([pd.DataFrame(BASE), pd.DataFrame({"ra": [9.0] * 3})], axis=1)
    for table in (doubled, frame):
        with pytest.raises(CatalogError, match="column 'ra' is there 2 times"):
            normalize_catalog(table)
    spare = pa.Table.from_arrays([*arrow().columns, pa.nulls(3), pa.nulls(3)], names=[*BASE, "spare", "spare"])
    assert "spare" not in normalize_catalog(spare).colnames
    # Other capitals: an error where the values differ; magnitudes' bands are told apart by them.
    with pytest.raises(CatalogError, match="columns 'ra' and 'RA', with different values"):
        normalize_catalog(arrow(RA=[9.0] * 3))
    assert len(normalize_catalog(arrow(RA=BASE["ra"], mag_R=[1.0] * 3))) == 3
    # Source Extractor's flags are others.
    for flags in ({}, {"flags": [0, 0, 0]}):
        assert column(normalize_catalog(arrow(FLAGS=[1, 2, 3], **flags)), "FLAGS") == [1, 2, 3]
    with pytest.raises(CatalogError, match="a column 'Visit', but none 'visit'"):
        normalize_catalog(arrow(Visit=[7, 6, 2]))
    lsst = pd.DataFrame(BASE).rename(columns={"mag_r": "mag"}).assign(Beta=1.0)
    with pytest.raises(CatalogError, match="a column 'Beta', but none 'beta'"):
        normalize_catalog(lsst, band="r")


def test_streaming_gives_every_part_the_columns_of_the_file(tmp_path):
    stars_first = pa.table(
        {
            "ra": [0.1, 0.2, 0.3],
            "dec": [0.1, 0.2, 0.3],
            "sourceType": ["star", "galaxy", "trail"],
            "g_mag": [20.0] * 3,
            "bulge_disk_flux_ratio": [np.nan, 1.0, np.nan],
            "trail_length": [np.nan, np.nan, 5.0],
            "trail_angle": [np.nan, np.nan, 1.0],
            **{f"{p}_{c}": [np.nan, 0.5, np.nan] for p in ("bulge", "disk") for c in ("semimajor", "axis_ratio", "pa")},
            **{f"{p}_n": [np.nan, 2.0, np.nan] for p in ("bulge", "disk")},
        }
    )
    synpipe = pa.table(
        {"ID": [1, 2], "RA": [1.0, 2.0], "DEC": [1.0, 2.0], "mag": [20.0, 20.0], "reff": [0.0, 1.0]}
        | {"sersic_n": [0.0, 1.0], "b_a": [0.0, 0.5], "theta": [0.0, 5.0]}
    )
    lsst = pa.table(
        {"ra": [1.0, 2.0], "dec": [1.0, 2.0], "source_type": ["Star", "Gaussian"], "mag": [20.0, 20.0]}
        | {"fwhm": [np.nan, 1.0]}
    )
    for i, (table, band) in enumerate([(stars_first, None), (synpipe, "r"), (lsst, "r")]):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(table, path)
        whole = read_catalog(path, band=band)
        for part in iter_catalog(path, band=band, chunk_rows=1):
            assert part.colnames == whole.colnames
        partition_catalog(path, squares(), tmp_path / str(i), band=band, chunk_rows=1)
        stored = read_partitions(tmp_path / str(i), [(0, 0)])
        for name in whole.colnames:
            np.testing.assert_array_equal(np.asarray(stored[name]), np.asarray(whole[name]), err_msg=name)


def test_units_of_a_votable_inside_of_parquet(tmp_path):
    from astropy.io.votable import from_table

    table = Table(BASE | {"visit": [BIG, 1, 2]})
    table["ra"] = [0.1, 0.2, 0.3] * u.rad
    content = io.BytesIO()
    from_table(table).to_xml(content)
    stored = arrow(ra=[0.1, 0.2, 0.3], visit=[BIG, 1, 2])
    stored = stored.replace_schema_metadata({"IVOA.VOTable-Parquet.content": content.getvalue()})
    pq.write_table(stored, tmp_path / "a.parquet")
    for read in (read_catalog, lambda path: next(iter_catalog(path))):
        np.testing.assert_allclose(column(read(tmp_path / "a.parquet"), "ra"), np.degrees([0.1, 0.2, 0.3]), rtol=1e-14)


def test_texts_of_numpy_of_any_length():
    texts = np.array([str(BIG), "1", "2"], dtype=np.dtypes.StringDType())
    table = normalize_catalog(BASE | {"visit": texts, "name": texts})
    assert column(table, "visit") == [BIG, 1, 2] and column(table, "name") == [str(BIG), "1", "2"]
