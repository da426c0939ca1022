"""Triplets: the difference holds what differs between the images, and nothing else; labels and places are right."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from kits.triplets_kit import (
    DEC,
    MAG,
    RA,
    STARS,
    TEMPLATE_FWHM,
    TRANSIENTS,
    VARIABLE,
    make_catalog,
    write_image,
    write_pair,
)
from skygraft.campaign import Campaign
from skygraft.errors import CatalogError, ConfigError, OutputError, OutputExistsError
from skygraft.photometry import TOTAL, PhotoCalib
from skygraft.psf import GaussianPSF
from skygraft.testing import make_exposure
from skygraft.views import open_triplets, templates_of, training_triplets
from skygraft.views.places import done_images
from skygraft.views.subtraction import CalibratedImage, subtract_at, subtract_original
from skygraft.views.template_images import read_output
from skygraft.views.training import SKIPPED, _Maker

SIZE = 63


def njy(mag: float) -> float:
    return 10 ** (0.4 * (31.4 - mag))


def aperture(pixels: np.ndarray, radius: float = 26.0) -> float:
    """All light of Gaussians of these widths, to 1e-6."""
    v, u = np.mgrid[: len(pixels), : len(pixels)] - len(pixels) // 2
    return float(np.nansum(pixels[np.hypot(u, v) < radius]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory: pytest.TempPathFactory):
    """Counts and triplets of the science campaign with the templates of the other."""
    path = tmp_path_factory.mktemp("made") / "triplets.h5"
    counts = training_triplets(pair[0], path, template=pair[1])
    with open_triplets(path) as dataset:
        return counts, dataset.load()


def test_a_transient_has_its_flux_in_the_difference(made) -> None:
    _, triplets = made
    real = triplets.isel(triplet=triplets.label.values == 1)
    expected = {1: njy(MAG), 2: njy(MAG + 2), VARIABLE: njy(MAG) - njy(MAG + 1)}
    assert sorted(real.injection_id.values.tolist()) == sorted([*expected, *expected])
    for k, source in enumerate(real.injection_id.values.tolist()):
        assert aperture(real.difference.values[k]) == pytest.approx(expected[source], rel=1e-3)
        assert float(real.flux[k]) == pytest.approx(expected[source], rel=1e-6)
        assert aperture(real.science.values[k]) == pytest.approx(njy(float(real.mag[k])), rel=1e-3)
        in_template = njy(MAG + 1) if source == VARIABLE else 0.0
        assert aperture(real.template.values[k]) == pytest.approx(in_template, rel=1e-3, abs=1e-3 * njy(MAG + 2))
    assert real.difference.attrs["units"] == "nJy"


def test_constant_stars_vanish_and_are_no_triplets(made, pair) -> None:
    counts, triplets = made
    assert counts.skipped == {"constant": 2 * len(STARS)}
    assert not set(STARS) & set(triplets.injection_id.values.tolist())
    campaign, templates = Campaign.from_yaml(pair[0]), templates_of(pair[1])
    catalog = make_catalog()
    for image in done_images(campaign):
        science = read_output(campaign, image)
        for row in catalog[np.isin(catalog["injection_id"], STARS)]:
            x, y = science.exposure.wcs.world_to_pixel_values(row["ra"], row["dec"])
            triplet = subtract_at(science, templates.get(0).image, float(x), float(y), SIZE)
            flux = njy(row["mag_r"])
            assert aperture(triplet.science) == pytest.approx(flux, rel=1e-3)
            assert aperture(triplet.template) == pytest.approx(flux, rel=1e-3)
            assert np.abs(triplet.difference).sum() < 1e-3 * flux


def test_labels_and_columns(made, pair) -> None:
    counts, triplets = made
    real = triplets.label.values == 1
    assert (counts.n_real, counts.n_bogus, counts.n_images, counts.ok) == (real.sum(), (~real).sum(), 2, True)
    assert counts.n_bogus == counts.n_real == 6
    assert triplets.label.attrs["flag_meanings"] == "bogus real"
    assert set(triplets.object_id.values[real].tolist()) == {*TRANSIENTS, VARIABLE}
    assert (triplets.injection_id.values[~real] == -1).all() and (triplets.flux.values[~real] == 0).all()
    assert set(triplets.band.values.tolist()) == {"r"} and (triplets.mjd.values == 60000.0).all()
    names = {image.image_id for image in done_images(Campaign.from_yaml(pair[0]))}
    assert set(triplets.image_id.values.tolist()) == names
    assert set(triplets.template_id.values.tolist()) == {
        image.image_id for image in done_images(Campaign.from_yaml(pair[1]))
    }


def test_bogus_ones_are_away_from_every_fake(made) -> None:
    _, triplets = made
    catalog, bogus = make_catalog(), triplets.isel(triplet=triplets.label.values == 0)
    east = (bogus.ra.values[:, None] - catalog["ra"]) * 3600 * np.cos(np.radians(DEC))
    north = (bogus.dec.values[:, None] - catalog["dec"]) * 3600
    assert np.hypot(east, north).min() > 5.0


def test_the_place_is_at_the_middle_pixel(made, pair) -> None:
    _, triplets = made
    v, u = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    near = np.hypot(u, v) < 15
    visits = {"10": "0", "11": "1"}
    for k in range(triplets.sizes["triplet"]):
        row = triplets.isel(triplet=k)
        header = fits.getheader(pair[0].parent / f"science/{visits[str(row.image_id.values).split('-')[1]]}.fits")
        del header["MJD-AVG"]  # astropy warns of it
        x, y = WCS(header).all_world2pix(float(row.ra), float(row.dec), 0)
        assert (float(row.x), float(row.y)) == pytest.approx((float(x), float(y)), abs=1e-4)
        if int(row.label):
            for pixels in (row.science.values, row.difference.values):
                at = [float((w * pixels)[near].sum() / pixels[near].sum()) for w in (u, v)]
                assert np.abs(at).max() <= 0.5
                assert at == pytest.approx([x - math.floor(x + 0.5), y - math.floor(y + 0.5)], abs=0.02)


def test_the_original_as_template(pair, tmp_path) -> None:
    counts = training_triplets(pair[0], tmp_path / "t.h5", random=0)
    with open_triplets(tmp_path / "t.h5") as triplets:
        assert triplets.attrs["template"] == "original"
        assert counts.n_bogus == 0 and set(triplets.template_id.values.tolist()) == {"original"}
        assert sorted(set(triplets.injection_id.values.tolist())) == [*TRANSIENTS, *STARS, VARIABLE]
        for k in range(counts.n_real):
            flux = njy(float(triplets.mag[k]))
            assert aperture(triplets.difference.values[k]) == pytest.approx(flux, rel=1e-3)
            assert np.abs(triplets.template.values[k]).max() < 1e-3 * flux


def test_files_as_templates(pair, tmp_path) -> None:
    templates = templates_of(
        str(pair[1].parent / "templates/*.fits"), psf={"kind": "gaussian", "fwhm": f"{TEMPLATE_FWHM} arcsec"}
    )
    counts = training_triplets(pair[0], tmp_path / "t.zarr", template=templates, random=0)
    # Nothing was injected into the files themselves: constant stars are not there.
    assert (counts.n_real, counts.ok, dict(counts.skipped)) == (10, True, {})


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_the_same_seed_gives_the_same_triplets(pair, made, tmp_path, kind) -> None:
    path = tmp_path / f"again.{kind}"
    training_triplets(pair[0], path, template=pair[1])
    with open_triplets(path) as again:
        xr.testing.assert_identical(made[1].drop_attrs(), again.load().drop_attrs())
    training_triplets(pair[0], path, template=pair[1], seed=1, overwrite=True, per_image=2)
    with open_triplets(path) as other:
        real = other.label.values == 1
        assert real.sum() == 4 and set(other.injection_id.values[real]) < set(made[1].injection_id.values)
        assert not set(other.ra.values[~real]) & set(made[1].ra.values)


def test_detections_are_bogus_unless_a_fake_is_near(pair, tmp_path) -> None:
    first = next(iter(done_images(Campaign.from_yaml(pair[0]))))
    catalog = make_catalog()
    table = {
        "ra": [RA + 6 / 3600, catalog["ra"][0] + 2 / 3600, RA + 1.0, np.nan, RA - 6 / 3600],
        "dec": [DEC + 5 / 3600, catalog["dec"][0], DEC, DEC, DEC - 6 / 3600],
        "image_id": ["", "", "", "", first.image_id],
    }
    counts = training_triplets(pair[0], tmp_path / "t.h5", template=pair[1], detections=table)
    assert counts.skipped["near a fake"] == 2 and counts.skipped["no position"] == 1
    with open_triplets(tmp_path / "t.h5") as triplets:
        bogus = triplets.isel(triplet=triplets.label.values == 0)
        assert sorted(bogus.ra.values.tolist()) == sorted([table["ra"][0], table["ra"][0], table["ra"][4]])
        # The stars that are in both images are not in the difference.
        assert np.abs(bogus.difference.values[:, 29:34, 29:34]).max() < 1e-2 * triplets.difference.values.max()


def test_what_the_template_does_not_cover_is_counted(pair, tmp_path) -> None:
    write_image(tmp_path / "small.fits", RA, DEC, 110, noise=0.0, seed=1, EXPNUM=1)
    templates = templates_of(tmp_path / "small.fits", psf={"kind": "gaussian", "fwhm": "1 arcsec"})
    counts = training_triplets(pair[0], tmp_path / "t.h5", template=templates, random=0, coverage=1.0)
    assert (counts.n_real, dict(counts.skipped)) == (2, {"no template": 8})
    with open_triplets(tmp_path / "t.h5") as triplets:
        assert set(triplets.injection_id.values.tolist()) == {VARIABLE}
        assert np.isfinite(triplets.difference.values).all()
    write_image(tmp_path / "far.fits", RA + 1, DEC, 110, noise=0.0, seed=1, EXPNUM=2)
    counts = training_triplets(pair[0], tmp_path / "n.zarr", template=tmp_path / "far.fits")
    assert (counts.n_real, counts.n_bogus, dict(counts.skipped)) == (0, 0, {"no template": 10})
    assert open_triplets(tmp_path / "n.zarr").sizes == {"triplet": 0, "row": SIZE, "column": SIZE}


def test_cut_outs_at_the_edge_are_counted_or_have_gaps(pair, tmp_path) -> None:
    counts = training_triplets(pair[0], tmp_path / "t.h5", random=0, size=201)
    # Stars at 14 arcsec are 80 pixels from the edges, and those of 201 pixels reach 100 pixels.
    assert counts.n_real == 2 and counts.skipped == {"at the edge": 8}
    counts = training_triplets(pair[0], tmp_path / "u.h5", random=0, size=201, coverage=0.4)
    assert counts.n_real == 10
    with open_triplets(tmp_path / "u.h5") as triplets:
        gaps = np.isnan(triplets.difference.values)
        assert (gaps == np.isnan(triplets.science.values)).all()
        assert gaps.any(axis=(1, 2)).sum() == 8 and not gaps[:, 98:103, 98:103].any()


def test_a_bad_image_does_not_stop_the_others(pair, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pair[0].parent, folder)
    for name in ("science", "templates"):
        written = folder / f"out-{name}/campaign.yaml"
        written.write_text(written.read_text().replace(str(pair[0].parent), str(folder)))
    first, second = done_images(Campaign.from_yaml(folder / "science.yaml"))
    (folder / "out-science/images" / first.output).write_bytes(b"no image")
    counts = training_triplets(folder / "science.yaml", tmp_path / "t.h5", template=folder / "templates.yaml")
    assert [name for name, _ in counts.failures] == [first.image_id] and not counts.ok
    assert (counts.n_real, counts.n_bogus, counts.n_images) == (3, 3, 2)
    with open_triplets(tmp_path / "t.h5") as triplets:
        assert set(triplets.image_id.values.tolist()) == {second.image_id}
    template = next(iter(done_images(Campaign.from_yaml(folder / "templates.yaml"))))
    (folder / "out-templates/images" / template.output).unlink()
    counts = training_triplets(folder / "science.yaml", tmp_path / "u.h5", template=folder / "templates.yaml")
    assert [name for name, _ in counts.failures] == [first.image_id, template.image_id]
    assert counts.n_real == 0 and counts.skipped["no template"]
    assert "failed" in str(counts) and counts.to_dict()["failures"][1]["image_id"] == template.image_id


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_nothing_half_written_has_the_name(pair, tmp_path, monkeypatch, kind) -> None:
    path = tmp_path / f"t.{kind}"
    whole = _Maker.rows

    def interrupted(self):
        for k, row in enumerate(whole(self)):
            if k == 2:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(_Maker, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training_triplets(pair[0], path)
    assert list(tmp_path.iterdir()) == []
    training_triplets(pair[0], path, random=0)
    with pytest.raises(OutputExistsError, match="exists"):
        training_triplets(pair[0], path)
    with monkeypatch.context() as patch:
        patch.setattr(_Maker, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training_triplets(pair[0], path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    with open_triplets(path) as triplets:
        assert triplets.sizes["triplet"] == 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 64}, "size is 64"),
        ({"size": 3}, "odd number"),
        ({"random": -1}, "random is -1"),
        ({"per_image": 0}, "per_image is 0"),
        ({"min_snr": math.nan}, "min_snr is nan"),
        ({"away": math.inf}, "away is inf"),
        ({"coverage": 0.0}, "coverage is 0.0"),
        ({"template": []}, "neither one campaign"),
        ({"template": "nothing-*.fits"}, "no template can be read"),
    ],
)
def test_settings_that_are_refused(pair, tmp_path, settings, said) -> None:
    with pytest.raises(ConfigError, match=said):
        training_triplets(pair[0], tmp_path / "t.h5", **settings)
    assert list(tmp_path.iterdir()) == []


def test_files_and_tables_that_are_refused(pair, tmp_path) -> None:
    with pytest.raises(OutputError, match=r"not written as \.png"):
        training_triplets(pair[0], tmp_path / "t.png")
    with pytest.raises(OutputError, match="no folder"):
        training_triplets(pair[0], tmp_path / "absent/t.h5")
    (tmp_path / "t.zarr").mkdir()
    with pytest.raises(OutputExistsError, match="something else"):
        training_triplets(pair[0], tmp_path / "t.zarr", overwrite=True)
    with pytest.raises(CatalogError, match="no column 'dec'"):
        training_triplets(pair[0], tmp_path / "t.h5", detections={"ra": [RA]})
    with pytest.raises(CatalogError, match="not on the sphere"):
        training_triplets(pair[0], tmp_path / "t.h5", detections={"ra": [RA], "dec": [120.0]})
    with pytest.raises(ConfigError, match="no such file"):
        open_triplets(tmp_path / "absent.h5")
    with pytest.raises(ConfigError, match="which has its own"):
        templates_of(pair[1], aperture="12 pix")


def noisy(fwhm: float, flux: float, noise: float) -> CalibratedImage:
    """A star in the middle of an image, without noise, and the noise that its variance plane says."""
    exposure = make_exposure(
        (101, 101), psf=GaussianPSF(fwhm=fwhm), photo_calib=PhotoCalib.nanojansky(reference=TOTAL), variance=noise**2
    )
    v, u = np.mgrid[:101, :101] - 50
    sigma = fwhm / math.sqrt(8 * math.log(2))
    exposure.image[:] = flux / (2 * math.pi * sigma**2) * np.exp(-(u**2 + v**2) / (2 * sigma**2))
    return CalibratedImage(exposure)


def test_signal_to_noise_is_that_of_the_optimal_filter() -> None:
    # Of white noise and one Gaussian PSF: flux / (noise sqrt(4 pi) sigma), the noise of both images in quadrature.
    sigma = 4.0 / math.sqrt(8 * math.log(2))
    star, empty = noisy(4.0, 1000.0, 3.0), noisy(4.0, 0.0, 4.0)
    filter_noise = math.sqrt(4 * math.pi) * sigma
    assert subtract_at(star, empty, 50, 50, 31).snr == pytest.approx(1000 / (5.0 * filter_noise), rel=1e-3)
    assert subtract_at(empty, star, 50, 50, 31).snr == pytest.approx(-1000 / (5.0 * filter_noise), rel=1e-3)
    assert subtract_original(star, empty, 50, 50, 31).snr == pytest.approx(1000 / (4.0 * filter_noise), rel=1e-3)
    # A deep template costs nothing, whatever its seeing.
    deep = noisy(6.0, 0.0, 0.03)
    assert subtract_at(star, deep, 50, 50, 31).snr == pytest.approx(1000 / (3.0 * filter_noise), rel=0.02)


def test_faint_and_masked_fakes_are_left_out(pair, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(CalibratedImage, "noise_at", lambda *_: 20.0)
    counts = training_triplets(pair[0], tmp_path / "t.h5", random=0, min_snr=10.0)
    assert counts.skipped == {"faint": 2}
    with open_triplets(tmp_path / "t.h5") as triplets:
        assert triplets.snr.values.min() > 10 and 2 not in triplets.injection_id.values
    monkeypatch.setattr(_Maker, "_is_bad", lambda self, place: place.injection_id == 1)
    assert training_triplets(pair[0], tmp_path / "u.h5", random=0).skipped == {"masked": 2}
    assert {"faint", "masked"} <= set(SKIPPED)
