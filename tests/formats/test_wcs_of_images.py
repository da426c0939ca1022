"""The WCS of an image file, from end to end: index, read, inject, campaign and output say the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from kits.wcs_kit import (
    CD,
    PLATE,
    SCALE,
    SIP,
    Surface,
    cards,
    cd_cards,
    gnomonic,
    header,
    iraf_cards,
    on_the_sky,
    plane,
    plate_sky,
    zenithal,
)
from skygraft.campaign import Campaign, parse_config
from skygraft.catalog import write_catalog
from skygraft.errors import FormatError, MissingWcsError, WcsError
from skygraft.exposure import add_mask_plane
from skygraft.formats import read_calibration, read_exposure, read_footprint, write_exposure
from skygraft.render.stamp_files import read_stamp
from skygraft.survey import index_images

NX, NY = 120, 100
CALIB = {"MAGZERO": 27.0, "EXPTIME": 100.0, "GAIN": 2.0, "CCDNUM": 3, "INSTRUME": "cam", "FILTER": "r", "CALAPRAD": 8.0}
REFERENCE = (60.0, 50.0)
OFFSETS = np.array([[1000.0 - REFERENCE[0]], [900.0 - REFERENCE[1]]])
"""What the kit's reference pixel is further away than that of these small images."""

COS, SIN = np.cos(np.radians(30)), np.sin(np.radians(30))
LNGCOR, LATCOR = Surface(3, (3, 3), 2, 1, size=2e-5), Surface(1, (4, 4), 2, 2, size=2e-5)


def tnx(points: np.ndarray) -> np.ndarray:
    xi, eta = plane(points + OFFSETS)
    return gnomonic(xi + LNGCOR(xi, eta), eta + LATCOR(xi, eta))


def zpx(points: np.ndarray) -> np.ndarray:
    xi, eta = plane(points + OFFSETS)
    return zenithal(xi + LNGCOR(xi, eta), eta + LATCOR(xi, eta), (0, 1, 0, 337.74))


def old_pc(points: np.ndarray) -> np.ndarray:
    return gnomonic(*plane(points + OFFSETS, np.diag([-SCALE, SCALE]) @ [[COS, -SIN], [SIN, COS]]))


KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "PC001001": (
        cards(CDELT1=-SCALE, CDELT2=SCALE, PC001001=COS, PC001002=-SIN, PC002001=SIN, PC002002=COS),
        old_pc,
    ),
    "TNX": (iraf_cards("TNX", LNGCOR, LATCOR), tnx),
    "ZPX": (iraf_cards("ZPX", LNGCOR, LATCOR, "projp1=1. projp3=337.74 "), zpx),
    "plate": (cards(**cd_cards()) | PLATE, plate_sky),
    "ZPN by PROJP": (
        cards(CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", **cd_cards(), PROJP1=1.0, PROJP3=337.74),
        lambda points: zenithal(*plane(points + OFFSETS), (0, 1, 0, 337.74)),
    ),
    "DEG": (cards(**cd_cards(), CUNIT1="DEG", CUNIT2="DEG"), lambda points: gnomonic(*plane(points + OFFSETS))),
}


def write_image(
    path: Path, wcs: dict[str, Any], *, shape: tuple[int, ...] = (NY, NX), lines: tuple[str, ...] = (), **more: Any
) -> Path:
    """An image, its header given as a file has it: further cards may be no FITS."""
    moved = {"CRPIX1": REFERENCE[0], "CRPIX2": REFERENCE[1]}
    made = header({k: v for k, v in wcs.items() if not k.startswith("NAXIS")} | moved, CALIB, {"EXPNUM": 7} | more)
    hdu = fits.PrimaryHDU(np.random.default_rng(1).normal(0, 5, shape).astype(np.float32))
    text = "".join(str(card) for card in (*hdu.header.cards, *made.cards))
    text += "".join(line.ljust(80) for line in (*lines, "END"))
    pixels = hdu.data.astype(">f4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        text.ljust(-(-len(text) // 2880) * 2880).encode() + pixels.ljust(-(-len(pixels) // 2880) * 2880, b"\0")
    )
    return path


