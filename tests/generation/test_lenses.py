"""Lenses: images, magnifications and delays by lenstronomy and by closed forms, arcs by ray shooting."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM, LambdaCDM
from astropy.io import fits
from astropy.wcs import WCS

from skygraft.errors import CatalogError, OutputExistsError
from skygraft.exposure import VisitInfo
from skygraft.generation.groups import place_groups
from skygraft.generation.lenses import Lens, LensedImages, lensed_system
from skygraft.injection import inject
from skygraft.psf import GaussianPSF
from skygraft.testing import make_exposure

# lenstronomy 1.14.1, SIE and SHEAR, Planck 2018, with x to the East and y to the North, so that its angles from x are
# 90 degrees less the position angle: east, north (arcsec), magnification, delay (days). Its core of 1e-5 arcsec changes
# magnifications by some 1e-5.
LENSTRONOMY = [
    (
        Lens(1.2, 0.7, 35.0, z_lens=0.5, z_source=1.5),
        (0.08, 0.05),
        [
            (1.2445619608, -0.4047813981, 4.63830472, 0.000000000),
            (-0.6558516787, 1.0516088137, 6.39961852, 8.521325481),
            (0.5193962124, 1.0840832232, -5.65201167, 12.908954597),
            (-0.6653591909, -0.7858585872, -2.58484463, 31.456308593),
        ],
    ),
    (
        Lens(1.5, 0.6, 110.0, 0.06, 20.0, z_lens=0.3, z_source=2.0),
        (-0.1, 0.12),
        [
            (0.2913948935, 1.7665421369, 2.65289859, 0.000000000),
            (-0.9116896407, -1.3454681066, 3.26788378, 11.789888595),
            (-1.3604904601, 0.3060629598, -2.21178634, 21.778051616),
            (1.0314412796, -0.4862911309, -1.26778452, 37.072878989),
        ],
    ),
    (
        Lens(0.9, 0.9999999, 0.0, 0.1, 75.0, z_lens=0.4, z_source=1.2),
        (0.02, 0.03),
        [
            (0.9627453235, 0.3667927562, 4.95137918, 0.000000000),
            (-0.9628068957, -0.1145364121, 6.63091054, 4.111247294),
            (-0.3664163329, 0.7561071918, -5.53481321, 7.108346497),
            (0.0902063860, -0.7911782745, -4.02720100, 10.044584936),
        ],
    ),
]


@pytest.mark.parametrize(("lens", "source", "known"), LENSTRONOMY)
def test_images_are_those_of_lenstronomy(lens, source, known):
    images, known = lens.images(*source), np.array(known)
    assert np.allclose(images.east, known[:, 0], atol=1e-8) and np.allclose(images.north, known[:, 1], atol=1e-8)
    assert images.magnification == pytest.approx(known[:, 2], rel=3e-5)
    assert images.delay * 86400 == pytest.approx(known[:, 3] * 86400, abs=0.02), "seconds"


def test_a_round_lens_is_that_of_the_closed_forms():
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3)
    theta, beta = 1.3, 0.4
    images = Lens(theta, z_lens=0.5, z_source=2.0, cosmology=cosmology).images(0.0, beta)
    # Narayan & Bartelmann (1996), section 3.1: at beta + theta and beta - theta.
    assert np.allclose(images.east, 0, atol=1e-12) and images.north == pytest.approx([beta + theta, beta - theta])
    assert images.magnification == pytest.approx([1 + theta / beta, 1 - theta / beta])
    near, far = (cosmology.angular_diameter_distance(z) for z in (0.5, 2.0))
    between = (far * 3.0 - near * 1.5) / 3.0
    days = (1.5 * near * far / between).to_value("m") / 299792458.0 / 86400
    assert images.delay[1] == pytest.approx(2 * theta * beta * np.radians(1 / 3600) ** 2 * days, rel=1e-9)
    far_away = Lens(theta).images(3.0, 0.0)
    assert len(far_away) == 1 and far_away.east[0] == pytest.approx(3.0 + theta)
    assert (Lens(theta).images(0.1, 0.0).delay == 0).all(), "without redshifts"


def test_delays_in_curved_space_are_by_distances_of_astropy():
    cosmology = LambdaCDM(H0=70, Om0=0.3, Ode0=0.2)
    flat = FlatLambdaCDM(H0=70, Om0=0.3)
    ratio = []
    for one in (cosmology, flat):
        near, far = (one.angular_diameter_distance(z) for z in (0.5, 2.0))
        between = one.angular_diameter_distance(0.5, 2.0)
        delay = Lens(1.0, 0.8, z_lens=0.5, z_source=2.0, cosmology=one).images(0.1, 0.05).delay[-1]
        ratio.append(delay / float(near * far / between / near.unit))
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-9)


@pytest.mark.parametrize("lens", [Lens(1.1, 0.5, 77.0, 0.1, 10.0), Lens(1.1, 0.999, 10.0), Lens(0.7, 0.2, -30.0)])
def test_deflection_has_the_convergence_of_the_profile(lens):
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-2, 2, (2, 50))
    h = 1e-5
    east, north = lens.deflection([x + h, x - h, x, x], [y, y, y + h, y - h])
    xx, yx = (east[0] - east[1]) / (2 * h), (north[0] - north[1]) / (2 * h)
    xy, yy = (east[2] - east[3]) / (2 * h), (north[2] - north[3]) / (2 * h)
    assert np.allclose(xy, yx, atol=1e-6), "no rotation"
    pa = np.radians(lens.pa)
    along, across = x * np.sin(pa) + y * np.cos(pa), x * np.cos(pa) - y * np.sin(pa)
    kappa = lens.theta_e * np.sqrt(lens.q) / (2 * np.hypot(lens.q * along, across))
    assert np.allclose((xx + yy) / 2, kappa, rtol=1e-5)


def test_images_map_back_to_the_source_and_their_shear_is_that_of_a_small_circle():
    lens = Lens(1.2, 0.6, 40.0, 0.08, 100.0)
    images = lens.images(0.05, -0.12)
    back = lens.deflection(images.east, images.north)
    assert np.allclose(images.east - back[0], 0.05, atol=1e-12) and np.allclose(
        images.north - back[1], -0.12, atol=1e-12
    )
    turn = np.radians(np.arange(0, 360, 0.05))
    for k in range(len(images)):
        # The contour of a small circle around the source: invert the local map by brute force.
        h = 1e-6
        dx = lens.deflection(images.east[k] + np.array([h, -h]), np.full(2, images.north[k]))
        dy = lens.deflection(np.full(2, images.east[k]), images.north[k] + np.array([h, -h]))
        local = np.eye(2) - np.array(
            [[dx[0][0] - dx[0][1], dy[0][0] - dy[0][1]], [dx[1][0] - dx[1][1], dy[1][0] - dy[1][1]]]
        ) / (2 * h)
        contour = np.linalg.inv(local) @ np.stack([np.sin(turn), np.cos(turn)])
        length = np.hypot(*contour)
        g = (length.max() - length.min()) / (length.max() + length.min())
        longest = contour[:, length.argmax()]
        assert images.shear[k] == pytest.approx(g, abs=1e-4)
        angle = np.degrees(np.arctan2(longest[0], longest[1])) % 180
        assert abs((images.shear_pa[k] - angle + 90) % 180 - 90) < 0.1
        assert abs(images.magnification[k]) == pytest.approx(length.max() * length.min(), rel=1e-4)


def test_the_arc_has_the_light_of_its_images(tmp_path):
    """A small galaxy's arc: its peaks are the images of its centre, its flux the sum of their magnifications."""
    lens, place = Lens(1.0, 0.7, 35.0), (0.05, 0.02)
    images = lens.images(*place)
    source = {"n": 1.0, "half_light_radius": 0.01, "q": 0.8, "pa": 10.0, "mag_r": 24.0}
    row = lens.arc_stamp(tmp_path / "arc.fits", source, *place, pixel=0.02, half_size=2.0, oversampling=8)
    light, header = fits.getdata(row["stamp"]), fits.getheader(row["stamp"])
    total = np.abs(images.magnification).sum()
    assert light.sum() == pytest.approx(total, rel=0.02)
    assert row["mag_r"] == pytest.approx(24.0 - 2.5 * np.log10(light.sum()), abs=1e-5)
    x, y = WCS(header).wcs_world2pix(images.east / 3600, images.north / 3600, 0)
    rows, columns = np.indices(light.shape)
    for k in range(len(images)):
        near = np.hypot(columns - x[k], rows - y[k]) < 9
        assert light[near].sum() == pytest.approx(abs(images.magnification[k]), rel=0.1)
        where = np.array([(columns[near] * light[near]).sum(), (rows[near] * light[near]).sum()]) / light[near].sum()
        assert np.hypot(*(where - [x[k], y[k]])) < 1.0
    with pytest.raises(OutputExistsError):
        lens.arc_stamp(tmp_path / "arc.fits", source, *place)


