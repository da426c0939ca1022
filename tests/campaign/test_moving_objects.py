"""Campaigns with moving objects: every image has each of them once, where its ephemeris says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

from kits.plain_images import write_plain_image
from skygraft.campaign import Campaign
from skygraft.catalog import Flag, write_catalog
from skygraft.config.campaign import load_config
from skygraft.planning.findings import UNCOVERED
from skygraft.qa.primary_rows import check_tables
from skygraft.records.files import Layout
from skygraft.records.plan_file import plan_key
from skygraft.skymap import get_skymap
from skygraft.timedomain.ephemerides import object_number

SIZE = 160
START = 60100.0
SKYMAP = get_skymap("hsc_rings_v1")


def border(dec: float) -> float:
    """The right ascension nearest to 150 at which a patch ends."""
    ra = np.arange(150.0, 150.4, 1e-4)
    tract, patch = SKYMAP.locate(ra, np.full(len(ra), dec))
    return float(ra[np.flatnonzero((np.diff(patch) != 0) | (np.diff(tract) != 0))[0]])


DEC = 2.2
EDGE = SkyCoord(border(DEC) * u.deg, DEC * u.deg)
MOVERS = {  # position angle, arcsec/h, arcsec from the border at START
    11: (90.0, 5.0, -8.0),
    12: (270.0, 40.0, 60.0),
    13: (86.0, 250.0, -325.0),
}
VISITS = {500: 0.0, 501: 0.5, 502: 1.3, 503: 2.0, 504: 3.1, 505: 4.0}
"""Hours of mid-exposure."""


def way(mover: int, hours):
    pa, rate, first = MOVERS[mover]
    start = EDGE.directional_offset_by(90 * u.deg, first * u.arcsec)
    # A little of a turn, so that no piece is straight.
    angle = pa + 3.0 * np.asarray(hours)
    return start.directional_offset_by(angle * u.deg, rate * np.asarray(hours) * u.arcsec)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six visits of two detectors side by side, whose common edge is the border of two patches."""
    root = tmp_path_factory.mktemp("movers")
    for visit, hours in VISITS.items():
        for detector, side in ((1, -1), (2, 1)):
            # One tangent point for both, so that they share the edge.
            cards = {"CRVAL1": EDGE.ra.deg, "CRVAL2": EDGE.dec.deg, "CRPIX1": SIZE / 2 + 0.5 + side * SIZE / 2}
            write_plain_image(
                root / f"raw/{visit}-{detector}.fits", 0.0, 0.0, SIZE, seed=visit + detector, **cards, EXPNUM=visit,
                CCDNUM=detector, EXPTIME=120.0, **{"MJD-AVG": START + hours / 24},
            )  # fmt: skip
    write_plain_image(
        root / "raw/template.fits", EDGE.ra.deg, EDGE.dec.deg, SIZE, EXPNUM=None, CCDNUM=None, **{"MJD-AVG": None}
    )
    times = np.arange(-1.0, 6.0, 0.25)
    rows = [(i, START + t / 24, way(i, t).ra.deg, way(i, t).dec.deg) for i in MOVERS for t in times]
    Table(rows=rows, names=("id", "mjd", "ra", "dec")).write(root / "ephemerides.csv")
    n = len(MOVERS)
    stars = QTable(
        {
            "injection_id": [*MOVERS, 1, 2],
            "ra": np.r_[np.zeros(n), EDGE.ra.deg - 3e-3, EDGE.ra.deg + 3e-3],
            "dec": np.r_[np.zeros(n), DEC, DEC],
            "source_type": ["Star"] * (n + 2),
            "mag_r": np.full(n + 2, 17.0),
        }
    )
    write_catalog(stars, root / "fakes.parquet")
    return root


def run(root: Path, output: str, **catalog) -> Campaign:
    settings = {
        "name": "movers",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet", "ephemerides": "ephemerides.csv", **catalog},
        "skymap": "hsc_rings_v1",
        "injection": {"noise": False},
        "output": output,
        "margin_arcsec": 8.0,
    }
    path = root / f"{output}.yaml"
    path.write_text(yaml.safe_dump(settings))
    campaign = Campaign.from_yaml(path)
    assert campaign.run(n_workers=0).ok
    return campaign


@pytest.fixture(scope="module")
def done(survey: Path) -> Path:
    run(survey, "out")
    return survey / "out"


def truth_of(output: Path) -> Table:
    return Table.from_pandas(pq.read_table(output / "truth").to_pandas())


def test_each_image_has_each_mover_once_where_it_should_be(survey: Path, done: Path) -> None:
    truth = truth_of(done)
    reads = set()
    for visit, hours in VISITS.items():
        for detector in (1, 2):
            (path,) = done.glob(f"images/**/{visit}-{detector}.fits")
            wcs = WCS(fits.getheader(path), fix=False)
            mine = truth[[str(visit) in name and name.endswith(str(detector)) for name in truth["image_id"]]]
            for mover in MOVERS:
                place = way(mover, hours)
                x, y = wcs.world_to_pixel_values(place.ra.deg, place.dec.deg)
                found = mine[mine["injection_id"] == mover]
                beyond = max(-0.5 - x, x - SIZE + 0.5, -0.5 - y, y - SIZE + 0.5)
                if beyond < 0:
                    assert len(found) == 1
                if len(found):
                    assert len(found) == 1 and beyond < 60
                    assert np.hypot(found["x"][0] - x, found["y"][0] - y) < 0.02
                    reads.add((mover, detector))
    assert reads == {(mover, detector) for mover in MOVERS for detector in (1, 2)}


