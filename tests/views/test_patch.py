"""A patch is a lazy dataset of the images before and after, with each file read once."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import yaml
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from scipy.ndimage import center_of_mass

import skygraft
from kits.plain_images import SCALE, write_plain_image
from kits.views_kit import DEC, RA, SIZE, make_catalog
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.errors import CampaignError, ConfigError, SkygraftWarning, SkyMapError
from skygraft.skymap import get_skymap
from skygraft.views import patch as patch_module

# In this thread, whatever clusters other tests have started.
pytestmark = pytest.mark.usefixtures("one_thread")
VARIABLES = ("original", "injected", "difference")


@pytest.fixture
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often each file was read."""
    counts: Counter[str] = Counter()

    def counted(function, which):
        def read(*arguments):
            image = next(a for a in arguments if hasattr(a, "image_id"))
            counts[f"{which} {image.image_id}"] += 1
            return function(*arguments)

        return read

    monkeypatch.setattr(patch_module, "read_image", counted(patch_module.read_image, "original"))
    monkeypatch.setattr(patch_module, "read_injected", counted(patch_module.read_injected, "injected"))
    return counts


def test_nothing_is_read_before_it_is_computed_and_then_once(campaign, reads) -> None:
    ds = skygraft.open_patch(campaign, 0, 5)
    assert list(ds.image_id.values) == ["testcam-501-1", "testcam-502-1", "testcam-503-1"]
    assert all(dask.is_dask_collection(ds[name].data) for name in VARIABLES)
    assert not reads
    _ = ds.sel(y=slice(0, 3)), repr(ds), ds.difference.mean("y"), ds.nbytes
    assert not reads
    done = ds.compute()
    assert len(reads) == 6 and set(reads.values()) == {1}
    np.testing.assert_array_equal(done.difference, done.injected - done.original)
    reads.clear()
    ds.difference[2].max().compute()
    assert reads == {"original testcam-503-1": 1, "injected testcam-503-1": 1}
    reads.clear()
    ds.injected.sum(("y", "x")).compute()
    assert sorted(reads) == [f"injected testcam-50{k}-1" for k in (1, 2, 3)]


def test_pixels_are_those_of_the_files(campaign, made) -> None:
    ds = skygraft.open_patch(campaign, 0, 5).set_xindex("image_id")
    for image_id, band in (("testcam-501-1", "g"), ("testcam-503-1", "i")):
        one = ds.sel(image_id=image_id).compute()
        assert one.band == band and one.mjd == 60000.0 and one.visit == int(image_id.split("-")[1])
        x0, y0 = int(one.x0), int(one.y0)
        for name, folder in (("original", made.parent), ("injected", campaign.layout.images)):
            file = fits.getdata(folder / f"raw/{band}.fits")
            part = file[y0:, x0:][: one.sizes["y"], : one.sizes["x"]]
            shown = one[name].values[: part.shape[0], : part.shape[1]]
            good = np.isfinite(shown)
            np.testing.assert_array_equal(shown[good], part[good])
            # NaN beyond the part only: a whole rectangle is there.
            rows, columns = good.any(axis=1).sum(), good.any(axis=0).sum()
            assert good.sum() == rows * columns and good[:rows, :columns].all()
        assert float(one.zeropoint) == pytest.approx(27.0)
        assert skygraft.read_exposure(str(one.file.values)).data_id.visit == int(one.visit)


def test_cutouts_hold_all_of_the_patch(campaign, made) -> None:
    """Every pixel of an image that the patch has, with its border, is there; by astropy's WCS."""
    ds = skygraft.open_patch(campaign, 0, 5)
    tract = get_skymap(campaign.config.skymap).tract(0)
    box = tract.patch(5).outer_box
    for k, band in enumerate(ds.band.values):
        header = fits.getheader(made.parent / f"raw/{band}.fits")
        del header["MJD-AVG"]
        y, x = np.mgrid[:SIZE, :SIZE]
        inside = box.contains(*tract.project(*WCS(header).all_pix2world(x, y, 0)))
        assert 1000 < inside.sum() < SIZE**2
        rows, columns = np.nonzero(inside)
        one = ds.isel(image=k)
        shown = one.original.values[rows - int(one.y0), columns - int(one.x0)]
        assert np.isfinite(shown).all()


def test_the_wcs_of_a_cutout_finds_the_star(campaign) -> None:
    ds = skygraft.open_patch(campaign, 0, 5, band="g").compute()
    wcs = WCS(fits.Header.fromstring(str(ds.wcs.values[0])))
    row = make_catalog()[4]
    x, y = wcs.all_world2pix(row["ra"], row["dec"], 0)
    around = ds.difference.values[0][int(y) - 6 : int(y) + 8, int(x) - 6 : int(x) + 8]
    cy, cx = center_of_mass(np.clip(around, 0, None))
    assert abs(cx + int(x) - 6 - x) < 0.3 and abs(cy + int(y) - 6 - y) < 0.3


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_resampled_onto_the_grid_of_the_patch(campaign, reads, interpolation) -> None:
    ds = skygraft.open_patch(campaign, 0, 5, resample=True, interpolation=interpolation)
    box = get_skymap(campaign.config.skymap).tract(0).patch(5).outer_box
    assert ds.original.shape == (3, *box.shape)
    assert (int(ds.x[0]), int(ds.y[0])) == box.xy0
    done = ds.compute()
    assert len(reads) == 6 and set(reads.values()) == {1}
    wcs = WCS(fits.Header.fromstring(ds.attrs["wcs"]))
    row = make_catalog()[4]
    assert row["injection_id"] == 5
    x, y = (float(v) for v in wcs.all_world2pix(row["ra"], row["dec"], 0))
    for k in range(3):
        around = done.difference.values[k][round(y) - 15 : round(y) + 16, round(x) - 15 : round(x) + 16]
        cy, cx = center_of_mass(np.clip(np.nan_to_num(around), 0, None))
        assert abs(cx - 15 - (x - round(x))) < 0.15 and abs(cy - 15 - (y - round(y))) < 0.15
        # Within 12 pixels the calibrated flux, of zeropoint 27.
        yy, xx = np.mgrid[-15:16, -15:16]
        flux = around[np.hypot(yy - (y - round(y)), xx - (x - round(x))) < 12].sum()
        mag = row[f"mag_{done.band.values[k]}"]
        assert flux == pytest.approx(10 ** (0.4 * (27 - mag)), rel=0.02)
    # What no image covers is empty.
    assert np.isnan(done.original.values[:, 0, 0]).all()


