"""Moving sources on images: where they are, their trails, and on which images they are at all."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from kits.orbits_kit import degrees, direction
from skygraft.catalog import Flag, normalize_catalog
from skygraft.data_id import VisitInfo
from skygraft.injection import inject
from skygraft.injection.trailing import with_trails
from skygraft.psf import GaussianPSF
from skygraft.render import Sources
from skygraft.testing import make_exposure
from skygraft.timedomain.ephemerides import read_ephemerides

START = 60100.0
PSF = GaussianPSF(fwhm=4.0, shape=(45, 45))
ORIENTATIONS = [(0.0, False), (35.0, False), (200.0, True)]


def exposure_at(mjd, center, *, time=100.0, shape=(128, 128), rotation=0.0, mirrored=False, **more):
    info = VisitInfo(mjd=mjd, exposure_time=time)
    return make_exposure(shape, psf=PSF, center=center, rotation=rotation, mirrored=mirrored, visit_info=info, **more)


def rows(**columns):
    n = len(columns["ra"])
    base = {"injection_id": np.arange(n), "source_type": ["Star"] * n, "mag_r": np.full(n, 18.0)}
    return normalize_catalog(base | columns)


def added(exposure, catalog, **options):
    found = inject(exposure, catalog, noise=False, **options)
    return found.exposure.image.astype(float) - exposure.image, found.truth, found.summary


def moments(image):
    """Sum, centroid (x, y) and second moments of pixels."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    cx, cy = (image * x).sum() / total, (image * y).sum() / total
    dx, dy = x - cx, y - cy
    second = [[(image * a * b).sum() / total for a in (dx, dy)] for b in (dx, dy)]
    return total, np.array([cx, cy]), np.array(second)


@pytest.mark.parametrize(("rotation", "mirrored"), ORIENTATIONS)
def test_a_mover_is_at_its_ephemeris_in_six_exposures(rotation: float, mirrored: bool) -> None:
    def way(mjd):
        return direction(mjd, a=20.0, start=1.75)

    times = START + np.arange(0, 12, 1.0) / 24
    ra, dec = degrees(way(times))
    table = {"id": np.zeros(12, dtype=int), "mjd": times, "ra": ra, "dec": dec}
    speed = SkyCoord(ra[0], dec[0], unit="deg").separation(SkyCoord(ra[-1], dec[-1], unit="deg")).arcsec / 11
    assert 4 < speed < 7  # arcsec an hour
    catalog = read_ephemerides(table).rows(rows(ra=[0.0], dec=[0.0]))
    center = tuple(np.array(degrees(way(np.array([START + 0.2])))).ravel())
    seen = []
    for k in range(6):
        mjd = START + 0.03 + k * 0.07
        exposure = exposure_at(mjd, center, rotation=rotation, mirrored=mirrored, shape=(300, 300))
        image, truth, _ = added(exposure, catalog)
        want = np.array(exposure.wcs.world_to_pixel_values(*degrees(way(np.array([mjd]))))).ravel()
        _, centroid, _ = moments(image)
        assert np.abs(centroid - want).max() < 0.02
        assert np.count_nonzero(truth["flags"] & int(Flag.NO_OVERLAP) == 0) == 1
        seen.append(centroid)
    assert np.ptp(seen, axis=0).max() > 20