def test_what_two_detectors_have_of_a_mover_is_all_of_it(survey: Path, done: Path) -> None:
    truth = truth_of(done)
    both = 0
    for visit, hours in VISITS.items():
        for mover, (_, rate, _) in MOVERS.items():
            mine = truth[(truth["injection_id"] == mover) & [str(visit) in name for name in truth["image_id"]]]
            if len(mine) == 2:
                place = way(mover, hours).transform_to(EDGE.skyoffset_frame())
                if abs(place.lat.arcsec) < 8 and abs(place.lon.wrap_at("180d").arcsec) < 20:
                    total = mine["flux_deposited"].sum()
                    expected = truth["flux_deposited"][truth["injection_id"] == 2].max()
                    assert total == pytest.approx(expected, rel=2e-3)
                    both += 1
                    assert set(mine["source_type"]) == {"Trail"}, rate
    assert both >= 2


def test_an_image_without_a_time_has_the_still_sources_only(survey: Path, done: Path) -> None:
    truth = truth_of(done)
    mine = truth[["template" in name for name in truth["image_id"]]]
    assert set(mine["injection_id"]) == {1, 2}


def test_a_changed_ephemeris_is_noticed(survey: Path, done: Path) -> None:
    table = Table.read(survey / "ephemerides.csv")
    table["dec"][table["id"] == 11] += 1e-3
    table.write(survey / "changed.csv")
    run(survey, "other", ephemerides="changed.csv")
    first, second = (truth_of(out) for out in (done, survey / "other"))
    config = load_config(survey / "other.yaml")
    key = plan_key(config)
    assert plan_key(config) == key
    os.utime(survey / "changed.csv", (1, 1))
    assert plan_key(config) != key
    moved = {i: [t["dec"][t["injection_id"] == i].mean() for t in (first, second)] for i in (11, 12)}
    assert moved[11][1] - moved[11][0] == pytest.approx(1e-3, rel=1e-3)
    assert moved[12][1] == moved[12][0]


def test_objects_of_an_ephemeris_with_magnitudes_need_no_row(survey: Path) -> None:
    """A table as Sorcha writes it: a row for each exposure, in its band."""
    rows = []
    for visit, hours in VISITS.items():
        for mover in MOVERS:
            place, later = way(mover, hours), way(mover, hours + 1e-3)
            east, north = place.spherical_offsets_to(later)
            rate = [v.deg / (1e-3 / 24) for v in (east, north)]
            rows.append((f"S{mover}", START + hours / 24, place.ra.deg, place.dec.deg, *rate, "r", 17.0 + visit / 1e3))
    names = ("ObjID", "fieldMJD_TAI", "RA_deg", "Dec_deg", "RARateCosDec_deg_day", "DecRate_deg_day", "optFilter")
    Table(rows=rows, names=(*names, "trailedSourceMag")).write(survey / "sorcha.csv")
    run(survey, "sorcha", ephemerides="sorcha.csv")
    truth = truth_of(survey / "sorcha")
    known = {object_number(f"S{mover}"): mover for mover in MOVERS}
    found = truth[np.isin(truth["injection_id"], list(known))]
    assert len(found) >= 8
    for row in found:
        visit = next(visit for visit in VISITS if str(visit) in row["image_id"])
        place = way(known[row["injection_id"]], VISITS[visit])
        assert SkyCoord(row["ra"], row["dec"], unit="deg").separation(place).arcsec < 1e-4
        assert row["mag"] == pytest.approx(17.0 + visit / 1e3, abs=1e-6)
        assert row["source_type"] == "Trail"
        assert row["flags"] & int(Flag.NOT_VISIBLE | Flag.NO_LIGHT_CURVE) == 0
    assert not set(truth["injection_id"]) & set(MOVERS)


def test_objects_without_a_position_at_an_images_time_are_counted(survey: Path) -> None:
    table = Table.read(survey / "ephemerides.csv")
    table[(table["id"] != 13) | (table["mjd"] < START + 0.05)].write(survey / "short.csv")
    campaign = run(survey, "short", ephemerides="short.csv")
    found = campaign.plan(processes=1)
    few = found.findings[UNCOVERED]
    late = sum(hours > 24 * 0.05 for hours in VISITS.values()) * 2
    assert (few.n, few.first) == (1, ("13",))
    assert found.n_catalog == 5
    notes = pq.read_table(survey / "short" / "plan_findings.parquet").filter(pc.field("finding") == UNCOVERED)
    assert notes["note"].to_pylist() == [f"13: no position at the time of {late} of 12 images"]
    assert UNCOVERED in str(found)


def test_tallies_of_pieces_add_up_to_those_of_the_object(survey: Path, done: Path) -> None:
    truth = truth_of(done)
    sources = Table.from_pandas(pq.read_table(done / "sources.parquet").to_pandas())
    for i in {*MOVERS, 1, 2}:
        mine, pieces = truth[truth["injection_id"] == i], sources[sources["injection_id"] == i]
        assert pieces["n_images"].sum() == len(mine)
        assert pieces["n_primary"].sum() == mine["is_primary"].sum()
        for piece in pieces[pieces["n_drawn"] > 0] if i in MOVERS else ():
            assert piece["mjd_from"] <= piece["first_mjd"] <= piece["last_mjd"] < piece["mjd_to"]
            within = (mine["mjd"] >= piece["mjd_from"]) & (mine["mjd"] < piece["mjd_to"])
            assert piece["n_images"] == np.count_nonzero(within)
    assert len(sources[sources["injection_id"] == 11]) > 20
    (tables,) = (row for row in check_tables(Layout(done)) if row.check == "tables")
    assert tables.verdict == "passes", tables.note
