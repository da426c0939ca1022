"""The recovery table of an image: its columns, what is found, and why what is not is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kits.recovery_pairs import catalogue, make_pair, measure, numbers, places, texts
from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_pair
from skygraft.catalog.truth_columns import TRUTH_COLUMNS
from skygraft.errors import CampaignError, ConfigError
from skygraft.exposure import Exposure, VisitInfo
from skygraft.formats import read_exposure
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture
from skygraft.psf import GaussianPSF
from skygraft.records.plan_file import read_plan
from skygraft.recovery.measuring import RECOVERY_DEFAULTS, measure_pair
from skygraft.recovery.table import REASONS, recovery_columns, recovery_schema
from skygraft.testing import make_exposure


def sky(**options: Any) -> Exposure:
    options = {"reference": CalibrationAperture(6.0), "noise": True, "seed": 8} | options
    return make_exposure((300, 300), **options)


def test_the_schema_is_that_of_the_settings() -> None:
    before = sky()
    table = measure(before, catalogue(before, [100.0, 200.0], [150.0, 150.0], [18.0, 19.0]))
    assert table.schema.equals(recovery_schema(RECOVERY_DEFAULTS["apertures"]), check_metadata=True)
    names = table.column_names
    assert names[: len(TRUTH_COLUMNS)] == [column.name for column in TRUTH_COLUMNS]
    assert {"flux_ap_3", "mag_ap_6_error", "mag_kron", "flux_psf_error"} <= set(names)
    assert table.schema.field("depth").metadata[b"unit"] == b"mag"
    assert all(column.meaning for column in recovery_columns((3.0,)))
    assert numbers(table, "visit").tolist() == [7, 7] and texts(table, "detector") == ["3", "3"]
    assert numbers(table, "exposure_time").tolist() == [30, 30] and numbers(table, "mjd").tolist() == [60000] * 2


def test_each_reason_is_the_one_that_is_so() -> None:
    """One image with a fake for every reason that can be arranged, among others that are found."""
    before = sky()
    real = catalogue(before, [60.0], [240.0], 16.5)
    before = make_pair(before, real).after
    before.mask[200:220, 200:220] |= before.mask_planes["BAD"]
    expected = {
        (50.0, 50.0, 18.0): "",
        (150.0, 60.0, 18.0): "",
        (-4.0, 100.0, 17.0): "off the image",
        (210.0, 210.0, 17.0): "masked",
        (220.2, 205.0, 17.0): "masked",  # the bad pixel is its neighbour
        (100.0, 150.0, 26.0): "below threshold",
        (60.5, 240.3, 20.0): "ambiguous",
        (152.0, 60.5, 21.5): "blended",  # two pixels from a star of magnitude 18
        (250.0, 60.0, np.nan): "not drawn",
    }
    x, y, mag = np.array(list(expected)).T
    table = measure(before, catalogue(before, x, y, mag))
    assert texts(table, "reason") == list(expected.values())
    assert table["found"].to_pylist() == [reason == "" for reason in expected.values()]
    bad = ("not drawn", "off the image", "masked")
    assert table["usable"].to_pylist() == [reason not in bad for reason in expected.values()]
    assert set(texts(table, "reason")) <= set(REASONS)
    found = np.array(table["found"].to_pylist())
    for name in ("mag_cal", "x_out", "fwhm_out", "snr"):
        assert (np.isfinite(numbers(table, name)) == found).all()
    assert (numbers(table, "original_distance")[6] < 0.15) and numbers(table, "original_flux_fraction")[6] > 10
    assert numbers(table, "neighbour_mag")[6] == pytest.approx(16.5, abs=0.02)
    assert texts(table, "blend")[6:8] == ["real", "fake"] and texts(table, "blend")[0] == ""
    assert numbers(table, "blend_fraction")[7] == pytest.approx(10 ** (0.4 * 3.5), rel=0.15)


def test_a_fake_that_outshines_what_was_there_counts() -> None:
    before = sky()
    before = make_pair(before, catalogue(before, [100.0], [100.0], 19.0)).after
    fake = catalogue(before, [100.5], [100.2], 16.5)
    table = measure(before, fake)
    assert table["found"].to_pylist() == [True]
    assert numbers(table, "original_flux_fraction")[0] == pytest.approx(0.1, rel=0.3)
    assert numbers(table, "blend_fraction")[0] == pytest.approx(0.1, rel=0.3)
    stricter = measure(before, fake, {"ambiguous_fraction": 0.0})
    assert texts(stricter, "reason") == ["ambiguous"]


def test_shapes_of_galaxies_have_their_angles_in_a_turned_and_mirrored_image() -> None:
    for mirrored, rotation in ((False, 0.0), (True, 130.0)):
        before = sky(rotation=rotation, mirrored=mirrored, variance=1.0, noise=False, psf=GaussianPSF(fwhm=4.0))
        angle = np.array([10.0, 55.0, 100.0, 145.0])
        x, y = places(2, 140.0, first=80.0)
        shape = {"source_type": "Gaussian", "half_light_radius": 1.5, "q": 0.4, "pa": angle}
        table = measure(before, catalogue(before, x, y, 17.0, **shape), {"background_size": 4000})
        off = (numbers(table, "position_angle_out") - angle + 90) % 180 - 90
        assert np.abs(off).max() < 1.0
        # A Gaussian's half-light radius is 1.1774 sigma, circularised; the PSF adds its own moments.
        own = 1.5 / 1.1774 * np.sqrt([0.4, 1 / 0.4])
        psf = 0.8 / 2.3548  # its pixels included
        expected = np.sqrt((own[0] ** 2 + psf**2) / (own[1] ** 2 + psf**2))
        np.testing.assert_allclose(numbers(table, "axis_ratio_out"), expected, rtol=0.03)
        np.testing.assert_allclose(numbers(table, "position_angle"), angle)
        np.testing.assert_allclose(numbers(table, "half_light_radius"), 1.5)
        np.testing.assert_allclose(numbers(table, "surface_brightness"), 17.0 + 2.5 * np.log10(2 * np.pi * 1.5**2))
        assert (numbers(table, "concentration_out") < 0.7).all()


def test_catalogue_columns_come_along() -> None:
    before = sky()
    catalog = catalogue(
        before, [80.0, 200.0], [80.0, 90.0], 18.0, weight=[2.0, 0.5], host=["a", "b"], redshift=[0.1, np.nan]
    )
    table = measure(before, catalog, {"columns": ["host", "redshift"]})
    assert numbers(table, "weight").tolist() == [2.0, 0.5] and texts(table, "host") == ["a", "b"]
    assert table.schema.names[-2:] == ["host", "redshift"]
    with pytest.raises(ConfigError, match=r"(?s)no column 'redshft'.*Did you mean 'redshift'"):
        measure(before, catalog, {"columns": ["redshft"]})
    with pytest.raises(ConfigError, match="'weight' is a column of every recovery table"):
        measure(before, catalog, {"columns": ["weight"]})


def test_bulge_and_disk_have_the_radius_of_half_their_light() -> None:
    before = sky()
    parts = {
        "bulge_half_light_radius": 0.5,
        "disk_half_light_radius": 1.5,
        "disk_q": 0.5,
        "bulge_q": 0.9,
        "disk_pa": 40.0,
    }
    catalog = catalogue(
        before, [80.0, 180.0, 220.0], [80.0, 120.0, 220.0], 18.0,
        source_type="BulgeDisk", bulge_fraction=[0.0, 1.0, 0.5], bulge_n=1.0, disk_n=1.0, **parts,
    )  # fmt: skip
    table = measure(before, catalog)
    radius = numbers(table, "half_light_radius")
    assert radius[:2] == pytest.approx([1.5, 0.5], rel=1e-6)

    def inside(r: float, scale: float) -> float:  # of an exponential disk: half of its light within 1.678 scale lengths
        t = 1.67834699 * r / scale
        return float(1 - (1 + t) * np.exp(-t))

    assert 0.5 * (inside(radius[2], 0.5) + inside(radius[2], 1.5)) == pytest.approx(0.5, abs=1e-6)
    assert numbers(table, "axis_ratio").tolist() == [0.5, 0.9, 0.5]
    assert np.isnan(numbers(table, "sersic_n")).all()


def test_a_trail_is_matched_by_its_middle() -> None:
    before = sky(variance=4.0)
    shape = {"source_type": "Trail", "trail_length": 6.0, "trail_pa": 30.0}
    table = measure(before, catalogue(before, [150.0], [150.0], 17.0, **shape))
    assert table["found"].to_pylist() == [True] and numbers(table, "position_angle")[0] == 30.0
    assert abs(numbers(table, "position_angle_out")[0] - 30.0) < 2.0


def test_without_psf_mask_or_variance_it_still_measures() -> None:
    before = sky()
    pair = make_pair(before, catalogue(before, [100.0], [100.0], 17.0))
    bare = dataclasses.replace(
        pair,
        before=dataclasses.replace(pair.before, psf=None, planes=pair.before.planes.drop_vars("variance")),
        after=dataclasses.replace(pair.after, psf=None, planes=pair.after.planes.drop_vars("variance")),
    )
    table = measure_pair(bare, {})
    assert table["found"].to_pylist() == [True]
    assert np.isnan(numbers(table, "flux_psf")).all() and numbers(table, "mag_cal")[0] == pytest.approx(17.0, abs=0.05)


def test_images_and_catalogues_with_nothing_in_them() -> None:
    before = sky()
    good = make_pair(before, catalogue(before, [100.0], [100.0], 17.0))
    schema = recovery_schema(RECOVERY_DEFAULTS["apertures"])
    # No fake.
    none = dataclasses.replace(good, truth=good.truth[:0], sources=good.sources[:0])
    assert measure_pair(none, {}).schema.equals(schema) and measure_pair(none, {}).num_rows == 0
    # Fakes that are not in the catalogue, as after it was replaced.
    lost = measure_pair(dataclasses.replace(good, sources=good.sources[:0]), {})
    assert lost["found"].to_pylist() == [True] and numbers(lost, "weight").tolist() == [1.0]
    # No detection.
    table = measure_pair(good, {"threshold": 1e5})
    assert table.schema.equals(schema) and texts(table, "reason") == ["below threshold"]
    assert np.isnan(numbers(table, "original_distance")).all() and numbers(table, "detection_id").tolist() == [-1]
    # No good pixel.
    for exposure in (good.before, good.after):
        exposure.mask[:] |= exposure.mask_planes["BAD"]
    table = measure_pair(good, {})
    assert table.schema.equals(schema) and texts(table, "reason") == ["masked"]
    assert np.isnan(numbers(table, "depth")).all()


def test_sources_without_a_place_on_the_image_are_harmless() -> None:
    """Such as those whose WCS fails: the truth has no x and y."""
    before = sky()
    pair = make_pair(before, catalogue(before, [100.0, 200.0], [100.0, 150.0], 17.0))
    pair.truth["x"][1] = pair.truth["y"][1] = np.nan
    pair.truth["stamp_size"][1] = 0
    pair.truth["psf_fwhm"][1] = np.nan
    table = measure_pair(pair, {})
    assert texts(table, "reason") == ["", "not drawn"]
    for name in ("depth", "sky", "edge_distance", "neighbour_distance"):
        assert np.isnan(numbers(table, name)[1])


def test_what_is_in_the_template_is_not_found_on_a_difference_image() -> None:
    """It is negative there."""
    before = sky()
    pair = make_pair(before, catalogue(before, [100.0, 200.0], [100.0, 150.0], 17.0))
    middle = np.s_[85:116, 85:116]
    pair.after.image[middle] = 2 * before.image[middle] - pair.after.image[middle]
    table = measure_pair(pair, {})
    assert texts(table, "reason") == ["below threshold", ""]


def test_stars_and_galaxies_differ_in_concentration_whatever_the_calibration() -> None:
    for reference in (CalibrationAperture(12.0), PSF_MODEL, TOTAL):
        before = sky(reference=reference, noise=False, variance=1.0)
        shape = {"n": [np.nan, 1.0], "half_light_radius": [np.nan, 1.5], "source_type": ["Star", "Sersic"]}
        catalog = catalogue(before, [80.0, 200.0], [80.0, 190.0], 16.0, **shape)
        table = measure(before, catalog, {"background_size": 4000})
        star, galaxy = numbers(table, "concentration_out")
        assert star == pytest.approx(1.0, abs=0.01) and galaxy < 0.5


@pytest.mark.data
def test_a_real_exposure(data_dir: Path) -> None:
    """A part of a VIRCAM exposure: bright stars have their magnitudes, faint ones are not there."""
    read = read_exposure(data_dir / "video_H/image_1.fits", aperture="2 arcsec")
    before = read[500:1000, 600:1100]
    x, y = places(9, 50.0, first=50.0)
    mag = np.tile([15.0, 17.0, 25.0], 27)
    table = measure(before, catalogue(before, x + 600, y + 500, mag), noise=True)
    found = np.array(table["found"].to_pylist())
    assert found[mag < 18].mean() > 0.9 and found[mag > 18].mean() < 0.1
    alone = found & (np.array(texts(table, "blend")) == "") & (mag < 18)
    assert np.median(numbers(table, "mag_cal")[alone] - mag[alone]) == pytest.approx(0.0, abs=0.003)
    assert np.median(numbers(table, "mag_psf")[alone] - mag[alone]) == pytest.approx(0.0, abs=0.006)
    # Neighbouring pixels are correlated.
    assert 20.5 < np.median(numbers(table, "depth")) < 22.0 and numbers(table, "noise_level")[0] > 1.2


def test_images_of_other_pixels_are_refused() -> None:
    before = sky()
    pair = make_pair(before, catalogue(before, [100.0], [100.0], 17.0))
    with pytest.raises(CampaignError, match="other pixels"):
        measure_pair(dataclasses.replace(pair, after=pair.after[0:200, 0:300]), {})


def test_it_is_the_same_again_and_in_another_frame() -> None:
    """The parent frame's origin changes positions alone."""
    tables = []
    for xy0 in ((0, 0), (0, 0), (5000, 700)):
        before = sky(xy0=xy0)
        x, y = places(4, 60.0)
        tables.append(measure(before, catalogue(before, x + xy0[0], y + xy0[1], 19.0)))
    for name in tables[0].column_names:
        np.testing.assert_array_equal(tables[0][name].to_pylist(), tables[1][name].to_pylist())
    for name in ("x_out", "flux_cal", "depth", "edge_distance", "distance"):
        shift = 5000 if name == "x_out" else 0
        np.testing.assert_allclose(numbers(tables[2], name), numbers(tables[0], name) + shift, rtol=1e-5, atol=1e-5)