def test_a_system_keeps_its_images_and_arc_together_on_turned_images(tmp_path):
    """The drawn arc lies under the images of its centre, on a mirrored image of a turned system."""
    lens, place = Lens(2.0, 0.7, 35.0, z_lens=0.5, z_source=1.5), (0.1, 0.05)
    images = lens.images(*place)
    arc = lens.arc_stamp(
        tmp_path / "arc.fits", {"half_light_radius": 0.05, "mag_r": 21.0}, *place, pixel=0.05, half_size=4.0
    )
    members = lensed_system(images, source={"mag_r": 24.0, "light_curve": "*"}, arc=arc)
    assert list(members["object_id"]) == [1, 2, 2, 2, 2]
    assert list(members["time_delay"].value[1:]) == list(images.delay)
    assert members["magnification"][1:] == pytest.approx(np.abs(images.magnification))
    places = {"ra": [150.0], "dec": [70.0], "rotation": [64.0], "light_curve": ["sn"], "light_curve_mjd": [60000.0]}
    table = place_groups(members, places, first_id=500)
    assert list(table["light_curve"]) == ["", "sn", "sn", "sn", "sn"] and len(set(table["group_id"])) == 1
    assert list(table["object_id"]) == [500, 501, 501, 501, 501]
    visit = make_exposure(
        (96, 96), psf=GaussianPSF(fwhm=3.0), center=(150.0, 70.0), rotation=200.0, mirrored=True, gain=None,
        visit_info=VisitInfo(mjd=60010.0, exposure_time=30.0),
    )  # fmt: skip
    # Only the arc is drawn: that the light lies where the rows say of its images.
    drawn = inject(visit, table[:1], noise=False).exposure.planes["image"].values.astype(float)
    x, y = visit.wcs.world_to_pixel_values(table["ra"].value[1:], table["dec"].value[1:])
    rows, columns = np.indices(drawn.shape)
    share = [drawn[np.hypot(columns - a, rows - b) < 6].sum() for a, b in zip(x, y, strict=True)]
    assert sum(share) > 0.9 * drawn.sum()
    order = np.argsort(np.abs(images.magnification))
    assert list(np.argsort(share)) == list(order)