def header_cards(path: Path, hdu: int = 0) -> list[str]:
    """Raw cards of an HDU as they are in the file."""
    with fits.open(path) as hdus:
        start = hdus.fileinfo(hdu)["hdrLoc"] if hdu else 0
    raw = path.read_bytes()[start:]
    found = []
    for i in range(0, len(raw), 80):
        card = raw[i : i + 80].decode("ascii")
        if card.startswith("END "):
            return found
        found.append(card)
    raise AssertionError(path)


def changed_pixel(path: Path, out: Path) -> None:
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[3, 4] += 1000
    planes["mask"].values[3, 4] |= 1 << add_mask_plane(planes, "INJECTED")
    write_exposure(exposure.replace(planes=planes), out)


@pytest.mark.parametrize("kind", KINDS)
def test_footprint_calibration_exposure_and_output_lie_at_the_same_place(tmp_path: Path, kind: str) -> None:
    wcs, sky = KINDS[kind]
    path = write_image(tmp_path / "a.fits", wcs)
    points = np.array([[-0.5, NX - 0.5, NX - 0.5, -0.5], [-0.5, -0.5, NY - 0.5, NY - 0.5]])
    expected = sky(points)
    assert on_the_sky(read_footprint(path).corners[::8].T, expected) < 1e-9
    for found in (read_exposure(path).wcs, read_calibration(path).wcs):
        assert on_the_sky(np.array(found.pixel_to_world_values(*points)), expected) < 1e-9
        np.testing.assert_allclose(found.world_to_pixel_values(*expected), points, rtol=0, atol=1e-6)
    changed_pixel(path, tmp_path / "b.fits")
    before, after = header_cards(path), header_cards(tmp_path / "b.fits")
    assert [card for card in after if not card.startswith("INJECTED")] == before
    assert on_the_sky(read_footprint(tmp_path / "b.fits").corners[::8].T, expected) < 1e-9