def test_only_some_bands_and_visits(campaign) -> None:
    assert list(skygraft.open_patch(campaign, 0, 5, band=["g", "i"]).band.values) == ["g", "i"]
    assert list(skygraft.open_patch(campaign, 0, 5, visits=[502]).visit.values) == [502]
    with pytest.raises(CampaignError, match=r"patch 5 of tract 0 with band z.*bands are g, i, r"):
        skygraft.open_patch(campaign, 0, 5, band="z")
    with pytest.raises(CampaignError, match=r"patch 3 of tract 0; |patch 3 of tract 0\."):
        skygraft.open_patch(campaign, 0, 3)
    with pytest.raises(SkyMapError, match="no patch 99"):
        skygraft.open_patch(campaign, 0, 99)
    with pytest.raises(ConfigError, match="'nearest'"):
        skygraft.open_patch(campaign, 0, 5, interpolation="nearest")


def test_an_image_that_cannot_be_read_is_left_out(copied) -> None:
    (copied.parent / "raw/r.fits").write_bytes(b"nothing")
    with pytest.warns(SkygraftWarning, match="testcam-502-1 is left out"):
        ds = skygraft.open_patch(copied, 0, 5)
    assert list(ds.band.values) == ["g", "i"]


def test_it_can_be_saved_and_sent_to_workers(made, tmp_path) -> None:
    ds = skygraft.open_patch(made, 0, 5, band="g")
    assert ds.attrs["campaign"] == "small" and ds.original.attrs["units"] == "adu"
    same = pickle.loads(pickle.dumps(ds))
    xr.testing.assert_identical(ds.compute(), same.compute())
    ds.to_zarr(tmp_path / "patch.zarr", consolidated=False)
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "patch.zarr", consolidated=False).load(), ds.compute())
    assert ds.original.data.name == skygraft.open_patch(made, 0, 5, band="g").original.data.name


def test_coadds_of_the_tract_are_stacked_as_they_are(tmp_path: Path) -> None:
    """Two coadds on the tract's pixels, whose files count them from 0; one reaches beyond the patch, one is smaller."""
    tract = {"ra": RA, "dec": DEC, "pixel_scale": SCALE, "size": 600, "patches": [2, 2], "border": 20}
    corners = {"g": ((290, 285), 240), "r": ((300, 310), 100)}
    for band, ((x, y), size) in corners.items():
        # The tract's centre is at pixel 299.5.
        write_plain_image(
            tmp_path / f"raw/{band}.fits", RA, DEC, size, seed=size, EXPNUM=None, CCDNUM=None, FILTER=band,
            CRPIX1=300.5 - x, CRPIX2=300.5 - y, **{"MJD-AVG": None},
        )  # fmt: skip
    catalog = make_catalog()
    write_catalog(QTable(catalog[4:5]), tmp_path / "fakes.parquet")
    content = {
        "name": "coadds",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "skymap": {"kind": "explicit", "tracts": [tract]},
        "output": "out",
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    campaign = Campaign.from_yaml(tmp_path / "campaign.yaml")
    assert campaign.run(n_workers=0).ok
    ds = skygraft.open_patch(campaign, 0, 3)
    box = get_skymap(campaign.config.skymap).tract(0).patch(3).outer_box
    assert box.xy0 == (280, 280) and box.shape == (320, 320)
    assert ds.original.shape == (2, 320, 320) and (int(ds.x[0]), int(ds.y[0])) == (280, 280)
    assert set(ds.visit.values) == {-1} and np.isnan(ds.mjd.values).all()
    for k, band in enumerate(ds.band.values):
        (x, y), size = corners[str(band)]
        expected = np.full((320, 320), np.nan, np.float32)
        expected[y - 280 : y - 280 + size, x - 280 : x - 280 + size] = fits.getdata(
            campaign.layout.images / f"raw/{band}.fits"
        )
        np.testing.assert_array_equal(ds.injected.values[k], expected)
    # The same with resampling: they are on the grid.
    xr.testing.assert_identical(skygraft.open_patch(campaign, 0, 3, resample=True).compute(), ds.compute())
    # And of another patch, the overlap with its border alone.
    other = skygraft.open_patch(campaign, 0, 0)
    assert list(other.band.values) == ["g", "r"]
    assert np.isfinite(other.original.values[0]).sum() == (320 - 290) * (320 - 285)