def test_small_hosts_are_sheared_and_mirrored_at_each_image():
    lens = Lens(1.2, 0.7, 35.0)
    images = lens.images(0.08, 0.05)
    members = lensed_system(images, host={"source_type": "Sersic", "n": 1.0, "half_light_radius": 0.02, "pa": 20.0,
                                          "mag_r": 25.0}, lens={"source_type": "Sersic", "n": 4.0,
                                                                "half_light_radius": 1.0, "mag_r": 18.0})  # fmt: skip
    assert len(members) == 5 and list(members["object_id"]) == [0, 1, 1, 1, 1]
    expected = np.where(images.magnification > 0, 20.0, 2 * images.shear_pa - 20.0)
    assert members["pa"].value[1:] == pytest.approx(expected)
    assert (place_groups(members, {"ra": [1.0], "dec": [2.0]})["flags"] == 0).all()


def test_images_of_other_models_are_taken():
    given = LensedImages([1.0, -0.8], [0.2, 0.1], [3.0, -1.5], [0.0, 20.0])
    assert list(lensed_system(given, source={"mag_r": 22.0})["magnification"]) == [3.0, 1.5]
    with pytest.raises(CatalogError, match="say nothing of the shear"):
        lensed_system(given, host={"source_type": "Sersic"})
    with pytest.raises(CatalogError, match="neither"):
        lensed_system(given)
    with pytest.raises(CatalogError, match="no columns of catalogues"):
        lensed_system(given, source={"colour": 1.0})
    for wrong in ([3.0], [3.0, np.nan], [3.0, 0.0]):
        with pytest.raises(CatalogError, match="magnification"):
            LensedImages([1.0, -0.8], [0.2, 0.1], wrong, [0.0, 20.0])


@pytest.mark.parametrize(
    "wrong",
    [{"theta_e": 0.0}, {"theta_e": np.nan}, {"q": 0.0}, {"q": 1.1}, {"shear": 1.0}, {"pa": np.inf},
     {"z_lens": 1.0, "z_source": 0.5}],
)  # fmt: skip
def test_impossible_lenses_are_refused(wrong):
    with pytest.raises(CatalogError):
        Lens(**{"theta_e": 1.0, **wrong})


def test_a_source_behind_the_middle_of_a_round_lens_has_no_separate_images():
    with pytest.raises(CatalogError, match="caustic"):
        Lens(1.0).images(0.0, 0.0)