def test_a_campaign_draws_where_the_header_says(tmp_path: Path) -> None:
    """The truth's pixels are those of independent formulas, image by image."""
    rng = np.random.default_rng(3)
    wanted = rng.uniform(20, 80, (2, 4))
    tables = []
    for visit, (kind, (wcs, sky)) in enumerate(KINDS.items()):
        write_image(tmp_path / f"raw/{visit}.fits", wcs, EXPNUM=visit)
        ra, dec = sky(wanted)
        tables.append((kind, visit, ra, dec))
    n = len(tables) * wanted.shape[1]
    stars = QTable(
        {
            "injection_id": np.arange(n),
            "ra": np.concatenate([t[2] for t in tables]),
            "dec": np.concatenate([t[3] for t in tables]),
            "visit": np.repeat(np.arange(len(tables)), wanted.shape[1]),
            "source_type": ["Star"] * n,
            "mag_r": np.full(n, 18.0),
        }
    )
    write_catalog(stars, tmp_path / "fakes.parquet")
    config = {
        "name": "places",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    campaign = Campaign(parse_config(config, base_dir=tmp_path))
    assert campaign.plan().problems == ()
    assert campaign.run(n_workers=0).ok
    truth = pq.read_table(tmp_path / "out/truth").to_pandas().sort_values("injection_id")
    assert truth["injection_id"].tolist() == list(range(n))
    np.testing.assert_allclose(truth["x"], np.tile(wanted[0], len(tables)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(truth["y"], np.tile(wanted[1], len(tables)), rtol=0, atol=1e-5)
    index = index_images({"images": "raw/*.fits"}, tmp_path)
    for row, (_, sky) in zip(sorted(index, key=lambda r: r["visit"]), KINDS.values(), strict=True):
        centre = sky(np.array([[(NX - 1) / 2], [(NY - 1) / 2]]))
        assert on_the_sky(np.array([[row["ra"]], [row["dec"]]]), centre) < 1e-9


ODD_LINES = ("AIRMASS =                  NaN", "SEEING  =                  nan / arcsec", "FOCUS   =", "TEMP    = 1,5")


def test_cards_that_are_no_fits_and_no_wcs_stop_nothing(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", cards(**cd_cards()), lines=ODD_LINES)
    assert any(card.startswith(ODD_LINES[0]) for card in header_cards(path))
    points = np.array([[0.0, 100.0], [0.0, 90.0]])
    exposure = read_exposure(path)
    expected = gnomonic(*plane(points + OFFSETS))
    assert on_the_sky(np.array(exposure.wcs.pixel_to_world_values(*points)), expected) < 1e-9
    assert exposure.header["AIRMASS"] == "NaN" and exposure.header["MAGZERO"] == 27.0
    assert exposure.photo_calib is not None and read_footprint(path).shape == (NY, NX)
    changed_pixel(path, tmp_path / "b.fits")
    assert [c for c in header_cards(tmp_path / "b.fits") if not c.startswith("INJECTED")] == header_cards(path)


@pytest.mark.parametrize("compression", [None, "RICE_1", "GZIP_2"])
@pytest.mark.parametrize("further", [(1,), (1, 1)])
def test_images_of_one_plane_keep_their_shape(
    tmp_path: Path, further: tuple[int, ...], compression: str | None
) -> None:
    wcs = cards(**cd_cards(), **SIP, CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=1.0, CD3_3=1e6, CUNIT3="Hz")
    path = write_image(tmp_path / "a.fits", wcs, shape=(*further, NY, NX))
    if compression:
        with fits.open(path) as hdus:
            options = {"quantize_level": 0.0} if compression == "GZIP_2" else {}
            packed = fits.CompImageHDU(
                hdus[0].data, hdus[0].header, name="SCI", compression_type=compression, **options
            )
        path = tmp_path / "a.fits.fz"
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    flat = np.squeeze(fits.getdata(path, "SCI" if compression else 0))
    exposure = read_exposure(path)
    np.testing.assert_array_equal(exposure.image, flat)
    assert read_footprint(path).shape == exposure.shape == (NY, NX)
    points = np.array([[0.0, 100.0], [0.0, 90.0]])
    u, v = points + 1 - np.array(REFERENCE)[:, None]
    bent = points + np.array([2e-6 * u**2 + 1e-6 * u * v, 1e-6 * v**2])
    assert on_the_sky(np.array(exposure.wcs.pixel_to_world_values(*points)), gnomonic(*plane(bent + OFFSETS))) < 1e-9
    out = tmp_path / ("b.fits.fz" if compression else "b.fits")
    changed_pixel(path, out)
    with fits.open(out) as hdus:
        hdu = hdus["SCI" if compression else 0]
        assert hdu.shape == (*further, NY, NX)
        written = np.squeeze(hdu.data)
    assert written[3, 4] == pytest.approx(flat[3, 4] + 1000, abs=1)
    written[3, 4] = flat[3, 4]
    np.testing.assert_array_equal(written, flat)
    np.testing.assert_array_equal(read_exposure(out).mask.nonzero(), ([3], [4]))


def test_planes_of_noise_and_mask_may_have_the_further_axis_or_not(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", cards(**cd_cards()), shape=(1, NY, NX))
    fits.writeto(tmp_path / "a.weight.fits", np.full((NY, NX), 0.25, np.float32))
    fits.writeto(tmp_path / "a.mask.fits", np.zeros((1, 1, NY, NX), np.int16))
    exposure = read_exposure(path)
    assert exposure.variance is not None and (exposure.variance == 4).all()
    changed_pixel(path, tmp_path / "b.fits")
    assert fits.getdata(tmp_path / "b.fits").shape == (1, NY, NX)
    assert fits.getdata(tmp_path / "b.mask.fits").shape == (1, 1, NY, NX)


def test_a_shape_that_is_none_is_told_as_it_is(tmp_path: Path) -> None:
    cube = write_image(tmp_path / "cube.fits", cards(**cd_cards()), shape=(3, NY, NX))
    with pytest.raises(FormatError, match="no two-dimensional image; its HDUs are 0 PRIMARY: 120x100x3 image"):
        read_exposure(cube, format="fits")
    with pytest.raises(FormatError, match=r"HDU 0 holds no two-dimensional image, but one of 3 dimensions"):
        read_exposure(cube, format="fits", hdu=0)
    mask = fits.ImageHDU(np.zeros((NY, NX), np.int16), header(cards(**cd_cards())), name="MASK")
    other = fits.ImageHDU(np.ones((NY, NX), np.float32), header(cards(**cd_cards())), name="WHT")
    fits.HDUList([fits.PrimaryHDU(), mask, other]).writeto(tmp_path / "mask.fits")
    with pytest.raises(FormatError, match=r"1 MASK: 120x100 image; 2 WHT") as caught:
        read_exposure(tmp_path / "mask.fits")
    assert "two-dimensional" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_footprint, read_exposure, read_calibration])
@pytest.mark.parametrize(
    ("wcs", "error", "words"),
    [
        (cards(), WcsError, "neither CDELT nor a CD matrix"),
        (cards(CTYPE1="RA---TNX", CTYPE2="DEC--TNX", **cd_cards()), WcsError, "no WAT1_001"),
        (cards(CRVAL1=None, **cd_cards()), WcsError, "no CRVAL1"),
        (
            {f"{key}A": value for key, value in cards(**cd_cards()).items() if not key.startswith("NAXIS")},
            MissingWcsError,
            "alternate description A",
        ),
    ],
    ids=["no scale", "no WAT", "no CRVAL1", "alternates only"],
)
def test_index_and_read_refuse_alike(tmp_path: Path, reader: Any, wcs: dict[str, Any], error: type, words: str) -> None:
    path = write_image(tmp_path / "a.fits", wcs)
    with pytest.raises(error, match=words) as caught:
        reader(path)
    assert caught.value.path == str(path)


def with_extension(path: Path, primary: dict[str, Any], extension: dict[str, Any]) -> Path:
    first = fits.PrimaryHDU(header=header(primary))
    second = fits.ImageHDU(np.zeros((NY, NX), np.float32), header(extension, CALIB), name="SCI")
    fits.HDUList([first, second]).writeto(path)
    return path


def test_an_extension_may_leave_its_wcs_to_the_primary_header(tmp_path: Path) -> None:
    """Card by card as it is there: blanks at the ends of WAT cards count, and NaN elsewhere does not."""
    whole = iraf_cards("TNX", LNGCOR, LATCOR) | {"CRPIX1": REFERENCE[0], "CRPIX2": REFERENCE[1]}
    whole = {key: value for key, value in whole.items() if not key.startswith("NAXIS")}
    points = np.array([[0.0, 100.0], [0.0, 90.0]])
    path = with_extension(tmp_path / "a.fits", whole, {})
    assert on_the_sky(np.array(read_exposure(path).wcs.pixel_to_world_values(*points)), tnx(points)) < 1e-9
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"WAT0_001= 'system=image'", b"AIRMASS =            NaN"))
    assert on_the_sky(np.array(read_exposure(path).wcs.pixel_to_world_values(*points)), tnx(points)) < 1e-9


@pytest.mark.parametrize("inherit", [True, False])
def test_the_frame_of_an_extension_that_inherits(tmp_path: Path, inherit: bool) -> None:
    own = cards(**cd_cards(), INHERIT=inherit) | {"CRPIX1": REFERENCE[0], "CRPIX2": REFERENCE[1]}
    path = with_extension(tmp_path / "a.fits", {"EQUINOX": 1950.0}, own)
    ra, _ = read_exposure(path).wcs.pixel_to_world_values(REFERENCE[0] - 1, REFERENCE[1] - 1)
    # From B1950 to ICRS, right ascension grows by 0.64 degrees there.
    assert (float(ra) - 150.0 > 0.6) is inherit
    assert (abs(float(ra) - 150.0) < 1e-9) is not inherit


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_lsst_image_without_a_frame_set_lies_where_its_header_says(
    tmp_path: Path, kind: str, compression: str | None
) -> None:
    """In parent pixels: LTV says where the array begins."""
    wcs, sky = KINDS[kind]
    own = {k: v for k, v in wcs.items() if not k.startswith("NAXIS")} | {"LTV1": -10.0, "LTV2": -20.0}
    own |= {"CRPIX1": REFERENCE[0], "CRPIX2": REFERENCE[1], "EXTTYPE": "IMAGE"}
    pixels = np.zeros((NY, NX), np.float32)
    image: Any = fits.ImageHDU(pixels, header(own), name="IMAGE")
    if compression:
        image = fits.CompImageHDU(pixels, header(own), name="IMAGE", compression_type=compression, quantize_level=0.0)
    mask = fits.ImageHDU(np.zeros((NY, NX), np.int32), header({"EXTTYPE": "MASK"}), name="MASK")
    primary = fits.PrimaryHDU(header=header({"FLUXMAG0": 1e10}))
    fits.HDUList([primary, image, mask]).writeto(tmp_path / "calexp.fits")
    exposure = read_exposure(tmp_path / "calexp.fits")
    assert (exposure.format, exposure.xy0) == ("lsst_afw", (10, 20))
    points = np.array([[0.0, 100.0], [0.0, 90.0]])
    parent = points + np.array([[10], [20]])
    assert on_the_sky(np.array(exposure.wcs.pixel_to_world_values(*parent)), sky(points)) < 1e-9
    np.testing.assert_allclose(exposure.wcs.world_to_pixel_values(*sky(points)), parent, rtol=0, atol=1e-6)
    assert on_the_sky(read_footprint(tmp_path / "calexp.fits").corners[:1].T, sky(np.array([[-0.5], [-0.5]]))) < 1e-9


@pytest.mark.parametrize("shape", [(11, 11), (1, 11, 11)])
def test_a_stamp_has_a_direction_and_no_place(tmp_path: Path, shape: tuple[int, ...]) -> None:
    turned = header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}, cd_cards())
    fits.writeto(tmp_path / "stamp.fits", np.ones(shape, np.float32), turned)
    stamp = read_stamp(tmp_path / "stamp.fits")
    assert stamp.image.shape == (11, 11)
    assert stamp.jacobian is not None
    np.testing.assert_allclose(stamp.jacobian, CD * 3600, rtol=0, atol=1e-8)


