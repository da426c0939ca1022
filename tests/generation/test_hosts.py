"""Transients in hosts: where the light is, at given offsets, right on the sky, and the same whatever the order."""

from __future__ import annotations

import shutil
import subprocess

import galsim
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy import stats

from skygraft.catalog import normalize_catalog
from skygraft.errors import CatalogError
from skygraft.generation.by_id import philox, uniforms
from skygraft.generation.detected import hosts_from_detections
from skygraft.generation.hosts import in_hosts
from skygraft.wcs import read_fits_wcs

NAN = float("nan")


def host(kind: str, **columns: object) -> dict[str, list[object]]:
    given = {"injection_id": 7, "ra": 30.0, "dec": -40.0, "source_type": kind, "mag_r": 20.0, **columns}
    return {name: [value] for name, value in given.items()}


def transients(n: int, **columns: object) -> dict[str, object]:
    return {"injection_id": np.arange(n), "mag_r": np.full(n, 22.0), **columns}


def offsets(table: Table, ra: float = 30.0, dec: float = -40.0) -> tuple[np.ndarray, np.ndarray]:
    """To the East and North, arcsec, along great circles."""
    centre, sky = SkyCoord(ra, dec, unit="deg"), SkyCoord(table["ra"], table["dec"])
    apart, angle = centre.separation(sky).arcsec, centre.position_angle(sky).rad
    return apart * np.sin(angle), apart * np.cos(angle)


