"""Galaxies of every type, and lensed ones, from a catalogue to the image and the truth table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kits.direct_drawing import TIGHT, draw_directly, on_sky
from kits.real_galaxy_catalog import write_real_galaxies
from skygraft import inject, read_catalog
from skygraft.catalog import Flag
from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.injection.lsst.profiles import refusals
from skygraft.photometry import TOTAL, PhotoCalib
from skygraft.psf import MoffatPSF
from skygraft.render import Sources
from skygraft.wcs import read_fits_wcs

SIDE, SCALE, MAG = 256, 0.2, 20.0
FLUX = 10 ** (0.4 * (27.0 - MAG))
PSF = MoffatPSF(fwhm=3.5, beta=3.0, shape=(41, 41), pixel_integrated=True)


def exposure(rotation: float, mirrored: bool, **changes: Any) -> Exposure:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [129.0, 129.0]
    t = np.radians(rotation)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    wcs.wcs.cd = SCALE / 3600 * np.diag([1.0 if mirrored else -1.0, 1.0]) @ turn
    header: fits.Header = wcs.to_header()
    parts = {
        "planes": make_planes(np.zeros((SIDE, SIDE), np.float32), None),
        "wcs": read_fits_wcs(header),
        "psf": PSF,
        "photo_calib": PhotoCalib.from_zeropoint(27.0, reference=TOTAL, reference_origin="test"),
        "data_id": DataId("TestCam", 1, 1, band="r"),
        "visit_info": VisitInfo(60000.0, 30.0),
    }
    return Exposure(**{**parts, **changes})


def jacobian(exp: Exposure, x: float, y: float) -> np.ndarray:
    """Arcsec (East, North) by pixels, by differences of positions on the sky."""
    ra, dec = exp.wcs.pixel_to_world_values(np.array([x, x + 1, x]), np.array([y, y, y + 1]))
    east, north = (ra - ra[0]) * np.cos(np.radians(dec[0])) * 3600, (dec - dec[0]) * 3600
    return np.array([[east[1], east[2]], [north[1], north[2]]])


def row(exp: Exposure, x: float, y: float, **columns: Any) -> dict[str, Any]:
    ra, dec = (float(v) for v in exp.wcs.pixel_to_world_values(x, y))
    return {"injection_id": 4, "ra": ra, "dec": dec, "mag_r": MAG} | columns


LENS = {"shear": 0.3, "shear_pa": 100.0, "magnification": 1.0}
SIZE = {"half_light_radius": 0.6, "q": 0.6, "pa": 25.0}


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.0, False), (40.0, False), (110.0, True)])
@pytest.mark.parametrize(
    ("shape", "profile"),
    [
        (
            {"source_type": "Spergel", "spergel_nu": 0.2, **SIZE},
            on_sky(galsim.Spergel(0.2, half_light_radius=0.6), 0.6, 25.0),
        ),
        (
            {"source_type": "InclinedExponential", "half_light_radius": 0.6, "pa": 25.0, "inclination": 70.0},
            galsim.InclinedExponential(70 * galsim.degrees, half_light_radius=0.6, gsparams=TIGHT).rotate(
                65 * galsim.degrees
            ),
        ),
        (
            {"source_type": "Sersic", "n": 1.2, **SIZE, **LENS},
            on_sky(galsim.Sersic(1.2, half_light_radius=0.6, gsparams=TIGHT), 0.6, 25.0).shear(
                g=0.3, beta=-10 * galsim.degrees
            ),
        ),
    ],
)
def test_a_galaxy_of_the_catalogue_is_on_the_image(shape, profile, rotation, mirrored) -> None:
    exp = exposure(rotation, mirrored)
    x, y = 127.6, 130.3
    result = inject(exp, Table(rows=[row(exp, x, y, **shape)]), noise=False)
    image = result.exposure.planes["image"].values
    kernel = PSF.kernels([x], [y])[0]
    wanted = FLUX * draw_directly(profile, jacobian(exp, x, y), x, y, kernel, SIDE)
    assert np.abs(image - wanted)[image != 0].max() < 3e-4 * wanted.max()
    truth = result.truth[0]
    assert truth["flags"] == 0
    assert truth["flux_deposited"] == pytest.approx(image.sum(dtype=float), rel=1e-5)
    assert truth["flux_deposited"] == pytest.approx(FLUX, rel=2e-3)


def test_a_catalogue_of_all_types(tmp_path: Path) -> None:
    exp = exposure(30.0, False)
    galaxies = write_real_galaxies(tmp_path, [galsim.Exponential(half_light_radius=0.3)])
    types = {
        "Star": {}, "Sersic": {"n": 1.5}, "Gaussian": {}, "Moffat": {"moffat_beta": 4.0}, "Kolmogorov": {},
        "Spergel": {"spergel_nu": 0.0}, "InclinedExponential": {"inclination": 40.0},
        "InclinedSersic": {"inclination": 40.0, "n": 1.5}, "RandomKnots": {"n_knots": 20},
        "RealGalaxy": {"real_galaxy_catalog": galaxies.name, "real_galaxy": 0},
    }  # fmt: skip
    table = Table(
        [
            row(exp, 60 + 45 * (i % 4), 60 + 45 * (i // 4), source_type=kind, injection_id=i, **SIZE | own)
            for i, (kind, own) in enumerate(types.items())
        ]
    )
    table.write(tmp_path / "fakes.csv")
    result = inject(exp, read_catalog(tmp_path / "fakes.csv"), noise=False)
    truth = result.truth
    assert truth["source_type"].tolist() == list(types)
    # The image ends the wide wings of some.
    np.testing.assert_allclose(truth["flux_deposited"], FLUX, rtol=0.02)
    assert not (truth["flags"].astype(int) & ~int(Flag.TRUNCATED_BY_EDGE)).any()
    image = result.exposure.planes["image"].values
    assert image.sum(dtype=float) == pytest.approx(truth["flux_deposited"].sum(), rel=1e-5)
    # Each by itself is the same: its pixels do not depend on the others.
    alone = [inject(exp, table_of(tmp_path, i), noise=False).exposure.planes["image"].values for i in range(len(types))]
    np.testing.assert_allclose(np.sum(alone, axis=0), image, rtol=0, atol=1e-5 * image.max())


def table_of(folder: Path, i: int) -> Table:
    return read_catalog(folder / "fakes.csv")[i : i + 1]


def test_lensing_makes_the_light_reach_further() -> None:
    """A source beyond the edge whose light reaches the image because it is lensed."""
    exp = exposure(0.0, False)
    shape = {"source_type": "Gaussian", "half_light_radius": 0.8, "q": 1.0, "pa": 0.0}
    plain = inject(exp, Table(rows=[row(exp, -50.0, 128.0, **shape)]), noise=False)
    assert plain.truth["flags"][0] & Flag.NO_OVERLAP
    lens = {"shear": 0.5, "shear_pa": 90.0, "magnification": 4.0}
    lensed = inject(exp, Table(rows=[row(exp, -50.0, 128.0, **shape, **lens)]), noise=False)
    assert lensed.truth["flags"][0] == Flag.CENTER_OFF_IMAGE | Flag.TRUNCATED_BY_EDGE
    assert lensed.exposure.planes["image"].values.max() > 0


def test_real_galaxies_that_are_not_there_are_flagged_with_the_reason(tmp_path: Path) -> None:
    exp = exposure(0.0, False)
    galaxies = write_real_galaxies(tmp_path, [galsim.Exponential(half_light_radius=0.3)])
    good = {"source_type": "RealGalaxy", "real_galaxy_catalog": str(galaxies), "real_galaxy": 0}
    table = Table(
        [
            row(exp, 100.0, 100.0, **good),
            row(exp, 100.0, 100.0, **good | {"injection_id": 5, "real_galaxy": 9}),
            row(exp, 100.0, 100.0, **good | {"injection_id": 6, "real_galaxy_catalog": str(tmp_path / "no.fits")}),
        ]
    )
    result = inject(exp, table, noise=False)
    assert result.truth["flags"].tolist() == [0, Flag.PARAMETERS_BAD, Flag.STAMP_FILE_BAD]
    assert "rows 0 to 0" in " ".join(result.summary["messages"])
    assert "no.fits" in " ".join(result.summary["messages"])


def test_lsst_conventions_refuse_what_they_do_not_reproduce() -> None:
    n = 4
    sources = Sources(
        np.arange(n),
        np.array(["Spergel", "Sersic", "Sersic", "Star"]),
        *np.zeros((3, n)),
        np.zeros((n, 2, 2)),
        {
            "n": np.full(n, 1.0),
            "half_light_radius": np.full(n, 1.0),
            "shear": np.array([0.0, 0.1, 0.0, 0.1]),
            "trail_length": np.array([np.nan, np.nan, 2.0, np.nan]),
        },
    )
    found = refusals(sources)
    assert sorted(found) == [0, 1, 2]
    assert [found[i][0] for i in range(3)] == [Flag.TYPE_UNKNOWN, Flag.PARAMETERS_BAD, Flag.PARAMETERS_BAD]