def lookup_image(path: Path, *, kind: str = "Lookup", tables: int = 4, bend: float = 0.3) -> Path:
    """An image as those of the Hubble Space Telescope: SIP, and tables of further displacements in other HDUs."""
    own = {k: v for k, v in cards(**cd_cards(), **SIP).items() if not k.startswith("NAXIS")}
    made = header(own | {"CRPIX1": REFERENCE[0], "CRPIX2": REFERENCE[1]}, CALIB, {"EXPNUM": 7})
    for axis in (1, 2):
        for name, record in (("CPDIS", "DP"), ("D2IMDIS", "D2IM")):
            made.append((f"{name}{axis}", kind))
            for words in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
                made.append((f"{record}{axis}", words), end=True)
    image = np.random.default_rng(1).normal(0, 5, (NY, NX)).astype(np.float32)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, made, name="SCI")]
    rng = np.random.default_rng(2)
    for i in range(tables):
        grid = {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0, "CDELT1": 20.0, "CDELT2": 20.0}
        table = fits.ImageHDU(rng.normal(0, bend, (6, 7)).astype(np.float32), header(grid))
        table.name, table.ver = ("WCSDVARR" if i < 2 else "D2IMARR"), i % 2 + 1
        hdus.append(table)
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_lookup_tables_in_other_hdus_are_applied(tmp_path: Path) -> None:
    """As astropy does with the whole file; without them positions are off by half a pixel."""
    path = lookup_image(tmp_path / "a.fits")
    points = np.random.default_rng(3).uniform(0, 99, (2, 200))
    with fits.open(path) as hdus:
        expected = np.array(WCS(hdus["SCI"].header, hdus).all_pix2world(*points, 0))
    u, v = points + 1 - np.array(REFERENCE)[:, None]
    bent = points + np.array([2e-6 * u**2 + 1e-6 * u * v, 1e-6 * v**2])
    assert on_the_sky(gnomonic(*plane(bent + OFFSETS)), expected) > 0.5 * SCALE
    exposure = read_exposure(path)
    corners = read_footprint(path).corners
    again = pickle.loads(pickle.dumps(exposure.wcs))
    for wcs in (exposure.wcs, again):
        assert on_the_sky(np.array(wcs.pixel_to_world_values(*points)), expected) < 1e-9
        np.testing.assert_allclose(wcs.world_to_pixel_values(*expected), points, rtol=0, atol=1e-6)
    assert again == exposure.wcs
    assert exposure.wcs != read_exposure(lookup_image(tmp_path / "b.fits", bend=0.2)).wcs
    assert on_the_sky(corners[:1].T, np.array(exposure.wcs.pixel_to_world_values([-0.5], [-0.5]))) < 1e-12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "Polynomial"}, "CPDIS1 = 'Polynomial'"),
        ({"tables": 0}, "CPDIS1 = 'Lookup'"),
        ({"tables": 1}, "cannot be used: .*D2IMARR"),
    ],
)
def test_lookup_tables_that_are_not_there_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = lookup_image(tmp_path / "a.fits", **changes)
    for reader in (read_footprint, read_exposure):
        with pytest.raises(WcsError, match=words) as caught:
            reader(path)
        assert caught.value.path == str(path) and caught.value.hdu == 1
