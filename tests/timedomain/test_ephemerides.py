"""Ephemerides: their pieces against closed orbits, their tables in the layouts that other programs write."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.orbits_kit import apart, degrees, direction, sky_rates, turned
from skygraft.catalog import in_window, normalize_catalog, positions_at, rates_at, values
from skygraft.errors import CatalogError
from skygraft.timedomain.ephemerides import object_number, read_ephemerides
from skygraft.timedomain.ephemeris_curves import joined_curves
from skygraft.timedomain.ephemeris_tables import read_rows
from skygraft.timedomain.light_curves import LightCurves

START = 60100.0


def native(way, times, ids=1, *, rates=False, **columns):
    """A table of one object in skygraft's own layout."""
    ra, dec = degrees(way(times))
    table = {"id": np.full(len(times), ids), "mjd": times, "ra": ra, "dec": dec, **columns}
    if rates:
        table |= dict(zip(("rate_ra_cosdec", "rate_dec"), sky_rates(way, times), strict=True))
    return table


def catalogue(ids, **columns):
    n = len(ids)
    return normalize_catalog(
        {
            "injection_id": ids,
            "ra": np.zeros(n),
            "dec": np.zeros(n),
            "source_type": ["Star"] * n,
            "mag_r": np.full(n, 20.0),
            **columns,
        }
    )


def at(rows, mjd):
    """The rows whose window is open at a time."""
    return rows[in_window(rows, mjd)]


def errors(rows, way, times):
    """Distances from the way at some times, arcsec, and of the rates from those of the way, arcsec/h."""
    far, off = [], []
    for mjd in times:
        seen = at(rows, mjd)
        assert len(seen) == 1
        ra, dec = positions_at(seen, mjd)
        far.append(apart(ra, dec, way(np.array([mjd])))[0])
        off.append(np.hypot(*(rates_at(seen, mjd)[0] - np.squeeze(sky_rates(way, np.array([mjd]))))))
    return np.array(far), np.array(off)


def trojan(mjd):
    return direction(mjd, a=5.2, start=2.0)


@pytest.mark.parametrize("rates", [False, True])
def test_a_mover_lies_on_its_way_between_rows(rates: bool) -> None:
    times = START + np.arange(0, 6, 1 / 12)
    rows = read_ephemerides(native(trojan, times, rates=rates)).rows(catalogue([1, 2]))
    assert np.count_nonzero(rows["injection_id"] == 2) == 1
    rng = np.random.default_rng(1)
    far, off = errors(rows[rows["injection_id"] == 1], trojan, rng.uniform(times[0], times[-1], 40))
    # 0.02 pixels of 0.2 arcsec; a rate of 30 arcsec/h.
    assert far.max() < (5e-4 if rates else 4e-3)
    assert off.max() < 2e-2
    assert 3 < np.hypot(*rates_at(at(rows, times[5] + 0.01), times[5] + 0.01)[0]) < 100


def test_at_its_rows_it_is_exactly_there() -> None:
    times = START + np.sort(np.random.default_rng(2).uniform(0, 5, 60))
    for rates in (False, True):
        rows = read_ephemerides(native(trojan, times, rates=rates)).rows(catalogue([1]))
        far, off = errors(rows, trojan, times)
        assert far.max() < 1e-6
        if rates:
            assert off.max() < 1e-4