@pytest.mark.parametrize(("rotation", "mirrored"), ORIENTATIONS)
@pytest.mark.parametrize("kind", ["rate", "ephemeris"])
def test_length_angle_and_flux_of_trails(rotation: float, mirrored: bool, kind: str) -> None:
    center, mjd, time = (359.9999, -55.0), START, 80.0
    path = SkyCoord(*center, unit="deg").directional_offset_by
    if kind == "rate":  # 600 arcsec/h towards a position angle of 110 degrees
        pa, rate = np.radians(110.0), 600.0
        catalog = rows(
            ra=[center[0]], dec=[center[1]], epoch_mjd=[mjd],
            rate_ra_cosdec=[rate * np.sin(pa)], rate_dec=[rate * np.cos(pa)],
        )  # fmt: skip

        def way(t):
            return path(np.full(np.shape(t), 110.0) * u.deg, rate * 24 * (t - mjd) * u.arcsec)
    else:  # on a circle of ten arcmin around a point, once in 5 hours

        def way(t):
            turn = 360 * (np.asarray(t) - mjd) * 24 / 5
            middle = path(0 * u.deg, 600 * u.arcsec)
            return middle.directional_offset_by((180 - turn) * u.deg, 600 * u.arcsec)

        times = mjd + np.arange(-0.1, 0.1, 0.004) + 0.0017
        there = way(times)
        catalog = read_ephemerides(
            {"id": np.zeros(len(times), int), "mjd": times, "ra": there.ra.deg, "dec": there.dec.deg}
        ).rows(rows(ra=[0.0], dec=[0.0]))
    exposure = exposure_at(mjd, center, time=time, rotation=rotation, mirrored=mirrored, shape=(200, 200))
    image, truth, _ = added(exposure, catalog)
    still, _, _ = added(exposure, rows(ra=[center[0]], dec=[center[1]]))
    flux, centroid, second = moments(image)
    point, star, own = moments(still)
    ends = way(mjd + np.array([-0.5, 0.5]) * time / 86400)
    x, y = exposure.wcs.world_to_pixel_values(ends.ra.deg, ends.dec.deg)
    dx, dy = np.diff(x)[0], np.diff(y)[0]
    values, vectors = np.linalg.eigh(second - own)
    assert np.hypot(dx, dy) > 50
    # A straight trail of length L has the second moment L^2 / 12 along itself.
    assert np.sqrt(12 * values[1]) == pytest.approx(np.hypot(dx, dy), rel=1e-3)
    assert abs(values[0]) < 1e-3 * values[1]
    cross = (vectors[0, 1] * dy - vectors[1, 1] * dx) / np.hypot(dx, dy)
    assert abs(cross) < 1e-3
    assert flux == pytest.approx(point, rel=1e-3)
    assert np.abs(centroid - star).max() < 0.02
    drawn = truth[truth["flags"] & int(Flag.NO_OVERLAP) == 0]
    assert drawn["source_type"].tolist() == ["Trail"]


def test_over_the_edge_of_a_detector_each_image_has_its_part() -> None:
    center = (150.0, 2.0)
    wide = exposure_at(START, center, shape=(120, 240))
    halves = [exposure_at(START, center, shape=(120, 120), xy0=(x0, 0), wcs=wide.wcs) for x0 in (0, 120)]
    x = np.array([112.0, 119.5, 121.0])
    ra, dec = wide.wcs.pixel_to_world_values(x, np.array([30.0, 60.0, 90.0]))
    rate = [200.0, 900.0, 30.0]
    catalog = rows(ra=ra, dec=dec, epoch_mjd=np.full(3, START), rate_ra_cosdec=rate, rate_dec=[20.0, 200.0, 10.0])
    whole, truth, _ = added(wide, catalog)
    parts = [added(half, catalog) for half in halves]
    together = np.concatenate([image for image, _, _ in parts], axis=1)
    assert np.abs(together - whole).max() < 1e-5 * whole.max()
    deposited = sum(found["flux_deposited"].value for _, found, _ in parts)
    np.testing.assert_allclose(deposited, truth["flux_deposited"].value, rtol=1e-5)
    assert (parts[0][1]["flux_deposited"].value > 1e-3 * deposited).all()
    assert not any((found["flags"] & int(Flag.NO_OVERLAP)).any() for _, found, _ in parts)


def test_rows_out_of_their_window_are_not_on_the_image() -> None:
    exposure = exposure_at(START, (150.0, 2.0))
    nan = np.nan
    catalog = rows(
        ra=np.full(4, 150.0), dec=np.full(4, 2.0), mjd_from=[nan, START, START + 1, nan], mjd_to=[nan, nan, nan, START]
    )
    _, truth, _ = added(exposure, catalog)
    outside = truth["flags"] & int(Flag.NO_OVERLAP) != 0
    assert outside.tolist() == [False, False, True, True]
    assert (truth["stamp_size"].value > 0).tolist() == [True, True, False, False]
    coadd = exposure_at(None, (150.0, 2.0), time=None)
    _, truth, _ = added(coadd, catalog)
    assert (truth["flags"] & int(Flag.NO_OVERLAP) != 0).tolist() == [False, True, True, True]