def test_philox_is_that_of_its_authors():
    # Known answers of Random123 (philox4x32, 10 rounds).
    known = {
        0x00000000: (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        0xFFFFFFFF: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    }
    for word, answer in known.items():
        counter = (np.array([word], np.uint64),) * 4
        assert tuple(int(one[0]) for one in philox(counter, (word, word))) == answer
    first, second = uniforms(np.arange(50_000), 3, 1)
    assert stats.kstest(first, "uniform").pvalue > 1e-3 and stats.kstest(second, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02 and abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02


def sheared(profile: galsim.GSObject, q: float, pa: float) -> galsim.GSObject:
    # GalSim's x is to the East here, so that the angle from x is 90 degrees less the position angle.
    return profile.shear(q=q, beta=(90.0 - pa) * galsim.degrees)


PROFILES = {
    "Sersic": (
        {"n": 2.5, "half_light_radius": 1.1, "q": 0.4, "pa": 35.0},
        sheared(galsim.Sersic(2.5, half_light_radius=1.1), 0.4, 35.0),
    ),
    "truncated": (
        {"n": 1.0, "half_light_radius": 1.1, "q": 0.5, "pa": 120.0, "trunc": 2.5},
        sheared(galsim.Sersic(1.0, half_light_radius=1.1, trunc=2.5), 0.5, 120.0),
    ),
    "Gaussian": (
        {"half_light_radius": 2.0, "q": 0.7, "pa": -10.0},
        sheared(galsim.Gaussian(half_light_radius=2.0), 0.7, -10.0),
    ),
    "Moffat": (
        {"half_light_radius": 2.0, "moffat_beta": 3.0, "q": 0.7, "pa": 60.0},
        sheared(galsim.Moffat(3.0, half_light_radius=2.0), 0.7, 60.0),
    ),
    "BulgeDisk": (
        {"bulge_fraction": 0.3, "bulge_half_light_radius": 0.6, "bulge_n": 4.0, "bulge_q": 0.9, "bulge_pa": 10.0,
         "disk_half_light_radius": 2.0, "disk_q": 0.3, "disk_pa": 70.0},
        0.3 * sheared(galsim.Sersic(4.0, half_light_radius=0.6), 0.9, 10.0)
        + 0.7 * sheared(galsim.Exponential(half_light_radius=2.0), 0.3, 70.0),
    ),
    "lensed": (
        {"n": 1.0, "half_light_radius": 1.0, "q": 0.6, "pa": 20.0, "shear": 0.4, "shear_pa": 100.0,
         "magnification": 3.0},
        sheared(galsim.Exponential(half_light_radius=1.0), 0.6, 20.0)
        .shear(g=0.4, beta=(90.0 - 100.0) * galsim.degrees).magnify(3.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PROFILES))
def test_transients_lie_where_galsim_shoots_photons(name):
    columns, profile = PROFILES[name]
    kind = {"truncated": "Sersic", "lensed": "Sersic"}.get(name, name)
    n = 20_000
    table = in_hosts(transients(n), host(kind, **columns), weights="uniform", seed=4)
    assert (table["host_id"] == 7).all()
    photons = galsim.PhotonArray(n)
    photons = profile.shoot(n, galsim.BaseDeviate(8))
    east, north = offsets(table)
    for angle in (0.0, 50.0, 90.0, 140.0):
        s, c = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        found, expected = east * s + north * c, photons.x * s + photons.y * c
        assert stats.ks_2samp(found, expected).pvalue > 1e-3, angle
    assert stats.ks_2samp(east, photons.y).pvalue < 1e-6, "which another galaxy's do not"


def test_half_of_them_lie_within_the_half_light_ellipse_and_none_beyond_the_limit():
    columns, _ = PROFILES["Sersic"]
    table = in_hosts(transients(20_000), host("Sersic", **columns), weights="uniform", within=4.0)
    east, north = offsets(table)
    pa = np.radians(35.0)
    along, across = east * np.sin(pa) + north * np.cos(pa), east * np.cos(pa) - north * np.sin(pa)
    radius = np.hypot(along * np.sqrt(0.4), across / np.sqrt(0.4)) / 1.1
    assert radius.max() <= 4.0 + 1e-9
    whole = galsim.Sersic(2.5, half_light_radius=1.0).calculateIntegratedFlux(4.0)
    assert np.mean(radius < 1.0) == pytest.approx(0.5 / whole, abs=4 * np.sqrt(0.25 / 20_000))


@pytest.mark.parametrize("centre", [(359.99999, 0.0), (0.0, 89.9999), (200.0, -90.0), (10.0, 90.0), (123.4, 56.7)])
def test_given_offsets_are_those_on_the_sky(centre):
    ra, dec = centre
    rng = np.random.default_rng(2)
    given = transients(50, host_id=np.full(50, 7), apart=rng.uniform(0.1, 30.0, 50), angle=rng.uniform(0.0, 360.0, 50))
    table = in_hosts(given, host("Star", ra=ra, dec=dec), separation="apart", pa="angle")
    # The name of a meridian at a pole: astropy's too follows the right ascension given.
    expected = SkyCoord(ra, dec, unit="deg").directional_offset_by(given["angle"] * u.deg, given["apart"] * u.arcsec)
    assert (
        expected.separation(SkyCoord(table["ra"], table["dec"])).arcsec.max() < 2e-5
    )  # astropy's own rounding, near a pole
    assert ((table["ra"].value >= 0) & (table["ra"].value < 360)).all()


def test_radii_are_on_the_ellipse_in_the_direction_given():
    q, pa = 0.5, 30.0
    galaxy = host("Sersic", n=4.0, half_light_radius=2.0, q=q, pa=pa)
    table = in_hosts(transients(3, host_id=[7, 7, 7]), galaxy, radii=2.0, pa=[pa, pa + 90.0, pa + 45.0])
    east, north = offsets(table)
    expected = 4.0 * np.array([1 / np.sqrt(q), np.sqrt(q), 1 / np.sqrt(0.5 * (q + 1 / q))])
    assert np.hypot(east, north) == pytest.approx(expected, rel=1e-9)
    assert np.degrees(np.arctan2(east, north)) == pytest.approx([30.0, 120.0, 75.0], abs=1e-6)


def hosts_of_three() -> Table:
    galaxies = {
        "injection_id": [5, 3, 9], "ra": [10.0, 20.0, 30.0], "dec": [0.0, 1.0, 2.0],
        "source_type": ["Sersic"] * 3, "n": [1.0] * 3, "half_light_radius": [1.0] * 3, "mag_r": [20.0, 21.0, 22.0],
        "mass": [1.0, 3.0, 0.0],
    }  # fmt: skip
    return normalize_catalog(galaxies)


def test_neither_order_nor_number_changes_a_place():
    galaxies = hosts_of_three()
    whole = in_hosts(transients(200), galaxies, weights="mag_r", seed=6)
    shuffle = np.random.default_rng(1).permutation(200)[:77]
    some = in_hosts(Table(transients(200))[shuffle], galaxies[[2, 0, 1]], weights="mag_r", seed=6)
    for name in ("ra", "dec", "host_id"):
        assert np.array_equal(some[name], whole[name][shuffle])
    other = in_hosts(transients(200), galaxies, weights="mag_r", seed=7)
    assert not (other["ra"] == whole["ra"]).any()


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("mass", [0.25, 0.75, 0.0]),
        ([2.0, 0.0, 6.0], [0.25, 0.0, 0.75]),
        ("mag_r", np.array([1.0, 10**-0.4, 10**-0.8]) / (1 + 10**-0.4 + 10**-0.8)),
    ],
)
def test_hosts_are_drawn_by_their_weights(weights, share):
    n = 20_000
    table = in_hosts(transients(n), hosts_of_three(), weights=weights)
    found = [np.count_nonzero(table["host_id"] == one) / n for one in (5, 3, 9)]
    assert found == pytest.approx(share, abs=4 * np.sqrt(0.25 / n))
    assert all(one == 0 for one, expected in zip(found, share, strict=True) if expected == 0)


def test_other_columns_are_kept_and_named_hosts_too():
    given = transients(2, host_id=[9, -1], light_curve=["a", "b"], mine=[1, 2])
    table = in_hosts(given, hosts_of_three(), weights="uniform")
    assert table["host_id"][0] == 9 and list(table["light_curve"]) == ["a", "b"] and list(table["mine"]) == [1, 2]
    assert list(table["source_type"]) == ["Star", "Star"]


SERSIC = {"n": [1.0], "half_light_radius": [1.0], "q": [0.5], "pa": [0.0]}


@pytest.mark.parametrize(
    ("given", "hosts", "options", "said"),
    [
        (transients(3, host_id=[7, 8, 99]), host("Sersic") | SERSIC, {}, ["8, 99", "do not exist", "id 1, 2"]),
        (transients(1, host_id=[7]), host("Sersic") | SERSIC | {"n": [NAN]}, {}, ["no size", "host_id 7"]),
        (transients(1, host_id=[7]), host("Sersic") | SERSIC | {"pa": [NAN]}, {}, ["no size or no shape", "pa = nan"]),
        (transients(1, host_id=[7]), host("Sersic") | SERSIC | {"q": [NAN]}, {}, ["q = nan"]),
        (transients(1, host_id=[7]), host("Star"), {}, ["of type Star", "Sersic, BulgeDisk"]),
        (transients(2), host("Sersic") | SERSIC, {}, ["no host_id", "weights="]),
        (transients(2), host("Star"), {"weights": "uniform"}, ["no host can be drawn"]),
        (transients(2), host("Star"), {"weights": "rate"}, ["'rate'", "mag_r"]),
        (transients(2), host("Star"), {"weights": [1.0, 2.0]}, ["1 hosts"]),
        (transients(2), host("Star"), {"weights": [-1.0], "separation": 1.0}, ["negative"]),
        (transients(1, host_id=[7]), host("Star"), {"separation": NAN}, ["separation", "not finite", "injection_id 0"]),
        (transients(1, host_id=[7]), host("Star"), {"separation": -1.0}, ["0 or more"]),
        (transients(1, host_id=[7]), host("Star"), {"separation": "apart"}, ["'apart'"]),
        (transients(1, host_id=[7]), host("Star"), {"separation": 1.0, "radii": 1.0}, ["one of them"]),
        (transients(1, host_id=[7]), host("Star"), {"pa": 1.0}, ["without separation"]),
        (transients(1, host_id=[7]), host("Star"), {"separation": 1.0, "seed": -1}, ["seed"]),
        ({"mag_r": [20.0]}, host("Star"), {}, ["injection_id"]),
        (transients(1), {"NUMBER": [1]}, {}, ["hosts_from_detections"]),
        (transients(1), {k: v * 2 for k, v in host("Star").items()}, {}, ["same number"]),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_named(given, hosts, options, said):
    with pytest.raises(CatalogError) as caught:
        in_hosts(given, hosts, **options)
    for text in said:
        assert text in str(caught.value)


def test_hosts_without_shape_are_never_drawn():
    galaxies = hosts_of_three()
    galaxies["half_light_radius"][0] = np.nan
    galaxies["q"] = [1.0, np.nan, 0.5]
    assert (in_hosts(transients(100), galaxies, weights="uniform")["host_id"] == 9).all()


def image_header(rotation: float, mirrored: bool) -> fits.Header:
    header = fits.Header({"NAXIS": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 60.0,
                          "CRPIX1": 128.5, "CRPIX2": 128.5, "RADESYS": "ICRS"})  # fmt: skip
    t = np.radians(rotation)
    flip = np.diag([1.0 if mirrored else -1.0, 1.0])
    cd = 0.2 / 3600 * flip @ np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    header.update({f"CD{i + 1}_{j + 1}": cd[i, j] for i in range(2) for j in range(2)})
    return header


@pytest.mark.skipif(not shutil.which("source-extractor"), reason="Source Extractor is not installed")
@pytest.mark.parametrize(("rotation", "mirrored"), [(33.0, False), (33.0, True), (90.0, False), (180.0, True)])
def test_ellipses_of_source_extractor_are_right(tmp_path, rotation, mirrored):
    """On a turned image of a galaxy whose position angle and size are known."""
    header, (q, pa, radius) = image_header(rotation, mirrored), (0.4, 70.0, 3.0)
    wcs = WCS(header)
    jacobian = wcs.wcs.cd * 3600
    galaxy = sheared(galsim.Gaussian(half_light_radius=radius, flux=1e5), q, pa)
    to_sky = galsim.JacobianWCS(*jacobian.ravel())
    pixels = galaxy.drawImage(nx=256, ny=256, wcs=to_sky, method="no_pixel").array
    pixels = pixels + np.random.default_rng(1).normal(0, 0.5, pixels.shape)
    fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(tmp_path / "image.fits")
    names = [
        *("NUMBER", "X_IMAGE", "Y_IMAGE", "ALPHA_J2000", "DELTA_J2000", "FLUX_RADIUS", "FLUX_AUTO", "ELONGATION"),
        *("A_IMAGE", "B_IMAGE", "THETA_IMAGE", "A_WORLD", "B_WORLD", "THETA_WORLD", "THETA_SKY", "THETA_J2000"),
    ]
    (tmp_path / "names").write_text("\n".join(names))
    (tmp_path / "filter").write_text("CONV NORM\n0 0 0\n0 1 0\n0 0 0\n")
    command = ["source-extractor", "image.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "names", "-CATALOG_TYPE",
               "FITS_1.0", "-CATALOG_NAME", "cat.fits", "-FILTER_NAME", "filter", "-DETECT_MINAREA", "40",
               "-BACK_SIZE", "128", "-VERBOSE_TYPE", "QUIET"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = Table.read(tmp_path / "cat.fits")
    found = found[np.argmax(found["FLUX_AUTO"])[None]]
    wcs = read_fits_wcs(header)
    # FLUX_RADIUS is that of a circle, which for so flat a galaxy is some per cent larger.
    made = hosts_from_detections(found, wcs=wcs)
    assert made["pa"][0].value == pytest.approx(pa, abs=0.5)
    assert made["q"][0] == pytest.approx(q, abs=0.02)
    assert made["half_light_radius"][0].value == pytest.approx(radius, rel=0.15)
    by_moments = hosts_from_detections(
        found["ALPHA_J2000", "DELTA_J2000", "A_IMAGE", "B_IMAGE", "THETA_IMAGE"], wcs=wcs
    )
    assert by_moments["half_light_radius"][0].value == pytest.approx(radius, rel=0.1)
    if rotation % 90 == 0:  # where its moments on the sky are right
        for angle in ("THETA_J2000", "THETA_SKY", "THETA_WORLD"):
            one = hosts_from_detections(found["ALPHA_J2000", "DELTA_J2000", "A_WORLD", "B_WORLD", angle])
            assert one["pa"][0].value == pytest.approx(pa, abs=0.5), angle
            assert one["q"][0] == pytest.approx(q, abs=0.02)
            assert one["half_light_radius"][0].value == pytest.approx(radius, rel=0.1)
    table = in_hosts(transients(4000), made, weights="FLUX_AUTO", seed=1)
    east, north = offsets(table, float(made["ra"][0].value), float(made["dec"][0].value))
    moments = np.cov(east, north)
    assert 0.5 * np.degrees(np.arctan2(2 * moments[0, 1], moments[1, 1] - moments[0, 0])) == pytest.approx(pa, abs=2.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_moments_on_pixels_of_lsst_tables_are_taken_to_the_sky(mirrored):
    header, (q, pa, sigma) = image_header(200.0, mirrored), (0.6, 25.0, 1.5)
    major = np.array([np.sin(np.radians(pa)), np.cos(np.radians(pa))])
    minor = np.array([major[1], -major[0]])
    sky = sigma**2 * (np.outer(major, major) / q + np.outer(minor, minor) * q)
    inverse = np.linalg.inv(WCS(header).wcs.cd * 3600)
    pixels = inverse @ sky @ inverse.T
    names = {"ixx": pixels[0, 0], "iyy": pixels[1, 1], "ixy": pixels[0, 1], "sourceId": 4}
    table = Table(
        {"coord_ra": [np.radians(30.0)], "coord_dec": [np.radians(60.0)]} | {k: [v] for k, v in names.items()}
    )
    made = hosts_from_detections(table, wcs=read_fits_wcs(header))
    assert made["injection_id"][0] == 4
    assert made["pa"][0].value == pytest.approx(pa, abs=1e-3) and made["q"][0] == pytest.approx(q, rel=1e-4)
    assert made["half_light_radius"][0].value == pytest.approx(sigma * np.sqrt(2 * np.log(2)), rel=1e-4)
    with pytest.raises(CatalogError, match="no WCS"):
        hosts_from_detections(table)


def test_seeing_is_taken_out_and_tables_of_any_names_are_read():
    sigma = 0.6 / (2 * np.sqrt(2 * np.log(2)))
    a, b = np.array([1.0, 0.2]), np.array([0.5, 0.2])
    table = Table({"no": [1, 2], "lon": [-1.0, 20.0], "lat": [0.0, 0.0], "major": np.hypot(a, [sigma, 0]),
                   "minor": np.hypot(b, [sigma, 0]), "tilt": [190.0, 0.0]})  # fmt: skip
    names = {"id": "no", "ra": "lon", "dec": "lat", "a": "major", "b": "minor", "pa": "tilt"}
    made = hosts_from_detections(table, columns=names, seeing=0.6, n=2.0)
    assert made["ra"][0].value == 359.0 and made["pa"][0].value == pytest.approx(10.0) and made["n"][0] == 2.0
    assert made["q"][0] == pytest.approx(0.5, rel=1e-6)
    assert made["half_light_radius"][0].value == pytest.approx(np.sqrt(0.5) * np.sqrt(2 * np.log(2)), rel=1e-6)
    assert np.isnan(made["half_light_radius"][1]), "which is no larger than the seeing"
    assert made["minor"][0] == table["minor"][0], "other columns may be weights"
    for wrong, said in (
        ({"colour": "no"}, "half_light_radius"),
        ({"id": "nothing"}, "tilt"),
        ({"id": "no"}, "positions"),
    ):
        with pytest.raises(CatalogError, match=said):
            hosts_from_detections(table, columns=wrong)


def test_tractor_has_the_major_axis_and_complex_ellipticities(data_dir):
    q, pa = 0.5, 40.0
    e = (1 - q) / (1 + q) * np.exp(2j * np.radians(pa))
    columns = {"objid": 3, "ra": 1.0, "dec": 2.0, "shape_r": 2.0, "sersic": 0.0, "shape_e1": e.real, "shape_e2": e.imag}
    table = Table({name: [value] for name, value in columns.items()})
    made = hosts_from_detections(table)
    assert (made["q"][0], made["pa"][0].value) == pytest.approx((q, pa))
    assert made["half_light_radius"][0].value == pytest.approx(2.0 * np.sqrt(q)) and made["n"][0] == 1.0
    # A real table without angles: of a survey that kept none.
    real = data_dir / "video_H" / "image_1.cat.fits"
    wcs = read_fits_wcs(fits.getheader(data_dir / "video_H" / "image_1.fits", 1))
    with pytest.raises(CatalogError, match="circular=True"):
        hosts_from_detections(real, wcs=wcs)
    galaxies = hosts_from_detections(real, wcs=wcs, circular=True, seeing=0.7)
    good = np.isfinite(galaxies["half_light_radius"])
    assert good.sum() > 100 and 0.2 < np.median(galaxies["half_light_radius"][good].value) < 1.5
    assert set(in_hosts(transients(50), galaxies, weights="uniform")["host_id"]) <= set(galaxies["injection_id"][good])