@pytest.mark.parametrize("where", ["pole", "south pole", "ra 0", "pole between rows"])
def test_poles_and_ra_0(where: str) -> None:
    times = START + np.arange(0, 1, 1 / 24)
    middle = trojan(np.array([times[10] + (0.02 if "between" in where else 0.0)]))[0]
    if where == "ra 0":
        ra, _ = degrees(middle)
        c, s = np.cos(np.radians(ra)), np.sin(np.radians(ra))

        def way(mjd):
            v = trojan(mjd)
            return np.stack([c * v[..., 0] + s * v[..., 1], c * v[..., 1] - s * v[..., 0], v[..., 2]], axis=-1)
    else:

        def way(mjd):
            return turned(trojan(mjd), -middle if where == "south pole" else middle)

    ra, _ = degrees(way(times))
    assert np.ptp(ra) > 90
    for rates in (False, where not in {"pole", "south pole"}):
        rows = read_ephemerides(native(way, times, rates=rates)).rows(catalogue([1]))
        rng = np.random.default_rng(1)
        far, off = errors(rows, way, [*rng.uniform(times[0], times[-1], 30), *(times[10] + np.array([-0.01, 0.01]))])
        assert far.max() < 4e-3
        assert off.max() < 5e-2


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_windows_of_an_object_never_overlap(seed: int, rates: bool) -> None:
    rng = np.random.default_rng(seed)
    times = START + np.cumsum(rng.choice([2e-3, 0.01, 0.02, 0.5, 3.0], rng.integers(1, 12)))
    order = rng.permutation(len(times))
    table = {name: np.asarray(column)[order] for name, column in native(trojan, times, rates=rates).items()}
    pieces = read_ephemerides(table).pieces
    assert (pieces.mjd_from < pieces.mjd_to).all()
    assert (pieces.mjd_to[:-1] <= pieces.mjd_from[1:]).all()
    covered = np.searchsorted(pieces.mjd_from, times, side="right") - 1
    assert (pieces.mjd_from[covered] <= times).all() and (times < pieces.mjd_to[covered]).all()


def test_gaps_are_not_crossed() -> None:
    times = np.concatenate([START + np.arange(5) / 24, START + 3 + np.arange(5) / 24])
    whole = read_ephemerides(native(trojan, times))
    rows = whole.rows(catalogue([1]))
    for mjd in (START + 1, START - 0.01, times[4] + 0.01, times[-1] + 0.01):
        assert len(at(rows, mjd)) == 0
    for mjd in (times[4], times[4] + 0.003, times[5] - 0.003, times[-1]):
        assert len(at(rows, mjd)) == 1
    assert len(at(read_ephemerides(native(trojan, times), max_gap=4.0).rows(catalogue([1])), START + 1)) == 1
    for images, missed in (([START + 0.1, START + 1, np.nan], [1]), ([START + 0.1], []), ([START + 1], [1])):
        names, counts = whole.uncovered(np.array(images))
        assert counts.tolist() == missed and names.tolist() == ["1"] * len(missed)
    with pytest.raises(CatalogError, match="max_gap"):
        read_ephemerides(native(trojan, times), max_gap=-1.0)


def test_a_single_row_follows_its_rate_for_minutes() -> None:
    rows = read_ephemerides(native(trojan, np.array([START]), rates=True)).rows(catalogue([1]))
    far, off = errors(rows, trojan, [START - 0.003, START, START + 0.003])
    assert far.max() < 2e-3 and off.max() < 1.0
    assert len(at(rows, START + 0.004)) == 0
    still = read_ephemerides(native(trojan, np.array([START]))).rows(catalogue([1]))
    assert len(at(still, START)) == 1 and len(at(still, START + 0.001)) == 0
    assert not rates_at(at(still, START), START).any()


def test_an_image_without_a_time_has_no_mover() -> None:
    rows = read_ephemerides(native(trojan, START + np.arange(3) / 24)).rows(catalogue([1, 2]))
    assert rows[in_window(rows, None)]["injection_id"].tolist() == [2]
    ra, _ = positions_at(rows, None)  # no error: none of these rows is on such an image
    assert len(ra) == len(rows)


def test_a_window_of_the_row_cuts_the_way() -> None:
    times = START + np.arange(0, 2, 1 / 12)
    begin, end = START + 0.51, START + 1.03
    table = catalogue([1], mjd_from=[begin], mjd_to=[end])
    rows = read_ephemerides(native(trojan, times, rates=True)).rows(table)
    assert rows["mjd_from"].min() == begin * u.d and rows["mjd_to"].max() == end * u.d
    far, off = errors(rows, trojan, [begin, begin + 0.001, 0.5 * (begin + end), end - 1e-9])
    assert far.max() < 5e-4 and off.max() < 2e-2
    assert len(at(rows, begin - 1e-6)) == 0 and len(at(rows, end)) == 0