def test_slow_sources_and_proper_motion_stay_points() -> None:
    exposure = exposure_at(START, (150.0, 2.0), time=100.0)
    ra = np.full(4, 150.0)
    catalog = rows(
        ra=ra, dec=np.full(4, 2.0), epoch_mjd=np.full(4, START),
        rate_dec=[0.06, 0.09, 0.0, 0.0], pm_dec=[0.0, 0.0, 5e6, 0.0],
    )  # fmt: skip
    _, truth, summary = added(exposure, catalog)
    # 0.01 pixels are 0.002 arcsec, in 100 seconds.
    assert truth["source_type"].tolist() == ["Star", "Trail", "Star", "Star"]
    timeless = exposure_at(START, (150.0, 2.0), time=None)
    _, truth, summary = added(timeless, catalog)
    assert set(truth["source_type"].tolist()) == {"Star"} and not truth["flags"].any()
    assert any("2 moving sources are drawn without a trail" in text for text in summary["messages"])


def test_any_type_has_a_trail_and_given_lengths_stay() -> None:
    table = rows(
        ra=np.full(4, 150.0), dec=np.full(4, 2.0), epoch_mjd=np.full(4, START),
        rate_ra_cosdec=[360.0, 0.0, 360.0, 360.0], rate_dec=np.zeros(4),
        source_type=["Sersic", "Sersic", "Trail", "Trail"],
        n=[1.0, 1.0, np.nan, np.nan], half_light_radius=[1.0, 1.0, np.nan, np.nan],
        trail_length=[np.nan, 5.0, 7.0, np.nan], trail_pa=[0.0, 0.0, 20.0, 0.0],
    )  # fmt: skip
    jacobian = np.tile([[-0.2, 0.0], [0.0, 0.2]], (4, 1, 1))
    shape = {name: table[name].value for name in ("trail_length", "trail_pa")}
    kinds = np.asarray(table["source_type"])
    sources = Sources(np.arange(4), kinds, np.zeros(4), np.zeros(4), np.ones(4), jacobian, shape)
    found, endless, messages = with_trails(sources, table, np.arange(4), VisitInfo(START, 50.0))
    np.testing.assert_allclose(found.shape["trail_length"], [5.0, 5.0, 7.0, 5.0])
    assert found.shape["trail_pa"].tolist() == [90.0, 0.0, 20.0, 90.0]
    assert found.source_type.tolist() == kinds.tolist() and not endless.any() and not messages
    _, endless, messages = with_trails(sources, table, np.arange(4), VisitInfo(START, None))
    assert endless.tolist() == [False, False, False, True]
    assert "1 trails are given by rates" in messages[0]


@pytest.mark.parametrize("kind", ["Sersic", "BulgeDisk"])
def test_galaxies_with_a_rate_are_drawn_out(kind: str) -> None:
    """By a line: second moments add up."""
    shape = {"n": [1.0], "half_light_radius": [0.5], "q": [0.6], "pa": [20.0], "bulge_fraction": [0.0],
             "disk_half_light_radius": [0.5], "disk_q": [0.6], "disk_pa": [20.0]}  # fmt: skip
    place = {"ra": [150.0], "dec": [2.0], "source_type": [kind], **shape}
    exposure = exposure_at(START, (150.0, 2.0), time=36.0, shape=(200, 200), rotation=30.0)
    motion = {"rate_ra_cosdec": [300.0], "rate_dec": [400.0], "epoch_mjd": [START]}
    moved, truth, _ = added(exposure, rows(**place, **motion), flux_tolerance=1e-5)
    still, _, _ = added(exposure, rows(**place), flux_tolerance=1e-5)
    (flux, at, second), (own_flux, there, own) = moments(moved), moments(still)
    assert flux == pytest.approx(own_flux, rel=1e-3)
    assert np.abs(at - there).max() < 0.01
    values = np.linalg.eigvalsh(second - own)
    # 500 arcsec/h for 36 s are 5 arcsec, 25 pixels.
    assert np.sqrt(12 * values[1]) == pytest.approx(25.0, rel=5e-3)
    assert abs(values[0]) < 0.01 * values[1]
    assert truth["source_type"].tolist() == [kind]
