"""Groups through a campaign: whole on every image, over the borders of patches, on turned and mirrored images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.table import Table
from astropy.wcs import WCS

from kits.plain_images import SCALE, plain_header, write_plain_image
from skygraft import Campaign
from skygraft.catalog import write_catalog
from skygraft.generation.groups import place_groups
from skygraft.generation.lenses import Lens, lensed_system
from skygraft.skymap import get_skymap

LENS = Lens(1.4, 0.7, 35.0, z_lens=0.4, z_source=1.2)
SKYMAP = {"kind": "healpix", "nside": 64, "patch_nside": 1024}
VISITS = {500: (0.0, False), 501: (130.0, True), 502: (250.0, False)}
MJD = {500: 60060.0, 501: 60077.3, 502: 60111.9}
SLOPE = 2000.0  # nJy per day: what a light curve has tells its time


def cards(visit: int) -> dict[str, float]:
    """The cards of a WCS that is turned, and for some visits mirrored."""
    rotation, mirrored = VISITS[visit]
    t = np.radians(rotation)
    cd = SCALE / 3600 * np.diag([1.0 if mirrored else -1.0, 1.0])
    cd = cd @ np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return {f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in range(2) for j in range(2)} | {
        "EXPNUM": visit,
        "MJD-AVG": MJD[visit],
    }


@pytest.fixture(scope="module")
def place() -> tuple[float, float]:
    """The corner of a patch, on RA 0."""
    skymap = get_skymap(SKYMAP)
    tract, patch = (int(one[0]) for one in skymap.locate(np.array([0.0]), np.array([2.2])))
    corners = np.asarray(skymap.patch_polygon(tract, patch))
    nearest = corners[np.argmin(np.abs((corners[:, 0] + 180) % 360 - 180))]
    return float(nearest[0]), float(nearest[1])


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, place: tuple[float, float]) -> tuple[Campaign, Table]:
    """Done, and its catalogue: two lensed systems, one of which lies on the corner."""
    folder = tmp_path_factory.mktemp("groups")
    for i, visit in enumerate(VISITS):
        write_plain_image(folder / f"raw/{visit}.fits", place[0], place[1] + 2e-4 * i, 128, seed=i, **cards(visit))
    images = LENS.images(0.1, 0.05)
    galaxy = {"source_type": "Sersic", "n": 2.0, "half_light_radius": 0.8, "q": 0.7, "pa": 35.0, "mag_r": 19.0}
    members = lensed_system(images, source={"light_curve": "*"}, lens=galaxy)
    places = {"ra": [place[0], (place[0] + 5 / 3600) % 360], "dec": [place[1], place[1] + 4 / 3600],
              "rotation": [0.0, 77.0], "light_curve": ["ramp", "ramp"],
              "light_curve_mjd": [60000.0, 60001.5]}  # fmt: skip
    table = place_groups(members, places, first_id=100)
    write_catalog(table, folder / "fakes.parquet")
    ramp = {"id": ["ramp"] * 2, "mjd": [0.0, 200.0], "band": ["r"] * 2, "flux": [0.0, 200.0 * SLOPE]}
    pq.write_table(pa.table(ramp), folder / "curves.parquet")
    content = {
        "name": "groups",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet", "light_curves": "curves.parquet"},
        "skymap": SKYMAP,
        "output": "out",
        "margin_arcsec": 5.0,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    done = Campaign.from_yaml(folder / "campaign.yaml")
    assert done.run(n_workers=0).n_failed == 0
    return done, table


def truth_of(campaign: Campaign) -> Table:
    columns = ["injection_id", "visit", "x", "y", "mag", "group_id", "object_id", "flags"]
    arrow = ds.dataset(Path(campaign.config.output) / "truth", partitioning="hive").to_table(columns=columns)
    return Table({name: arrow[name].to_numpy() for name in columns})


def test_the_corner_cuts_a_group(campaign: tuple[Campaign, Table]) -> None:
    table = campaign[1][:5]
    tract, patch = get_skymap(SKYMAP).locate(table["ra"].value, table["dec"].value)
    assert len(set(zip(tract.tolist(), patch.tolist(), strict=True))) > 1
    assert table["ra"].value.min() < 1 and table["ra"].value.max() > 359


def test_each_image_has_each_member_once(campaign: tuple[Campaign, Table]) -> None:
    truth = truth_of(campaign[0])
    for visit in VISITS:
        ids = truth["injection_id"][truth["visit"] == visit]
        assert sorted(ids) == sorted(campaign[1]["injection_id"])


def test_separations_are_kept_to_a_hundredth_of_a_pixel(
    campaign: tuple[Campaign, Table], place: tuple[float, float]
) -> None:
    """By wcslib from the header, and the images' offsets in the tangent plane of the lens."""
    truth = truth_of(campaign[0])
    images = LENS.images(0.1, 0.05)
    offsets = np.stack([images.east, images.north])
    for i, visit in enumerate(VISITS):
        header = plain_header(place[0], place[1] + 2e-4 * i, 128, **(cards(visit) | {"MJD-AVG": None, "TIMESYS": None}))
        wcs = WCS(header)
        for group, rotation in enumerate((0.0, 77.0)):
            rows = truth[(truth["visit"] == visit) & (truth["injection_id"] // 5 == 20 + group)]
            rows.sort("injection_id")
            assert list(rows["injection_id"]) == list(range(100 + 5 * group, 105 + 5 * group))
            assert (rows["flags"] & 0xFF == 0).all()
            moved = np.stack([rows["x"][1:] - rows["x"][0], rows["y"][1:] - rows["y"][0]])
            turn = np.radians(rotation)
            east = offsets[0] * np.cos(turn) + offsets[1] * np.sin(turn)
            north = offsets[1] * np.cos(turn) - offsets[0] * np.sin(turn)
            expected = np.linalg.inv(wcs.wcs.cd * 3600) @ np.stack([east, north])
            assert np.hypot(*(moved - expected)).max() < 0.01


def test_delays_are_kept_to_the_second(campaign: tuple[Campaign, Table]) -> None:
    """By the flux of a light curve that rises steadily, in every visit."""
    truth, images = truth_of(campaign[0]), LENS.images(0.1, 0.05)
    assert images.delay.max() > 5
    stars = truth[truth["injection_id"] % 5 > 0]
    assert list(np.unique(stars["object_id"])) == [101, 106] and list(np.unique(truth["group_id"])) == [0, 1]
    image = stars["injection_id"] % 5 - 1
    flux = 10 ** (-0.4 * (stars["mag"] - 31.4)) / np.abs(images.magnification[image])
    begin = np.where(stars["group_id"] == 0, 60000.0, 60001.5)
    mjd = np.array([MJD[visit] for visit in stars["visit"]])
    delay = mjd - begin - flux / SLOPE
    assert np.abs(delay - images.delay[image]).max() * 86400 < 1.0
