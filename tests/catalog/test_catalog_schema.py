"""What validation refuses, how it says so, and what it flags."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable

from skygraft.catalog import Flag, decode_flags, normalize_catalog, validate, values
from skygraft.errors import CatalogError, shown


def table(**changes):
    rows = {
        "injection_id": np.arange(100, 105),
        "ra": np.array([0.0, 10.0, 360.0, 200.0, 300.0]) * u.deg,
        "dec": np.array([-90.0, 0.0, 90.0, 10.0, 20.0]) * u.deg,
        "source_type": np.array(["Star", "Sersic", "Gaussian", "BulgeDisk", "Star"]),
        "mag_r": np.array([20.0, 21.0, 22.0, 23.0, np.nan]) * u.mag,
        "n": np.array([np.nan, 2.0, np.nan, np.nan, np.nan]),
        "half_light_radius": np.array([np.nan, 0.5, 0.4, np.nan, np.nan]) * u.arcsec,
        "q": np.array([np.nan, 0.5, 1.0, np.nan, np.nan]),
        "pa": np.array([np.nan, 30.0, 0.0, np.nan, np.nan]) * u.deg,
        "bulge_fraction": np.array([np.nan, np.nan, np.nan, 0.0, np.nan]),
        "disk_half_light_radius": np.array([np.nan, np.nan, np.nan, 0.7, np.nan]) * u.arcsec,
    }
    rows |= changes
    return QTable(rows)


def test_a_good_table_passes_with_edges_and_a_missing_magnitude():
    good = validate(table())
    assert (good["flags"] == 0).all()
    # An all-disk galaxy needs no bulge; a star needs no shape; 0 and 360 and the poles are on the sphere.
    assert len(good) == 5


@pytest.mark.parametrize(
    ("column", "row", "value", "reason"),
    [
        ("ra", 1, 370.0, r"ra = 370 is not in \[0, 360\] deg"),
        ("ra", 1, -1e-9, r"ra = -1e-09 is not in \[0, 360\] deg"),
        ("ra", 1, np.nan, "ra = nan"),
        ("dec", 1, 90.5, r"dec = 90.5 is not in \[-90, 90\] deg"),
        ("dec", 1, np.inf, "dec = inf"),
    ],
)
def test_positions_always_raise(column, row, value, reason):
    bad = table()
    bad[column][row] = value * u.deg
    for on_bad in ("raise", "flag"):
        with pytest.raises(CatalogError, match=reason) as caught:
            validate(bad, on_bad=on_bad, origin="fakes.ecsv")
        assert "row 1 (injection_id 101)" in str(caught.value)
        assert str(caught.value).startswith("fakes.ecsv")
        assert "on_bad" not in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("column", "row", "value", "flag", "reason"),
    [
        ("n", 1, 0.29, "SERSIC_EXTREME", r"n = 0.29 is not in \[0.3, 6.2\]"),
        ("n", 1, 6.21, "SERSIC_EXTREME", r"n = 6.21 is not in \[0.3, 6.2\]"),
        ("n", 1, np.nan, "SERSIC_EXTREME", "n = nan"),
        ("q", 1, 0.0, "PARAMETERS_BAD", r"q = 0 is not in \(0, 1\]"),
        ("q", 2, 1.01, "PARAMETERS_BAD", r"q = 1.01"),
        ("half_light_radius", 1, 0.0, "PARAMETERS_BAD", "half_light_radius = 0 is not finite and > 0 arcsec"),
        ("half_light_radius", 2, np.nan, "PARAMETERS_BAD", "half_light_radius = nan"),
        ("disk_half_light_radius", 3, -1.0, "PARAMETERS_BAD", "disk_half_light_radius = -1"),
        ("bulge_fraction", 3, 1.5, "PARAMETERS_BAD", r"bulge_fraction = 1.5 is not in \[0, 1\]"),
        ("bulge_fraction", 3, 0.5, "PARAMETERS_BAD", "bulge_half_light_radius = nan"),
        ("mag_r", 0, np.inf, "MAG_BAD", "mag_r = inf is not finite"),
        ("source_type", 0, "Sersick", "TYPE_UNKNOWN", "'Sersick' is not one of .*; did you mean 'Sersic'\\?"),
        ("source_type", 0, "Trail", "PARAMETERS_BAD", "a Trail needs trail_length"),
        ("source_type", 0, "Stamp", "PARAMETERS_BAD", "a Stamp needs the path"),
    ],
)
def test_other_rows_raise_or_are_flagged(column, row, value, flag, reason):
    bad = table()
    if column == "source_type":
        bad[column] = np.array([*bad[column][:row], value, *bad[column][row + 1 :]])
    else:
        unit = getattr(bad[column], "unit", None)
        bad[column][row] = value * unit if unit is not None else value
    with pytest.raises(CatalogError, match=reason) as caught:
        validate(bad)
    assert f"row {row} (injection_id {100 + row})" in str(caught.value)
    assert "on_bad='flag'" in str(caught.value)
    kept = validate(bad, on_bad="flag")
    assert len(kept) == 5
    assert decode_flags(kept["flags"][row]) == [flag]
    assert (np.delete(np.asarray(kept["flags"]), row) == 0).all()


def test_a_bad_index_on_a_star_does_not_matter():
    # LSST source_injection flags a star whose masked n reads as 0; a star has no index.
    stars = table()
    stars["n"][0] = 0.0
    assert (validate(stars)["flags"] == 0).all()


def test_ten_rows_are_listed_and_the_rest_counted():
    n = 40
    many = QTable(
        {
            "injection_id": np.arange(n),
            "ra": np.full(n, 400.0) * u.deg,
            "dec": np.zeros(n) * u.deg,
            "source_type": np.full(n, "Star"),
            "mag_r": np.full(n, 20.0) * u.mag,
        }
    )
    with pytest.raises(CatalogError) as caught:
        validate(many)
    text = str(caught.value)
    assert "40 of 40 rows" in text
    assert text.count("ra = 400") == 10
    assert "and 30 more" in text
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == text


def test_duplicate_ids_name_both_rows():
    bad = table(injection_id=np.array([7, 8, 9, 8, 10]))
    for on_bad in ("raise", "flag"):
        with pytest.raises(CatalogError, match=r"8 \(rows 1 and 3\)"):
            validate(bad, on_bad=on_bad)


def test_empty_and_missing_columns():
    with pytest.raises(CatalogError, match="no rows"):
        validate(table()[:0])
    with pytest.raises(CatalogError, match="no rows"):
        normalize_catalog(table()[:0])
    bad = table()
    bad.remove_column("dec")
    with pytest.raises(CatalogError, match="no column 'dec'"):
        validate(bad)
    with pytest.raises(CatalogError, match="allowed are 'raise' and 'flag'"):
        validate(table(), on_bad="ignore")


def test_movers_need_an_epoch():
    moving = table(rate_dec=np.array([0, 0, 0, 0, 1.0]) * u.arcsec / u.hour)
    with pytest.raises(CatalogError, match="needs epoch_mjd"):
        validate(moving)
    moving["epoch_mjd"] = np.full(5, 60000.0) * u.day
    assert (validate(moving)["flags"] == 0).all()


def test_flags_that_a_table_brings_are_kept():
    bad = table(flags=np.array([int(Flag.STAMP_TRUNCATED), 0, 0, 0, 0]))
    bad["q"][1] = 2.0
    kept = validate(bad, on_bad="flag")
    assert decode_flags(kept["flags"][0]) == ["STAMP_TRUNCATED"]
    assert decode_flags(kept["flags"][1]) == ["PARAMETERS_BAD"]
    assert bad["flags"][1] == 0  # the argument is not changed


def test_values_converts_units_and_gives_defaults():
    t = table(half_light_radius=np.full(5, 0.5 / 60.0) * u.arcmin)
    np.testing.assert_allclose(values(t, "half_light_radius"), 0.5, rtol=1e-14)
    assert (values(t, "visit") == -1).all()
    assert values(t, "visit").dtype == np.int64
    assert values(t, "mag_per_pixel").dtype == np.bool_
    assert np.isnan(values(t, "trail_length")).all()
    assert values(t, "bulge_n").tolist() == [4.0] * 5
    before = values(t, "ra")
    before[:] = 0
    assert t["ra"][1] == 10 * u.deg


@pytest.mark.parametrize(
    ("column", "row", "value", "kept"),
    [
        ("q", 1, np.nextafter(np.float32(1), np.float32(2)), 1.0),
        ("q", 1, 1.0000001, 1.0),
        ("n", 1, np.nextafter(np.float32(6.2), np.float32(7)), 6.2),
        ("n", 1, 0.3 - 2e-8, 0.3),
        ("bulge_fraction", 3, 1.0 + 1e-7, 1.0),
    ],
)
def test_rounding_in_single_precision_is_taken_back(column, row, value, kept):
    rounded = table(
        bulge_half_light_radius=np.full(5, 0.7) * u.arcsec, disk_half_light_radius=np.full(5, 0.7) * u.arcsec
    )
    rounded[column][row] = value
    for on_bad in ("raise", "flag"):
        good = validate(rounded, on_bad=on_bad)
        assert good[column][row] == kept and (good["flags"] == 0).all()
    assert rounded[column][row] == value  # the argument is not changed


@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("q", 1, 1.0000002, r"q = 1\.0000002 is not in \(0, 1\]"),
        ("q", 1, 1.0 + 1.3e-7, r"q = 1\.00000013 is not in \(0, 1\]"),
        ("n", 1, 6.200001, r"n = 6\.200001 is not in \[0\.3, 6\.2\]"),
        ("ra", 1, np.nextafter(360.0, 400.0), r"ra = 360\.00000000000006 is not in \[0, 360\] deg"),
        ("dec", 1, 90.0 + 1e-7, r"dec = 90\.0000001 is not in \[-90, 90\] deg"),
        ("bulge_fraction", 3, -1e-9, r"bulge_fraction = -1e-09 is not in \[0, 1\]"),
    ],
)
def test_numbers_beside_a_bound_are_told_from_it(column, row, value, said):
    bad = table()
    bad[column][row] = value * (getattr(bad[column], "unit", None) or 1)
    with pytest.raises(CatalogError, match=said):
        validate(bad)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("half_light_radius", 3e240 * u.arcsec, r"half_light_radius = 3e\+240 is not within 36000 arcsec"),
        ("half_light_radius", 36001 * u.arcsec, "half_light_radius = 36001 is not within 36000 arcsec"),
        ("half_light_radius", 1e-300 * u.arcsec, r"half_light_radius = 1e-300 is not 1e-09 arcsec or more"),
        ("trunc", 1e-300 * u.arcsec, r"trunc = 1e-300 is not 1e-09 arcsec or more"),
        ("q", 1e-12, r"q = 1e-12 is not 0\.0001 or more"),
        ("pa", 1e300 * u.deg, r"pa = 1e\+300 is not within 3600 deg"),
        ("trunc", 1e200 * u.arcsec, r"trunc = 1e\+200 is not within"),
        ("pm_dec", 1e30 * u.mas / u.yr, r"pm_dec = 1e\+30 is not within"),
        ("rate_dec", 1e30 * u.arcsec / u.h, r"rate_dec = 1e\+30 is not within"),
        ("epoch_mjd", 2460000.5 * u.d, r"epoch_mjd = 2460000\.5 is not within 200000 d"),  # a Julian date
        ("draw_size", 10**7, "draw_size = 10000000 is not within 100000 pix"),
        ("visit", -5, "visit = -5 is not finite and >= -1"),
    ],
)
def test_what_no_source_has_is_refused_or_flagged(column, value, said):
    fill = {"half_light_radius": 0.5 * u.arcsec, "trunc": 5 * u.arcsec, "q": 0.5, "draw_size": 0, "visit": -1}
    number = getattr(value, "value", value)
    unit = getattr(value, "unit", 1)
    values_ = np.full(5, getattr(fill.get(column), "value", fill.get(column, 0 * number)), dtype=type(number))
    values_[1] = number
    bad = table(**{column: values_ * unit})
    if "pm_" in column or "rate_" in column:
        bad["epoch_mjd"] = np.full(5, 60000.0) * u.d
    with pytest.raises(CatalogError, match=said):
        validate(bad)
    kept = validate(bad, on_bad="flag")
    assert decode_flags(kept["flags"][1]) == ["PARAMETERS_BAD"]


@pytest.mark.parametrize("value", [1.0000002, np.float32(1.0000002), np.float64(0.1), 1e300, 3, np.int64(2**60 + 1)])
def test_numbers_in_messages_are_those_that_were_given(value):
    assert type(value)(shown(value)) == value
    assert shown(0.5) == "0.5" and shown(360.0) == "360" and shown(np.nan) == "nan"
