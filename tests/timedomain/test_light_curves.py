"""Light curves: read from any table, evaluated against NumPy's interpolation, and refused where they say two things."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import CatalogError
from skygraft.timedomain.light_curves import LightCurves

LONG = {
    "id": ["b", "a", "a", "b", "a"],
    "mjd": [10.0, 3.0, 1.0, 20.0, 2.0],
    "band": ["r", "g", "g", "g", "g"],
    "flux": [7.0, -30.0, 10.0, 5.0, 20.0],
}


def test_flux_is_linear_between_times_and_zero_outside() -> None:
    curves = LightCurves.of(LONG)
    a = curves.find(["a"] * 7)
    got = curves.flux_at(a, "g", [0.999, 1.0, 1.25, 2.0, 2.5, 3.0, 3.001])
    np.testing.assert_allclose(got, [0, 10, 12.5, 20, -5, -30, 0])


def test_a_band_that_a_curve_lacks_is_nan() -> None:
    curves = LightCurves.of(LONG)
    np.testing.assert_array_equal(curves.flux_at(curves.find(["a", "b"]), "r", 10.0), [np.nan, 7.0])
    np.testing.assert_array_equal(curves.flux_at(curves.find(["a", "b"]), "z", 10.0), [np.nan, np.nan])
    np.testing.assert_array_equal(curves.find(["a", "c", "b", ""]), [0, -1, 1, -1])


def test_support_is_over_all_bands() -> None:
    first, last = LightCurves.of(LONG).support([0, 1])
    np.testing.assert_array_equal([first, last], [[1, 10], [3, 20]])


@settings(max_examples=30)
@given(st.data())
def test_as_numpy_interpolates(data: st.DataObject) -> None:
    n_curves, bands = data.draw(st.integers(1, 4)), ["g", "r", "i"]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = [
        (f"c{c}", band, t, f)
        for c in range(n_curves)
        for band in bands
        if (n := rng.integers(0, 6)) or (c == 0 and band == "g")
        for t, f in zip(rng.permutation(100)[: max(n, 1)] / 4, rng.normal(size=max(n, 1)), strict=True)
    ]
    order = rng.permutation(len(rows))
    ids, names, mjd, flux = (np.array(column) for column in zip(*(rows[i] for i in order), strict=True))
    curves = LightCurves.of({"id": ids, "band": names, "mjd": mjd, "flux": flux})
    times = rng.uniform(-1, 26, 20)
    for c in np.unique(ids):
        for band in bands:
            mine = (ids == c) & (names == band)
            got = curves.flux_at(np.repeat(curves.find([c]), 20), band, times)
            if not mine.any():
                assert np.isnan(got).all()
                continue
            up = np.argsort(mjd[mine])
            want = np.interp(times, mjd[mine][up], flux[mine][up], left=0.0, right=0.0)
            np.testing.assert_allclose(got, want, atol=1e-12)
    again = LightCurves.from_stored([curves.stored(np.arange(len(curves))), curves.stored([0])])
    places = again.find_keys(curves.keys)
    np.testing.assert_array_equal(curves.flux_at(np.arange(len(curves)), "r", 12.0), again.flux_at(places, "r", 12.0))


def test_magnitudes_are_ab_and_inf_is_no_flux() -> None:
    curves = LightCurves.of({"id": [1, 1], "mjd": [0.0, 1.0], "band": "r", "mag": [31.4, np.inf]})
    np.testing.assert_allclose(curves.flux_at([0, 0], "r", [0.0, 1.0]), [1.0, 0.0], rtol=2e-4)  # 31.4 is rounded
    exact = (0 * u.ABmag).to_value(u.nJy)
    curves = LightCurves.of({"id": [1], "mjd": [0.0], "band": ["r"], "mag": [20.0]})
    np.testing.assert_allclose(curves.flux_at([0], "r", 0.0), exact * 10**-8, rtol=1e-12)


def test_units_are_converted() -> None:
    table = Table({"id": ["x"], "mjd": [86400.0] * u.s, "band": ["r"], "flux": [2.0] * u.uJy})
    np.testing.assert_allclose(LightCurves.of(table).flux_at([0], None, 1.0), 2000.0)


def test_wide_tables_leave_out_empty_cells() -> None:
    wide = {"id": ["x"] * 3, "mjd": [0.0, 1.0, 2.0], "mag_g": [np.nan] * 3, "flux_r": [1.0, np.nan, 3.0]}
    curves = LightCurves.of(wide | {"mag_err_g": [0.1] * 3, "flux_err_r": [0.1] * 3})
    assert curves.bands == ("g", "r")
    np.testing.assert_array_equal(curves.flux_at([0], "r", 1.0), [2.0])
    np.testing.assert_array_equal(curves.flux_at([0], "g", 1.0), [np.nan])


def test_whole_numbers_are_ids() -> None:
    curves = LightCurves.of({"id": [10, 9, 10], "mjd": [1.0, 1.0, 2.0], "band": "r", "flux": [1.0, 2.0, 3.0]})
    np.testing.assert_array_equal(curves.flux_at(curves.find(["9", "10"]), "r", 1.0), [2.0, 1.0])


@pytest.mark.parametrize("ending", ["parquet", "csv", "ecsv", "fits"])
def test_files_give_what_tables_give(tmp_path, ending: str) -> None:
    table = Table(LONG)
    path = tmp_path / f"curves.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table(LONG), path)
    else:
        table.write(path)
    read, held = LightCurves.read(path), LightCurves.of(table)
    np.testing.assert_array_equal(read.keys, held.keys)
    np.testing.assert_array_equal(read.ids, held.ids)


def test_keys_change_with_every_value_and_with_nothing_else() -> None:
    keys = LightCurves.of(LONG).keys
    order = [4, 1, 0, 2, 3]
    shuffled = {name: [column[i] for i in order] for name, column in LONG.items()}
    renamed = LONG | {"id": ["q" if i == "b" else "p" for i in LONG["id"]]}
    np.testing.assert_array_equal(LightCurves.of(shuffled).keys, keys)
    np.testing.assert_array_equal(LightCurves.of(renamed).keys, keys)
    assert (keys >= 0).all()
    for name, value in (("mjd", 2.5), ("flux", np.nextafter(20.0, 21)), ("band", "r")):
        changed = LONG | {name: [*LONG[name][:4], value]}
        other = LightCurves.of(changed).keys
        assert other[0] != keys[0]
        assert other[1] == keys[1]


def test_repeated_times_merge_if_they_agree() -> None:
    twice = {name: [*column, column[0]] for name, column in LONG.items()}
    np.testing.assert_array_equal(LightCurves.of(twice).keys, LightCurves.of(LONG).keys)
    twice["flux"][-1] = 8.0
    with pytest.raises(CatalogError, match=r"light curve 'b', band 'r', mjd 10: 7 and 8 nJy"):
        LightCurves.of(twice)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mjd": [10.0, np.nan, 1.0, 20.0, 2.0]}, r"row 1.*|time of light curve 'a' is nan"),
        ({"mjd": [10.0, 2460000.5, 1.0, 20.0, 2.0]}, r"time of light curve 'a' is 2460000.5"),
        ({"flux": [7.0, np.nan, 10.0, 5.0, 20.0]}, r"light curve 'a' has no flux in band 'g' at 3"),
        ({"flux": Table({"f": [1.0] * 5 * u.mag})["f"]}, r"in mag, which cannot be converted to nJy"),
        ({"flux": [7.0, np.inf, 10.0, 5.0, 20.0]}, r"flux = inf"),
        ({"band": ["r", "", "g", "g", "g"]}, r"has no band"),
        ({"mag": [20.0] * 5}, r"both mag and flux"),
        ({"id": [1.0, np.nan, 2.0, 2.0, 2.0]}, r"row 1.*has no id"),
        ({"id": ["b", "a", "", "b", "a"]}, r"row 2.*has no id"),
        ({name: column[:0] for name, column in LONG.items()}, r"has no values"),
        ({"flux": None, "band": None, "flux_r": [np.nan] * 5}, r"has no values"),
        ({"id": None}, r"no column 'id' of ids; it has mjd, band, flux"),
        ({"flux": None}, r"neither mag nor flux"),
        ({"band": None}, r"no column 'band'"),
    ],
)
def test_bad_tables_are_refused(changes: dict, match: str) -> None:
    table = {name: column for name, column in (LONG | changes).items() if column is not None}
    with pytest.raises(CatalogError, match=match):
        LightCurves.of(table)
    if "mag" not in changes:
        return


def test_bad_magnitudes_are_refused() -> None:
    with pytest.raises(CatalogError, match="mag = -99"):
        LightCurves.of({"id": ["a"], "mjd": [1.0], "band": ["r"], "mag": [-99.0]})
    with pytest.raises(CatalogError, match="mag in band 'r' at 1"):
        LightCurves.of({"id": ["a"], "mjd": [1.0], "band": ["r"], "mag": [np.nan]})