def test_columns_do_not_depend_on_which_rows_have_an_ephemeris() -> None:
    eph = read_ephemerides(native(trojan, START + np.arange(3) / 24))
    table = catalogue([1, 2], pm_dec=[100.0, 200.0], epoch_mjd=[60000.0, 60000.0], parallax=[1.0, 2.0])
    some, none, both = eph.rows(table[:1]), eph.rows(table[1:]), eph.rows(table)
    assert some.colnames == none.colnames == both.colnames
    assert [some[c].dtype for c in some.colnames] == [none[c].dtype for c in none.colnames]
    assert not values(some, "pm_dec").any() and not values(some, "parallax").any()
    assert none["pm_dec"][0] == 200 * u.mas / u.yr and none["ra"][0] == 0 * u.deg


def test_rows_of_one_object_share_its_ephemeris() -> None:
    eph = read_ephemerides(native(trojan, START + np.arange(3) / 24, ids=70))
    rows = eph.rows(catalogue([1, 2, 3], object_id=[70, -1, 70]))
    counts = dict(zip(*(a.tolist() for a in np.unique(rows["injection_id"], return_counts=True)), strict=True))
    assert counts == {1: len(eph.pieces), 2: 1, 3: len(eph.pieces)}


# Layouts of tables


def sorcha(times, **columns):
    ra, dec = degrees(trojan(times))
    east, north = sky_rates(trojan, times)
    return {
        "ObjID": ["S1000000a"] * len(times),
        "fieldMJD_TAI": times,
        "fieldRA_deg": ra - 0.3,
        "fieldDec_deg": dec + 0.2,
        "RA_deg": ra,
        "Dec_deg": dec,
        "RARateCosDec_deg_day": east * 24 / 3600,
        "DecRate_deg_day": north * 24 / 3600,
        "optFilter": [str(b) for b in np.resize(["r", "i"], len(times))],
        "trailedSourceMag": np.linspace(20, 21, len(times)),
        "astrometricSigma_deg": np.full(len(times), 1e-5),
        **columns,
    }


def test_sorcha(tmp_path) -> None:
    times = START + np.array([0.0, 0.02, 3.0, 3.03, 6.0])
    path = tmp_path / "sorcha.csv"
    Table(sorcha(times)).write(path)
    eph = read_ephemerides(path)
    assert eph.table.layout == "sorcha" and sorted(eph.table.mags) == ["i", "r"]
    number = object_number("S1000000a")
    rows = next(eph.rest(np.array([5]), eph.rows(catalogue([5]))))
    assert set(rows["injection_id"].tolist()) == {number} and set(rows["source_type"].tolist()) == {"Star"}
    far, off = errors(rows, trojan, times)
    assert far.max() < 1e-6 and off.max() < 1e-3
    assert len(at(rows, START + 1.5)) == 0  # not from other nights
    for k, time in enumerate(times):
        assert shines(eph, at(rows, time), "ri"[k % 2], time) == pytest.approx(20 + 0.25 * k, abs=1e-9)
    true = sorcha(times) | {"RATrue_deg": sorcha(times)["RA_deg"], "DecTrue_deg": sorcha(times)["Dec_deg"]}
    true["RA_deg"] = true["RA_deg"] + 1e-4
    assert np.array_equal(read_ephemerides(true).table.ra, eph.table.ra)


def shines(eph, row, band, mjd):
    """The magnitude of a piece's light curve at a time."""
    curves = eph.light_curves()
    (flux,) = curves.flux_at(curves.find(row["light_curve"].tolist()), band, mjd)
    return -2.5 * np.log10(flux / 3630780547701.0)


