"""Types of galaxies and lensing in catalogues: what each needs, what is refused, and what dialects call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from skygraft.catalog import decode_flags, normalize_catalog, read_catalog
from skygraft.errors import CatalogError

SIZE = {"half_light_radius": 0.5, "q": 0.7, "pa": 30.0}
GOOD = {
    "Spergel": SIZE | {"spergel_nu": 0.5},
    "InclinedExponential": SIZE | {"inclination": 60.0},
    "InclinedSersic": SIZE | {"inclination": 60.0, "n": 2.0, "scale_h_over_r": 0.2, "trunc": 1.5},
    "Kolmogorov": SIZE,
    "RandomKnots": SIZE | {"n_knots": 30},
    "RealGalaxy": {"real_galaxy_catalog": "real_galaxy_catalog.fits", "real_galaxy": 0, "pa": 30.0},
}


def catalog(source_type: str, mag: str = "mag_r", **columns: object) -> Table:
    row = {"injection_id": 5, "ra": 10.0, "dec": 20.0, "source_type": source_type, mag: 21.0}
    return Table({name: [value] for name, value in (row | columns).items()})


@pytest.mark.parametrize("kind", list(GOOD))
def test_each_type_has_what_it_needs(kind: str) -> None:
    good = normalize_catalog(catalog(kind, **GOOD[kind]))
    assert good["flags"][0] == 0
    for name, value in GOOD[kind].items():
        assert getattr(good[name], "value", good[name])[0] == value


@pytest.mark.parametrize(
    ("kind", "changes", "flag", "reason"),
    [
        ("Spergel", {"spergel_nu": np.nan}, "PARAMETERS_BAD", r"spergel_nu = nan is not in \[-0.85, 4\]"),
        ("Spergel", {"spergel_nu": -0.9}, "PARAMETERS_BAD", r"spergel_nu = -0.9 is not in \[-0.85, 4\]"),
        ("Spergel", {"trunc": 2.0}, "PARAMETERS_BAD", "trunc = 2, but a Spergel is not truncated"),
        ("Spergel", {"q": 0.0}, "PARAMETERS_BAD", "q = 0 is not"),
        ("Kolmogorov", {"half_light_radius": -1.0}, "PARAMETERS_BAD", "half_light_radius = -1 is not"),
        ("InclinedExponential", {"inclination": 91.0}, "PARAMETERS_BAD", r"inclination = 91 is not in \[0, 90\] deg"),
        ("InclinedExponential", {"scale_h_over_r": 0.0}, "PARAMETERS_BAD", r"scale_h_over_r = 0 is not in \(0, 1\]"),
        ("InclinedSersic", {"n": 6.3}, "SERSIC_EXTREME", r"n = 6.3 is not in \[0.3, 6.2\]"),
        ("InclinedSersic", {"n": np.nan}, "SERSIC_EXTREME", "n = nan is not"),
        ("InclinedSersic", {"trunc": 0.72}, "PARAMETERS_BAD", r"trunc = 0.72 arcsec is not more than 1.45 half-light"),
        ("RandomKnots", {"n_knots": 0}, "PARAMETERS_BAD", "n_knots = 0 is not"),
        ("RandomKnots", {"n_knots": 10_000_000}, "PARAMETERS_BAD", "n_knots = 10000000 is not"),
        ("RealGalaxy", {"real_galaxy": -3}, "PARAMETERS_BAD", "real_galaxy = -3 is not"),
        ("RealGalaxy", {"real_galaxy_catalog": ""}, "PARAMETERS_BAD", "needs the path of GalSim's table"),
        ("Spergel", {"shear": 1.0}, "PARAMETERS_BAD", r"shear = 1 is not in \[0, 0.999\]"),
        ("Spergel", {"magnification": 0.0}, "PARAMETERS_BAD", "magnification = 0 is not finite and > 0"),
    ],
)
def test_what_is_wrong_is_said(kind: str, changes: dict, flag: str, reason: str) -> None:
    bad = catalog(kind, **GOOD[kind] | changes)
    with pytest.raises(CatalogError, match=reason) as raised:
        normalize_catalog(bad)
    assert "row 0 (injection_id 5)" in str(raised.value)
    assert decode_flags(normalize_catalog(bad, on_bad="flag")["flags"][0]) == [flag]


def test_columns_that_are_absent_altogether() -> None:
    for kind, missing in (("RandomKnots", "n_knots"), ("RealGalaxy", "real_galaxy"), ("InclinedSersic", "inclination")):
        columns = {name: value for name, value in GOOD[kind].items() if name != missing}
        with pytest.raises(CatalogError, match=missing):
            normalize_catalog(catalog(kind, **columns))


def test_two_sersics_in_one_row() -> None:
    parts = {"bulge_fraction": 0.3} | {
        f"{part}_{name}": value
        for part, n in (("bulge", 2.5), ("disk", 0.7))
        for name, value in (("n", n), ("half_light_radius", 0.5), ("q", 0.7), ("pa", 10.0))
    }
    good = normalize_catalog(catalog("DoubleSersic", **parts))
    assert good["source_type"][0] == "BulgeDisk"
    assert (good["bulge_n"][0], good["disk_n"][0]) == (2.5, 0.7)


def test_a_wrong_type_is_told_the_nearest() -> None:
    with pytest.raises(CatalogError, match="did you mean 'InclinedExponential'"):
        normalize_catalog(catalog("InclinedExponental", **SIZE))


def test_galsims_own_names_in_lsst_catalogues() -> None:
    spergel = normalize_catalog(catalog("Spergel", "mag", half_light_radius=0.5, q=0.7, beta=60.0, nu=0.5), band="r")
    assert (spergel["spergel_nu"][0], spergel["pa"].value[0]) == (0.5, 30.0)
    knots = normalize_catalog(catalog("RandomKnots", "mag", half_light_radius=0.5, npoints=40), band="r")
    assert knots["n_knots"][0] == 40


def test_catalogues_of_real_galaxies_lie_beside_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "galaxies.fits").write_bytes(b"")
    path = tmp_path / "fakes.ecsv"
    columns = {"real_galaxy_catalog": "real/galaxies.fits", "real_galaxy": 3}
    catalog("RealGalaxy", **columns).write(path, format="ascii.ecsv")
    assert read_catalog(path)["real_galaxy_catalog"][0] == str(tmp_path / "real" / "galaxies.fits")
    catalog("RealGalaxy", **columns | {"real_galaxy_catalog": "no.fits"}).write(
        path, format="ascii.ecsv", overwrite=True
    )
    with pytest.raises(CatalogError, match=r"'no\.fits' is not at"):
        read_catalog(path)
