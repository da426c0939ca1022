"""The selection of rows by windows of time, with bends and parallax, against each row by itself."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from kits.orbits_kit import degrees, direction
from skygraft.catalog import in_window, normalize_catalog, partition_catalog, positions_at
from skygraft.catalog.io import to_arrow
from skygraft.catalog.partition_read import partition_bounds
from skygraft.errors import CatalogError
from skygraft.planning.patches import find_movers
from skygraft.planning.selection import Outlines, SourcePositions, select
from skygraft.timedomain.ephemerides import read_ephemerides


def square(ra, dec, half):
    cos = np.cos(np.radians(dec))
    return [(ra - half / cos, dec - half), (ra + half / cos, dec - half), (ra + half / cos, dec + half),
            (ra - half / cos, dec + half)]  # fmt: skip


def population(n=400, seed=3):
    """Still and moving sources with and without windows, around (30, 10)."""
    rng = np.random.default_rng(seed)
    nan = np.full(n, np.nan)
    begin = 60000 + rng.uniform(-3, 3, n)
    kind = rng.integers(0, 4, n)
    moving = kind >= 2
    return normalize_catalog(
        {
            "injection_id": np.arange(n),
            "ra": 30 + rng.normal(0, 0.1, n),
            "dec": 10 + rng.normal(0, 0.1, n),
            "source_type": ["Star"] * n,
            "mag_r": np.full(n, 20.0),
            "mjd_from": np.where(kind % 2 == 1, begin, nan),
            "mjd_to": np.where((kind % 2 == 1) & (rng.random(n) < 0.8), begin + rng.uniform(0.1, 5, n), nan),
            "rate_ra_cosdec": np.where(moving, rng.normal(0, 20, n), 0.0),
            "rate_dec": np.where(moving, rng.normal(0, 20, n), 0.0),
            "epoch_mjd": np.where(moving, begin, nan),
            "bend_from_east": np.where(kind == 3, rng.normal(0, 300, n), 0.0),
            "bend_to_north": np.where(kind == 3, rng.normal(0, 300, n), 0.0),
            "parallax": np.where(kind == 0, 5000.0, 0.0),
        }
    )


@pytest.mark.parametrize("mjd", [59998.0, 60000.0, 60001.7, 60030.0])
@pytest.mark.parametrize("stored", [False, True])
def test_rows_on_an_image_are_those_whose_window_is_open(mjd: float, stored: bool) -> None:
    table = population()
    got = select(to_arrow(table) if stored else table, square(30.0, 10.0, 0.05), 0.0, mjd=mjd)
    ra, dec = positions_at(table, mjd)
    middle = SkyCoord(30.0, 10.0, unit="deg").skyoffset_frame()
    there = SkyCoord(ra, dec, unit="deg").transform_to(middle)
    x, y = there.lon.wrap_at("180d").deg, there.lat.deg
    away = np.maximum(np.abs(x), np.abs(y)) - 0.05
    seen = in_window(table, mjd)
    # All that are on the image, and besides those only some that bends or parallax bring near it.
    on_it = set(np.flatnonzero(seen & (away < -1e-5)).tolist())
    assert on_it <= set(got.tolist())
    assert seen[got].all()
    assert away[got].max() < 0.1
    exact = np.flatnonzero(seen & ~(table["bend_from_east"].value != 0) & ~(table["parallax"].value != 0))
    assert set(exact[away[exact] < -1e-5]) == set(np.intersect1d(got, exact[np.abs(away[exact]) > 1e-5]).tolist())
    assert len(on_it) > 20


def test_an_image_without_a_time_has_no_source_with_a_window() -> None:
    table = population()
    still = (table["rate_dec"].value == 0) | (np.isfinite(table["mjd_from"].value))
    got = select(table[still], square(30.0, 10.0, 1.0), 0.0)
    assert np.isnan(table[still]["mjd_from"].value[got]).all() and len(got) > 20
    with pytest.raises(CatalogError, match="move"):
        select(table, square(30.0, 10.0, 1.0), 0.0)


class OnePatch:
    def __init__(self, edge):
        self.edge = edge

    def locate(self, ra, dec):
        return np.zeros(len(ra), dtype=int), (np.asarray(ra) > self.edge).astype(int)

    def to_dict(self):
        return {"edge": self.edge}


def test_pieces_widen_their_partition_only_by_what_they_move_in_their_windows(tmp_path) -> None:
    """However long the survey lasts, and whatever the speed."""
    times = 60000 + np.arange(0, 2, 1 / 48)
    ra, dec = degrees(direction(times, a=1.6))
    table = read_ephemerides({"id": np.full(len(times), 5), "mjd": times, "ra": ra, "dec": dec}).rows(
        normalize_catalog(
            {"injection_id": [5, 6], "ra": [1.0, ra[0]], "dec": [1.0, dec[0]], "source_type": ["Star"] * 2,
             "mag_r": [20.0] * 2}
        )
    )  # fmt: skip
    one, skymap = table[:1], OnePatch(float(np.median(ra)))
    partition_catalog(one, skymap, tmp_path, prepare=Prepared(table))
    bounds = partition_bounds(tmp_path)
    assert bounds.moving.tolist() == [0, 0] and not bounds.speeds.any()
    way = SkyCoord(ra, dec, unit="deg")
    longest = way[1:].separation(way[:-1]).arcsec.max()
    assert (np.degrees(bounds.strays) * 3600 < longest).all()
    assert (np.degrees(bounds.strays) * 3600 > 0.45 * longest).all()
    movers = find_movers(tmp_path, (50000.0, 70000.0))
    assert (movers.slack == bounds.strays).all() and len(movers.sources) == 0
    # Sources with windows that move far are compared with images one by one, if there is an image in their window.
    fast = table.copy()
    for name in ("rate_ra_cosdec", "rate_dec"):
        fast[name] = fast[name] * 100
    partition_catalog(one, skymap, tmp_path, prepare=Prepared(fast), overwrite=True)
    assert len(find_movers(tmp_path, (50000.0, 70000.0)).sources) == np.count_nonzero(fast["rate_dec"])
    some = find_movers(tmp_path, (60000.5, 60000.6)).sources
    assert 0 < len(some) < 8
    assert len(find_movers(tmp_path, (61000.0, 62000.0)).sources) == 0
    assert len(find_movers(tmp_path, (np.nan, np.nan)).sources) == 0


class Prepared:
    """A preparation that puts rows in place of a catalogue of one."""

    def __init__(self, rows):
        self.all = rows
        self.digest = str(rows["rate_dec"].value.sum())

    def rows(self, chunk):
        return self.all

    def rest(self, ids, like):
        yield from ()

    def beside(self, partition):
        return {}


def test_joined_sources_fill_what_some_lack() -> None:
    table = population(50)
    still = SourcePositions.at(np.array([30.0, 31.0]), np.array([10.0, 10.0]))
    other = SourcePositions.of(table)
    both = SourcePositions.joined([still, other, still])
    assert len(both) == 54
    assert np.isnan(both.windows[:2]).all() and not both.motion[:2].any() and not both.slack[-2:].any()
    outlines = Outlines.of([square(30.0, 10.0, 0.05)], [60000.0], [None])
    alone = other.select(outlines, 0.0)[1]
    got = both.select(outlines, 0.0)[1]
    assert got.tolist() == [0, *(alone + 2).tolist(), 52]
    reversed_rows = both.rows(np.arange(54)[::-1]).select(outlines, 0.0)[1]
    assert sorted(53 - reversed_rows) == got.tolist()