def test_magnitudes_are_linear_in_flux_between_rows() -> None:
    times = START + np.arange(8) / 24
    rng = np.random.default_rng(1)
    g, r = rng.uniform(18, 22, 8), np.r_[rng.uniform(18, 22, 3), np.nan, np.nan, rng.uniform(18, 22, 2), np.nan]
    eph = read_ephemerides(native(trojan, times, mag_g=g, mag_r=r))
    rows = eph.rows(catalogue([1]))
    there = np.isfinite(r)
    for mjd in np.r_[rng.uniform(times[0], times[6], 30), times[:-1]]:
        for band, mag, ok in (("g", g, np.ones(8, bool)), ("r", r, there)):
            flux = np.interp(mjd, times[ok], 10 ** (-0.4 * mag[ok]))
            assert shines(eph, at(rows, mjd), band, mjd) == pytest.approx(-2.5 * np.log10(flux), abs=2e-7)
    curves = eph.light_curves()
    assert np.isnan(curves.flux_at(curves.find(at(rows, times[-1])["light_curve"].tolist()), "r", times[-1])[0])
    own = eph.rows(catalogue([1], light_curve=["mine"]))
    assert set(own["light_curve"].tolist()) == {"mine"}


def test_light_curves_of_two_tables_are_joined() -> None:
    one = LightCurves.of({"id": ["b", "b", "z"], "mjd": [1.0, 2.0, 1.0], "band": ["g", "g", "r"], "flux": [1.0, 2, 3]})
    two = LightCurves.of({"id": ["a", "c"], "mjd": [1.0, 2.0], "band": ["i", "r"], "flux": [4.0, 5]})
    for both in (joined_curves(one, two), joined_curves(two, one)):
        assert both.ids.tolist() == ["a", "b", "c", "z"] and both.bands == ("g", "i", "r")
        for part in (one, two):
            for k, name in enumerate(part.ids.tolist()):
                at_ = both.find([name])
                assert both.keys[at_[0]] == part.keys[k]
                for band in part.bands:
                    want, got = part.flux_at([k], band, 1.0), both.flux_at(at_, band, 1.0)
                    assert (want == got) | (np.isnan(want) & np.isnan(got))


def test_horizons_and_kbmod_are_in_utc() -> None:
    times = Time(START + np.arange(6) / 12, format="mjd", scale="tai")
    ra, dec = degrees(trojan(times.mjd))
    east, north = sky_rates(trojan, times.mjd)
    horizons = QTable(
        {
            "targetname": ["9"] * 6,
            "datetime_jd": times.utc.jd * u.d,
            "RA": ra * u.deg,
            "DEC": dec * u.deg,
            "RA_rate": east * u.arcsec / u.hour,
            "DEC_rate": north * u.arcsec / u.hour,
            "V": np.full(6, 20.0) * u.mag,
        }
    )
    kbmod = {"Name": ["9"] * 6, "mjd_mid": times.utc.mjd, "RA": ra, "DEC": dec}
    own = {"id": np.full(6, 9), "mjd": times, "ra": ra, "dec": dec}
    utc = {"id": np.full(6, 9), "mjd_utc": times.utc.mjd, "ra": ra, "dec": dec}
    for table, layout in ((horizons, "horizons"), (kbmod, "kbmod"), (Table(own), "native"), (utc, "native")):
        rows = read_rows(table)
        assert rows.layout == layout
        np.testing.assert_allclose(rows.mjd, times.mjd, rtol=0, atol=5e-10 if layout != "horizons" else 5e-9 * 100)
    assert np.abs(read_rows(horizons).rates[:, 0] - east).max() < 1e-9