def test_a_campaign_that_was_run(tmp_path: Path) -> None:
    path = write_tiny_campaign(tmp_path, 2)
    campaign = Campaign.from_yaml(path)
    assert campaign.run(n_workers=0).ok
    images = read_plan(campaign.config.output / "plan.parquet")
    tables = [measure_pair(read_pair(campaign.config, image), {}) for image in images]
    table = pa.concat_tables(tables)
    assert table.num_rows == sum(t.num_rows for t in tables) >= 20
    found = np.array(table["found"].to_pylist())
    assert found.sum() >= 8
    pull = (numbers(table, "mag_cal") - numbers(table, "mag"))[found] / numbers(table, "mag_cal_error")[found]
    alone = np.array(texts(table, "blend"))[found] == ""
    assert np.nanmedian(np.abs(pull[alone])) < 3
    # All images show the same stars.
    assert len(set(tables[0]["injection_id"].to_pylist()) & set(tables[1]["injection_id"].to_pylist())) >= 10


def test_airmass_and_times_are_those_of_the_image() -> None:
    before = dataclasses.replace(sky(), header={"AIRMASS": 1.25}, visit_info=VisitInfo(59000.0, 45.0))
    pair = make_pair(before, catalogue(before, [100.0], [100.0], 17.0))
    image = dataclasses.replace(pair.image, exposure_time=None, mjd=None, visit=None, detector=None)
    table = measure_pair(dataclasses.replace(pair, image=image), {})
    assert numbers(table, "airmass")[0] == 1.25 and numbers(table, "exposure_time")[0] == 45.0
    assert np.isnan(numbers(table, "mjd")).all()
    assert table["visit"].to_pylist() == [None] and table["detector"].to_pylist() == [None]
