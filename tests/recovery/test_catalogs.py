"""Catalogues of pipelines: recognised by their columns, in any order, with their units, frames and duplicates."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, Galactic, SkyCoord
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kits.plain_images import write_plain_image
from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError, CorruptFileError, SkygraftError
from skygraft.formats import read_exposure
from skygraft.photometry import PhotoCalib
from skygraft.recovery.catalogs import KINDS, read_detections, recognise
from skygraft.recovery.catalogs_files import open_raw
from skygraft.recovery.catalogs_terms import Detections, ImageContext
from skygraft.recovery.matching_catalogs import catalog_path, sky_box

RA, DEC, N = 150.1, 2.2, 8
DATA = Path(os.environ.get("SKYGRAFT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cfht_849375"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")

rng = np.random.default_rng(3)
SKY = SkyCoord(RA + rng.uniform(-15, 15, N) / 3600, DEC + rng.uniform(-15, 15, N) / 3600, unit="deg")
FLUX = rng.uniform(100, 1000, N)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ImageContext:
    path = write_plain_image(tmp_path_factory.mktemp("image") / "one.fits", RA, DEC, 256, EXPNUM=77, CCDNUM=3)
    exposure = read_exposure(path, psf={"kind": "moffat", "fwhm": "0.8 arcsec"})
    return ImageContext("one", exposure, "r", 77, "3", 12.0, "aperture", (6.0,))


def lsst_object() -> dict[str, Any]:
    return {
        "objectId": np.arange(N) + (1 << 60),
        "coord_ra": SKY.ra.deg,
        "coord_dec": SKY.dec.deg,
        "r_psfFlux": FLUX,
        "r_psfFluxErr": FLUX / 10,
        "r_cModelFlux": FLUX * 1.1,
        "r_cModelFluxErr": FLUX / 9,
        "r_ap12Flux": FLUX * 1.2,
        "r_ap12FluxErr": FLUX / 8,
        "i_psfFlux": FLUX * 7,
        "i_psfFluxErr": FLUX,
        "r_extendedness": np.arange(N) % 2.0,
        "detect_isPrimary": np.ones(N, dtype=bool),
        "parentObjectId": np.zeros(N, dtype=np.int64),
    }


def sextractor() -> dict[str, Any]:
    return {
        "NUMBER": np.arange(1, N + 1),
        "ALPHA_J2000": SKY.ra.deg,
        "DELTA_J2000": SKY.dec.deg,
        "FLUX_AUTO": FLUX,
        "FLUXERR_AUTO": FLUX / 10,
        "FLAGS": np.zeros(N, dtype=int),
        "CLASS_STAR": np.ones(N),
    }


def tractor() -> dict[str, Any]:
    return {
        "objid": np.arange(N),
        "ra": SKY.ra.deg,
        "dec": SKY.dec.deg,
        "type": np.array(["PSF", "EXP", "DEV", "SER", "PSF", "REX", "PSF ", "PSF"]),
        "brick_primary": np.ones(N, dtype=bool),
        "flux_g": FLUX,
        "flux_ivar_g": 100 / FLUX**2,
        "flux_r": FLUX * 2,
        "flux_ivar_r": 25 / FLUX**2,
        "shape_r": np.ones(N),
        "shape_e1": np.full(N, 0.2),
        "shape_e2": np.zeros(N),
    }


def write(columns: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: pa.array(np.asarray(c).tolist()) for name, c in columns.items()}), path)
    else:
        Table(columns).write(path, overwrite=True)
    return path


def read(path: Path, context: ImageContext, **given: Any) -> Detections:
    return read_detections(path, RecoveryCatalogs(injected="x", **given), context)


def at(found: Detections, sky: SkyCoord = SKY) -> float:
    """Largest distance from where the detections are, arcsec."""
    assert len(found) == len(sky)
    return float(SkyCoord(found.ra, found.dec, unit="deg").separation(sky).arcsec.max())


MAKERS = {"lsst": lsst_object, "sextractor": sextractor, "tractor": tractor}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.randoms(use_true_random=False), st.sampled_from([".parquet", ".fits"]))
def test_order_of_columns_and_format_do_not_matter(
    context: ImageContext, tmp_path: Path, kind: str, random: Any, suffix: str
) -> None:
    columns = MAKERS[kind]() | {"my_column": np.zeros(N)}
    names = list(columns)
    random.shuffle(names)
    found = read(write({name: columns[name] for name in names}, tmp_path / f"cat{suffix}"), context)
    assert found.kind == kind and at(found) < 1e-6
    expected = {"lsst": FLUX * 1.2, "sextractor": FLUX, "tractor": FLUX * 2 * 10 ** (0.4 * (31.4 - 22.5))}[kind]
    assert np.allclose(found.fluxes["cal"].value, expected, rtol=1e-4)
    assert np.allclose(found.fluxes["cal"].error / found.fluxes["cal"].value,
                       {"lsst": 1 / 9.6, "sextractor": 0.1, "tractor": 0.1}[kind])  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_each_kind_is_one(kind: str, tmp_path: Path) -> None:
    columns = MAKERS[kind]()
    raw = open_raw(write(columns, tmp_path / "cat.parquet"))
    assert recognise(raw).name == kind
    assert [one.name for one in KINDS.values() if not one.missing(frozenset(raw.names))] == [kind]


def test_lsst_object_table(context: ImageContext, tmp_path: Path) -> None:
    columns = lsst_object()
    columns["detect_isPrimary"] = np.arange(N) != 3
    found = read(write(columns, tmp_path / "cat.parquet"), context)
    assert found.counts == {"rows": 8, "not primary": 1} and len(found) == 7
    assert found.id[0] == 1 << 60
    assert {k: f.column for k, f in found.fluxes.items()} == {
        "cal": "r_ap12Flux", "psf": "r_psfFlux", "model": "r_cModelFlux", "ap_12": "r_ap12Flux"
    }  # fmt: skip
    assert all(flux.unit == "nJy" for flux in found.fluxes.values())
    assert found.class_star[:2].tolist() == [1.0, 0.0]
    # Without an aperture of the calibration's radius, the model stands for it.
    less = {k: v for k, v in columns.items() if "ap12" not in k}
    assert read(write(less, tmp_path / "less.parquet"), context).fluxes["cal"].column == "r_cModelFlux"
    with pytest.raises(CatalogError, match=r"no fluxes of band 'z'.* there are those of i, r"):
        read(tmp_path / "cat.parquet", context, band="z")


def test_lsst_source_table_of_a_visit(context: ImageContext, tmp_path: Path) -> None:
    columns = {
        "sourceId": np.arange(2 * N), "visit": np.repeat([77, 78], N), "detector": np.full(2 * N, 3),
        "ra": np.tile(SKY.ra.deg, 2), "dec": np.tile(SKY.dec.deg, 2), "psfFlux": np.tile(FLUX, 2),
        "psfFluxErr": np.tile(FLUX, 2), "apFlux_12_0_instFlux": np.tile(FLUX, 2),
        "deblend_nChild": (np.arange(2 * N) == 0).astype(int),
        "sky_source": np.arange(2 * N) == 1, "ixx": np.full(2 * N, 4.0), "iyy": np.full(2 * N, 1.0),
        "ixy": np.zeros(2 * N), "band": ["r"] * (2 * N),
    }  # fmt: skip
    found = read(write(columns, tmp_path / "cat.parquet"), context)
    assert found.counts == {"rows": 16, "of another visit": 8, "sky objects": 1, "deblended parents": 1}
    assert found.fluxes["cal"].unit == "image" and found.id.tolist() == list(range(2, N))
    # The longer axis is along x, which is east-west; sigma 2 and 1 pixels of 0.2 arcsec.
    assert np.allclose(found.axis_ratio, 0.5) and np.allclose(found.position_angle, 90.0, atol=0.1)
    assert np.allclose(found.fwhm, 2.3548 * 0.2 * np.sqrt(2.0), rtol=1e-4)
    columns["visit"][:] = 5
    with pytest.raises(CatalogError, match=r"no row has visit 77.* there are 5"):
        read(write(columns, tmp_path / "other.parquet"), context)


def test_tractor(context: ImageContext, tmp_path: Path) -> None:
    columns = tractor()
    columns["brick_primary"][0] = False
    columns["type"][1] = "DUP"
    columns["flux_ivar_r"][2] = 0.0
    found = read(write(columns, tmp_path / "tractor.fits"), context)
    assert found.counts == {"rows": 8, "of type DUP": 1, "not brick_primary": 1} and len(found) == 6
    assert np.isnan(found.fluxes["cal"].value[0]) and found.class_star.tolist() == [0, 0, 1, 0, 1, 1]
    # e = 0.2: (1 - e) / (1 + e); along north.
    assert np.allclose(found.axis_ratio[:2], 0.8 / 1.2) and np.allclose(found.position_angle[:2], 0.0)
    assert np.allclose(found.size[:2], np.sqrt(0.8 / 1.2)) and np.isnan(found.size[2])


def test_angles_on_the_pixels_go_before_those_on_the_sky(context: ImageContext, tmp_path: Path) -> None:
    # Source Extractor's own angles on the sky are wrong on images that are turned.
    columns = sextractor() | {"THETA_J2000": np.full(N, 50.0), "THETA_IMAGE": np.zeros(N)}
    assert np.allclose(read(write(columns, tmp_path / "both.fits"), context).position_angle, 90.0, atol=0.1)
    del columns["THETA_IMAGE"]
    assert np.allclose(read(write(columns, tmp_path / "sky.fits"), context).position_angle, 50.0)


@pytest.mark.parametrize("suffix", [".ecsv", ".fits"])
def test_units_of_positions(context: ImageContext, tmp_path: Path, suffix: str) -> None:
    mapped = {"columns": {"ra": "a", "dec": "d", "mag": "m"}}
    degrees = {"a": SKY.ra.deg, "d": SKY.dec.deg, "m": FLUX}
    assert at(read(write(degrees, tmp_path / f"deg{suffix}"), context, **mapped)) < 1e-6
    radians = {"a": SKY.ra.rad * u.rad, "d": SKY.dec.rad * u.rad, "m": FLUX}
    assert at(read(write(radians, tmp_path / f"rad{suffix}"), context, **mapped)) < 1e-6
    plain = write({"a": SKY.ra.rad, "d": SKY.dec.rad, "m": FLUX}, tmp_path / f"plain{suffix}")
    with pytest.raises(CatalogError, match="a and d in radians") as caught:
        read(plain, context, **mapped)
    assert "units: {a: rad, d: rad}" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert at(read(plain, context, units={"a": "rad", "d": "rad"}, **mapped)) < 1e-6
    hours = write({"a": SKY.ra.hour, "d": SKY.dec.deg, "m": FLUX}, tmp_path / f"hours{suffix}")
    with pytest.raises(CatalogError, match="a in hours"):
        read(hours, context, **mapped)
    with pytest.raises(CatalogError, match="is in s, which is no angle"):
        read(write({"a": SKY.ra.deg * u.s, "d": SKY.dec.deg, "m": FLUX}, tmp_path / f"s{suffix}"), context, **mapped)
    with pytest.raises(CatalogError, match=r"a = 5\d+ degrees, which no position has"):
        read(write(degrees | {"a": SKY.ra.arcsec}, tmp_path / f"as{suffix}"), context, **mapped)


@pytest.mark.parametrize(
    ("frame", "cards", "given"),
    [
        (FK5(equinox="J2000"), {"RADESYS": "FK5"}, {}),
        (FK5(equinox="J2015.5"), {"RADESYS": "FK5", "EQUINOX": 2015.5}, {}),
        (FK4(equinox="B1950"), {"EQUINOX": 1950.0}, {}),
        (FK4(equinox="B1950"), {}, {"frame": "fk4"}),
        (Galactic(), {}, {"frame": "galactic"}),
        (SKY.frame, {"RADESYS": "ICRS", "EQUINOX": 2000.0}, {}),
    ],
)
def test_frames(
    context: ImageContext, tmp_path: Path, frame: Any, cards: dict[str, Any], given: dict[str, Any]
) -> None:
    there = SKY.transform_to(frame).spherical
    table = Table({"a": there.lon.deg, "d": there.lat.deg, "m": FLUX})
    hdu = fits.table_to_hdu(table)
    hdu.header.update(cards)
    hdu.writeto(tmp_path / "cat.fits")
    found = read(tmp_path / "cat.fits", context, columns={"ra": "a", "dec": "d", "mag": "m"}, **given)
    assert at(found) < 1e-3
    if cards.get("RADESYS"):
        with pytest.raises(CatalogError, match="frame: says galactic"):
            read(tmp_path / "cat.fits", context, columns={"ra": "a", "dec": "d"}, frame="galactic")


def test_unknown_frame(context: ImageContext, tmp_path: Path) -> None:
    hdu = fits.table_to_hdu(Table(sextractor()))
    hdu.header["RADESYS"] = "GAPPT"
    hdu.writeto(tmp_path / "cat.fits")
    with pytest.raises(CatalogError, match="frame 'GAPPT'; known are ICRS"):
        read(tmp_path / "cat.fits", context)


def test_old_columns_of_source_extractor(context: ImageContext, tmp_path: Path) -> None:
    old = SKY.transform_to(FK4(equinox="B1950"))
    columns = {k: v for k, v in sextractor().items() if "2000" not in k}
    found = read(write(columns | {"ALPHA_B1950": old.ra.deg, "DELTA_B1950": old.dec.deg}, tmp_path / "c.fits"), context)
    assert at(found) < 1e-3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.permutations(range(N + 3)), st.floats(0.0, 0.15))
def test_duplicates_are_reduced_whatever_their_order(
    context: ImageContext, tmp_path: Path, order: list[int], gap: float
) -> None:
    """Three objects are there twice, a little apart and fainter: the brighter ones stay."""
    columns = {
        "id": np.r_[np.arange(N), 100, 101, 102],
        "a": np.r_[SKY.ra.deg, SKY.ra.deg[:3]],
        "d": np.r_[SKY.dec.deg, SKY.dec.deg[:3] + gap / 3600],
        "f": np.r_[FLUX, FLUX[:3] - 1.0],
    }
    path = write({k: v[order] for k, v in columns.items()}, tmp_path / "cat.fits")
    mapped = {"columns": {"ra": "a", "dec": "d", "flux": "f", "id": "id"}}
    found = read(path, context, **mapped)
    assert sorted(found.id.tolist()) == list(range(N)) and found.counts["duplicates"] == 3
    assert len(read(path, context, duplicate_arcsec=0, **mapped)) == N + 3


def test_column_map(context: ImageContext, tmp_path: Path) -> None:
    columns = {
        "RAdeg": SKY.ra.deg,
        "DEdeg": SKY.dec.deg,
        "F": FLUX * u.uJy,
        "Ferr": FLUX / 10 * u.uJy,
        "hl": FLUX * u.pix,
    }
    path = write(columns, tmp_path / "cat.ecsv")
    found = read(path, context, columns={"ra": "RAdeg", "dec": "DEdeg", "flux": "F", "error": "Ferr", "size": "hl"})
    assert found.fluxes["cal"].unit == "nJy" and np.allclose(found.fluxes["cal"].value, 1000 * FLUX)
    assert np.allclose(found.size, FLUX * 0.2, rtol=1e-4)
    with pytest.raises(CatalogError, match="no column 'RADeg'") as caught:
        read(path, context, columns={"ra": "RADeg", "dec": "DEdeg"})
    assert "Did you mean 'RAdeg'?" in str(caught.value)
    with pytest.raises(CatalogError, match="F is in uJy, and zeropoint: is given"):
        read(path, context, zeropoint=25.0, columns={"ra": "RAdeg", "dec": "DEdeg", "flux": "F"})
    with pytest.raises(CatalogError, match="cannot be converted"):
        read(write(columns | {"F": FLUX * u.m}, tmp_path / "m.ecsv"), context,
             columns={"ra": "RAdeg", "dec": "DEdeg", "flux": "F"})  # fmt: skip


def test_unknown_columns_are_named(context: ImageContext, tmp_path: Path) -> None:
    path = write({"ALPHA_2000": SKY.ra.deg, "DELTA_2000": SKY.dec.deg, "MAG_AUT": FLUX}, tmp_path / "cat.fits")
    with pytest.raises(CatalogError, match="no catalogue that is known") as caught:
        read(path, context)
    text = str(caught.value)
    assert "the nearest is ALPHA_2000" in text and "coord_ra" in text and "flux_ivar_*" in text and "columns:" in text
    with pytest.raises(CatalogError, match="no catalogue of kind tractor"):
        read(path, context, kind="tractor")
    both = write(sextractor() | lsst_object(), tmp_path / "both.parquet")
    with pytest.raises(CatalogError, match="several kinds of catalogues: lsst, sextractor"):
        read(both, context)
    assert read(both, context, kind="sextractor").kind == "sextractor"


def test_files_that_are_none(context: ImageContext, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such catalogue"):
        read(tmp_path / "none.cat", context)
    (tmp_path / "empty.cat").touch()
    with pytest.raises(CorruptFileError, match="empty"):
        read(tmp_path / "empty.cat", context)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SkygraftError):
        read(tmp_path / "folder", context)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(CorruptFileError):
        read(tmp_path / "bad.parquet", context)
    (tmp_path / "text.cat").write_text("hello\n")
    with pytest.raises(CatalogError, match="the ending is none of"):
        read(tmp_path / "text.cat", context)


def test_values_that_are_no_measurement_are_missing(context: ImageContext, tmp_path: Path) -> None:
    """Infinite fluxes would make every mean of them infinite; a place that is infinite is none."""
    columns = tractor() | {"flux_r": np.r_[np.inf, -np.inf, FLUX[2:]], "ra": np.r_[SKY.ra.deg[:-1], np.inf]}
    found = read(write(columns, tmp_path / "cat.fits"), context)
    assert found.counts["without position"] == 1 and len(found) == N - 1
    assert np.isnan(found.fluxes["cal"].value[:2]).all() and np.isfinite(found.fluxes["cal"].value[2:]).all()


def test_names_of_columns_that_are_no_text(context: ImageContext, tmp_path: Path) -> None:
    path = write(lsst_object(), tmp_path / "cat.parquet")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"r_cModelFlux", b"\xff_cModelFlux"))
    with pytest.raises(CorruptFileError, match="not a readable Parquet file"):
        read(path, context)


def test_columns_that_the_chosen_kind_lacks(context: ImageContext, tmp_path: Path) -> None:
    columns = {k: v for k, v in tractor().items() if k != "flux_r"}
    with pytest.raises(CatalogError, match="no column 'flux_r'"):
        read(write(columns, tmp_path / "cat.parquet"), context)
    (tmp_path / "head.cat").write_text(
        "#   0 NUMBER  x\n#   1 ALPHA_J2000  x [deg]\n#   2 DELTA_J2000  x [deg]\n1 2 3\n"
    )
    with pytest.raises(CorruptFileError, match="numbers columns"):
        read(tmp_path / "head.cat", context)


def test_no_detections_is_not_an_error(context: ImageContext, tmp_path: Path) -> None:
    found = read(write({k: v[:0] for k, v in sextractor().items()}, tmp_path / "cat.fits"), context)
    assert len(found) == 0 and found.counts == {"rows": 0}
    elsewhere = sextractor() | {"ALPHA_J2000": SKY.ra.deg + 1.0}
    with pytest.raises(CatalogError, match="none of its 8 detections lies on the image one"):
        read(write(elsewhere, tmp_path / "far.fits"), context)


def test_folder_of_tracts(context: ImageContext, tmp_path: Path) -> None:
    """Tracts overlap: objects of both are one; other tracts' are not of this image."""
    columns = {k: v for k, v in lsst_object().items() if k != "detect_isPrimary"}
    for tract, shift in ((1, 0.0), (2, 0.0), (3, 20.0)):
        folder = tmp_path / "objects" / f"tract={tract}"
        folder.mkdir(parents=True)
        write(columns | {"coord_ra": SKY.ra.deg + shift}, folder / "part.parquet")
    found = read(tmp_path / "objects", context)
    assert at(found) < 1e-6 and found.counts == {"rows": 24, "off the image": 8, "duplicates": 8}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"injected": "a/{visti}.cat"}, "{visti} stands for nothing"),
        ({"injected": "a/{.cat"}, "not a path with names in braces"),
        ({"injected": "a", "original": "a"}, "same catalogue"),
        ({"injected": "a/{patch:1000000000d}.cat"}, "is not a form of a name"),
        ({"injected": "a/{patch:{visit}}.cat"}, "is not a form of a name"),
        ({"injected": "a", "kind": "columns"}, "needs columns:"),
        ({"injected": "a", "kind": "lsst", "columns": {"ra": "a", "dec": "b"}}, "applies to kind: columns"),
        ({"injected": "a", "columns": {"ra": "a"}}, "ra and dec belong together"),
        ({"injected": "a", "columns": {"ra": "a", "dec": "b", "mag": "m", "flux": "f"}}, "not both"),
        ({"injected": "a", "columns": {"mag": "m"}}, "name the columns of positions"),
    ],
)
def test_settings_that_do_not_fit(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RecoveryCatalogs(**given)
    assert said in str(caught.value)


@needs_data
@pytest.mark.data
def test_real_afw_catalogue_in_four_forms() -> None:
    """LSST's pipelines wrote the same two sources as FITS with aliases, and as three Parquet tables."""
    exposure = read_exposure(DATA / "calexp-849375-12.fits.fz")
    context = ImageContext("calexp", exposure, "r", 849375, "12", 12.0, "aperture")
    found = {name: read(DATA / name, context) for name in ("SRC-849375-12.fits", "SRC-849375-12.parq",
                                                           "sourceTable-849375-12.parq")}  # fmt: skip
    assert [one.kind for one in found.values()] == ["afw", "afw", "lsst"]
    first, *others = found.values()
    assert first.fluxes["cal"].column == "base_CircularApertureFlux_12_0_flux"
    with fits.open(DATA / "SRC-849375-12.fits") as hdus:
        row = hdus[1].data
        assert np.array_equal(first.fluxes["cal"].value, row["base_CircularApertureFlux_12_0_flux"])
        assert np.allclose(first.ra, np.degrees(row["coord_ra"])) and np.array_equal(first.id, row["id"])
    for other in others:
        assert np.allclose(other.ra, first.ra, atol=1e-9) and np.allclose(other.dec, first.dec, atol=1e-9)
        assert np.allclose(other.fluxes["cal"].value, first.fluxes["cal"].value)
        assert np.allclose(other.fwhm, first.fwhm) and np.array_equal(other.class_star, [1, 0])
        assert np.array_equal(other.id, first.id)
    # Their positions are of an earlier WCS than that of the image.
    table = pq.read_table(DATA / "sourceTable-849375-12.parq", columns=["x", "y"])
    x, y = context.pixels(first.ra, first.dec)
    assert np.allclose(x, table["x"], atol=1.0) and np.allclose(y, table["y"], atol=1.0)
    assert len(read(DATA / "src.fits", context)) == 0
    assert isinstance(exposure.photo_calib, PhotoCalib)


@pytest.mark.parametrize("ra", [0.0005, 150.1, 300.0, 359.9999])
@pytest.mark.parametrize("signed", [False, True])
def test_only_the_sky_near_the_image_is_read(tmp_path: Path, ra: float, signed: bool) -> None:
    """Of a large table; right ascensions may be counted from -180, and the image may lie across 0."""
    path = write_plain_image(tmp_path / "one.fits", ra, DEC, 256)
    exposure = read_exposure(path, psf={"kind": "moffat", "fwhm": "0.8 arcsec"})
    context = ImageContext("one", exposure, "r", None, None, 12.0, "aperture")
    sky = SkyCoord((ra + (SKY.ra.deg - RA)) % 360.0, SKY.dec.deg, unit="deg")
    lon = sky.ra.wrap_at(180 * u.deg).deg if signed else sky.ra.deg
    far = {"coord_ra": np.linspace(0, 359, 500), "coord_dec": np.linspace(-80, 80, 500)}
    columns = {
        "coord_ra": np.r_[far["coord_ra"], lon],
        "coord_dec": np.r_[far["coord_dec"], sky.dec.deg],
        "r_psfFlux": np.r_[np.ones(500), FLUX],
    }
    file = write(columns, tmp_path / "cat.parquet")
    found = read_detections(file, RecoveryCatalogs(injected="x"), context, box=sky_box(context))
    assert at(found, sky) < 1e-6 and found.counts["rows"] < 20


def test_paths_of_images(tmp_path: Path) -> None:
    class Image:
        image_id, stem, output, visit, detector, band = "cam/5:1", "cam-5-1", "night1/exp_5.fits.fz", 5, None, "r"
        instrument, tract, patch = "cam", 9813, 41

    image: Any = Image()
    for template, path in {
        "/c/{folder}/{file}.cat": "/c/night1/exp_5.cat",
        "/c/{tract}/{patch:03d}/{band}.parquet": "/c/9813/041/r.parquet",
        "/c/{visit:07d}.fits": "/c/0000005.fits",
        "/c/all.parquet": "/c/all.parquet",
        "/c/{stem}.ecsv": "/c/cam-5-1.ecsv",
    }.items():
        assert catalog_path(template, image) == Path(path)
    with pytest.raises(CatalogError, match="has no detector"):
        catalog_path("/c/{detector}.cat", image)
    with pytest.raises(CatalogError, match="cannot be filled in"):
        catalog_path("/c/{band:03d}.cat", image)