def test_repeated_rows_of_two_bands_are_one() -> None:
    table = native(trojan, np.repeat(START + np.arange(3) / 24, 2), mag=np.arange(20.0, 26), band=["g", "r"] * 3)
    rows = read_rows(table)
    assert len(rows.mjd) == 3
    assert rows.mags["g"].tolist() == [20, 22, 24] and rows.mags["r"].tolist() == [21, 23, 25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ra": [10.0, np.nan, 10.2]}, "object '7'.*ra = nan"),
        ({"ra": [10.0, 400.0, 10.2]}, r"\[0, 360\] deg"),
        ({"dec": [1.0, 1.0, -90.5]}, "dec = -90.5"),
        ({"mjd": [60000.0, np.inf, 60001.0]}, "mjd = inf"),
        ({"mjd": [2460000.5, 2460001.5, 2460002.5]}, "MJD"),
        ({"mjd": [60000.0, 60000.0, 60001.0]}, "object '7' has two positions at mjd 60000"),
        ({"rate_dec": [1.0, 1.0, 1.0]}, "no rate_ra_cosdec"),
        ({"rate_dec": [1.0, np.nan, 1.0], "rate_ra_cosdec": [1.0, 1.0, 1.0]}, "rate_dec = nan"),
        ({"mag": [20.0, 20.0, 20.0]}, "band"),
        ({"mag_r": [20.0, np.inf, 20.0]}, "mag of band r = inf"),
        ({"id": ["a", "", "b"]}, "has no id"),
        ({"id": [7.0, np.nan, 7.0]}, "has no id"),
        ({"mjd": np.zeros((3, 2))}, "mjd"),
        ({"mjd": [[1.0], [2.0, 3.0], [4.0]]}, "mjd"),
    ],
)
def test_bad_tables(change, message) -> None:
    table = {"id": [7, 7, 7], "mjd": [60000.0, 60000.5, 60001.0], "ra": [10.0, 10.1, 10.2], "dec": [1.0, 1.1, 1.2]}
    read_rows(table)
    with pytest.raises(CatalogError, match=message):
        read_rows(table | change)


def test_ids_that_overflow_and_unknown_layouts() -> None:
    table = {"id": ["99999999999999999999"], "mjd": [60000.0], "ra": [10.0], "dec": [1.0]}
    with pytest.raises(CatalogError, match="64 bits"):
        read_ephemerides(table).rows(catalogue([1]))
    with pytest.raises(CatalogError, match="id = 1"):
        read_ephemerides(table | {"id": [1e25]})
    with pytest.raises(CatalogError, match="not a table of ephemerides"):
        read_rows({"name": ["a"], "mjd": [60000.0], "ra": [10.0], "dec": [1.0]})
    with pytest.raises(CatalogError, match="no rows"):
        read_rows({"id": [], "mjd": [], "ra": [], "dec": []})


def test_rates_in_another_unit_are_noticed() -> None:
    times = START + np.arange(12) / 12
    table = native(trojan, times, rates=True)
    for name in ("rate_ra_cosdec", "rate_dec"):
        table[name] = table[name] * 24 / 3600  # degrees a day
    with pytest.raises(CatalogError, match="unit"):
        read_ephemerides(table).rows(catalogue([1]))


def test_objects_that_no_row_has() -> None:
    eph = read_ephemerides(native(trojan, START + np.arange(3) / 24, ids=70))
    prepared = eph.rows(catalogue([1]))
    with pytest.raises(CatalogError, match="none of the 1 objects"):
        list(eph.rest(np.array([1]), prepared))
    assert list(eph.rest(np.array([1, 70]), prepared)) == []
    bright = read_ephemerides(native(trojan, START + np.arange(3) / 24, ids=70, mag_r=[20.0, 20.5, 21.0]))
    (stars,) = bright.rest(np.array([1]), bright.rows(catalogue([1])))
    assert stars.colnames == bright.rows(catalogue([1])).colnames
    assert set(stars["injection_id"].tolist()) == {70}
    alone = bright.stars()
    assert len(alone) == len(bright.pieces) and set(alone["light_curve"].tolist()) == set(bright.curve_names)
