"""Sound images to damage: small ones of every kind that is read, and real ones cut to their middle."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from fuzz.mutate import split_hdus
from kits.coadd_tiles import write_brick, write_cutout, write_des, write_megapipe
from kits.plain_images import SCALE, plain_header, write_plain_image
from kits.space_images import write_drz, write_flt, write_jwst, write_roman
from kits.survey_frames import CAMCOL, FIELD, RUN, SDSS_NAME, ZTF_NAME, write_psfield, write_sdss_frame, write_ztf_image
from kits.wcs_kit import PLATE, SCAMP, Surface, cards, cd_cards, iraf_cards

SIZE, RA, DEC = 64, 150.1, 2.2
PSF = {"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0}
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

_FWHM = {"plate": "4 arcsec", **dict.fromkeys(("jwst", "roman", "hst"), "0.2 arcsec")}
"""Seeing of images whose pixels are much larger or smaller than those of the others."""

DEAR = {"afw_calexp": 0.3, "coadd_psf": 0.3, "warped_psf": 0.5, "visit_fits": 0.5, "visit_json": 0.5, "legacy": 0.7}
"""How often those that take long are drawn, of what the others are."""


def pixels(size: int = SIZE) -> np.ndarray[Any, Any]:
    """Sky and noise."""
    return np.random.default_rng(7).normal(20, 5, (size, size)).astype(np.float32)


def psfex_hdu() -> fits.BinTableHDU:
    """A small PSFEx model of degree 1: a Gaussian that widens along x."""
    y, x = np.mgrid[-12:13, -12:13] * 0.5
    planes = np.array([np.exp(-(x**2 + y**2) / (2 * s**2)) for s in (1.8, 2.0)])
    planes /= planes[0].sum() * 0.25
    mask = np.stack([planes[0], 0.1 * (planes[1] - planes[0]), 0 * planes[0]]).astype(np.float32)
    column = fits.Column("PSF_MASK", f"{mask.size}E", dim="(25,25,3)", array=mask[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {
        "LOADED": 10, "ACCEPTED": 9, "CHI2": 1.0, "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 32.0,
        "POLSCAL1": 64.0, "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 32.0, "POLSCAL2": 64.0, "POLNGRP": 1,
        "POLDEG1": 1, "PSF_FWHM": 4.2, "PSF_SAMP": 0.5, "PSFNAXIS": 3, "PSFAXIS1": 25, "PSFAXIS2": 25, "PSFAXIS3": 3,
    }  # fmt: skip
    hdu.header.update(cards)
    return hdu


# --- images made here


def _plain(folder: Path, **more: Any) -> str:
    write_plain_image(folder / "image.fits", RA, DEC, SIZE, **more)
    return "image.fits"


def _sip(folder: Path) -> str:
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_1_1": -2e-6}
    return _plain(folder, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **sip)


def _planes(folder: Path) -> str:
    fits.PrimaryHDU(np.full((SIZE, SIZE), 0.04, np.float32)).writeto(folder / "image.weight.fits")
    fits.PrimaryHDU(np.zeros((SIZE, SIZE), np.int16)).writeto(folder / "image.mask.fits")
    fits.HDUList([fits.PrimaryHDU(), psfex_hdu()]).writeto(folder / "image.psf")
    return _plain(folder)


def _extensions(folder: Path, **mask_tiles: Any) -> str:
    """Image, variance and mask as extensions of one file."""
    header = plain_header(RA, DEC, SIZE)
    mask = np.random.default_rng(2).integers(0, 8, (SIZE, SIZE)).astype(np.int16)
    made: list[Any] = [fits.PrimaryHDU(), fits.ImageHDU(pixels(), header, "SCI")]
    made.append(fits.ImageHDU(np.full((SIZE, SIZE), 25.0, np.float32), name="VAR"))
    made.append(fits.CompImageHDU(mask, name="DQ", **mask_tiles) if mask_tiles else fits.ImageHDU(mask, name="DQ"))
    fits.HDUList(made).writeto(folder / "image.fits")
    return "image.fits"


def _tiled(folder: Path, **how: Any) -> str:
    header = plain_header(RA, DEC, SIZE)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels(), header, **how)]).writeto(folder / "image.fits")
    return "image.fits"


def _integers(folder: Path, **scale: Any) -> str:
    """Unsigned integers, or ones scaled by cards."""
    counts = np.random.default_rng(3).integers(900, 1100, (SIZE, SIZE))
    hdu = fits.PrimaryHDU(counts.astype(np.int16 if scale else np.uint16), plain_header(RA, DEC, SIZE))
    hdu.header.update(scale)
    hdu.writeto(folder / "image.fits")
    return "image.fits"


def _projected(folder: Path, wcs: dict[str, Any]) -> str:
    """Another projection: the cards of the tests' kit, with the reference pixel moved into the image."""
    header = plain_header(RA, DEC, SIZE)
    for key in [k for k in header if k.startswith(("CD1_", "CD2_"))]:
        del header[key]
    header.update({k: v for k, v in wcs.items() if not k.startswith("NAXIS")} | {"CRPIX1": 30.0, "CRPIX2": 34.0})
    fits.PrimaryHDU(pixels(), header).writeto(folder / "image.fits")
    return "image.fits"


def _iraf(folder: Path, code: str, radial: str = "") -> str:
    surfaces = Surface(3, (3, 3), 2, 1, size=2e-5), Surface(1, (4, 4), 2, 2, size=2e-5)
    return _projected(folder, iraf_cards(code, *surfaces, radial))


def _sdss(folder: Path) -> str:
    """A frame of SDSS and its field's psField file."""
    write_psfield(folder / f"psField-{RUN:06d}-{CAMCOL}-{FIELD:04d}.fit")
    return write_sdss_frame(folder / SDSS_NAME, (SIZE, SIZE)).name


def _ztf(folder: Path) -> str:
    return write_ztf_image(folder / ZTF_NAME, (SIZE, SIZE)).name


def _calexp(folder: Path) -> str:
    """A calexp and its source catalogue, as the demo writes them."""
    from skygraft.demo.sky import SurveySpec
    from skygraft.demo.survey import make_survey

    spec = SurveySpec(bands=("r",), visits_per_band=1, detector_size=384, star_density=40)
    made = make_survey(folder / "whole", spec)[0].path
    for source in made.parent.glob("SRC*"):
        shutil.copyfile(source, folder / source.name)
    crop(made, folder / made.name)
    shutil.rmtree(folder / "whole")
    return made.name


def _written(folder: Path, source: str) -> str:
    """What the product writes from a sound image, with the checksums that it has."""
    from skygraft import read_exposure, write_exposure

    crop(DATA / source, folder / "before.fits")
    write_exposure(read_exposure(folder / "before.fits"), folder / "image.fits")
    (folder / "before.fits").unlink()
    with fits.open(folder / "image.fits", mode="update", checksum=True) as hdus:
        for hdu in hdus:
            hdu.add_checksum()
    return "image.fits"


# --- real images


def crop(source: Path, target: Path, size: int = SIZE) -> None:
    """Write the middle of an image's planes; every other HDU is copied byte for byte."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    parts = [data[start:end] for start, _, end in split_hdus(data)]
    with fits.open(source) as hdus:
        shape = next(h.shape for h in hdus if h.is_image and len(h.shape) == 2)
        y0, x0 = (max(n - size, 0) // 2 for n in shape)
        shifts = {"CRPIX1": -x0, "LTV1": -x0, "CRPIX2": -y0, "LTV2": -y0, "CRVAL1A": x0, "CRVAL2A": y0}
        for i, hdu in enumerate(hdus):
            if hdu.is_image and hdu.shape == shape:
                header = hdu.header.copy()
                for key in shifts.keys() & set(header):
                    header[key] += shifts[key]
                parts[i] = _bytes_of(hdu, hdu.section[y0 : y0 + size, x0 : x0 + size], header)
    target.write_bytes(b"".join(parts))


def _bytes_of(hdu: Any, pixels: np.ndarray[Any, Any], header: fits.Header) -> bytes:
    """An HDU like `hdu` with other pixels, as a file has it."""
    made: list[Any]
    if isinstance(hdu, fits.PrimaryHDU):
        made = [fits.PrimaryHDU(pixels, header)]
    elif isinstance(hdu, fits.CompImageHDU):
        made = [fits.PrimaryHDU(), fits.CompImageHDU(pixels, header, hdu.name, compression_type=hdu.compression_type)]
    else:
        made = [fits.PrimaryHDU(), fits.ImageHDU(pixels, header, hdu.name)]
    file = io.BytesIO()
    fits.HDUList(made).writeto(file, output_verify="silentfix")
    data = file.getvalue()
    return data[split_hdus(data)[-1][0] :]


def _real(folder: Path, source: str, *others: str, cut: bool = True) -> str:
    """A real file, and others beside it: images are cut, tables are copied."""
    for name in (source, *others):
        path = DATA / name
        if cut and (name == source or ".weight" in name or ".mask" in name):
            crop(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    return Path(source).name


def _legacy(folder: Path, survey: str, image: str, *others: str) -> str:
    """An image of the Legacy Surveys in its folders, with the table, weights, data quality and PSFEx model."""
    names = [path.relative_to(DATA / survey) for o in (image, *others) for path in (DATA / survey).rglob(o)]
    for name in [Path("survey-ccds-1.fits.gz"), *names]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / survey / name, folder / name)
    return names[0].as_posix()


_AFW = "afw_reference/"
_TILES = {"rice": {"compression_type": "RICE_1", "quantize_method": 2, "tile_shape": (1, SIZE)},
          "gzip": {"compression_type": "GZIP_2", "quantize_level": 0, "tile_shape": (16, SIZE)},
          "hcompress": {"compression_type": "HCOMPRESS_1", "tile_shape": (32, 32)}}  # fmt: skip

KINDS: dict[str, Callable[[Path], str]] = {
    "plain": _plain,
    "sip": _sip,
    "tpv": lambda f: _projected(f, cards(**cd_cards(), CTYPE1="RA---TPV", CTYPE2="DEC--TPV") | SCAMP),
    "tnx": lambda f: _iraf(f, "TNX"),
    "zpx": lambda f: _iraf(f, "ZPX", "projp1=1. projp3=337.74 "),
    "plate": lambda f: _projected(f, cards(**cd_cards()) | PLATE),
    "planes": _planes,
    "extensions": _extensions,
    "plio": lambda f: _extensions(f, compression_type="PLIO_1", tile_shape=(1, SIZE)),
    "unsigned": _integers,
    "scaled": lambda f: _integers(f, BSCALE=0.5, BZERO=100.0, BLANK=-999),
    "rice": lambda f: _tiled(f, **_TILES["rice"]),
    "gzip": lambda f: _tiled(f, **_TILES["gzip"]),
    "hcompress": lambda f: _tiled(f, **_TILES["hcompress"]),
    "brick": lambda f: write_brick(f, size=SIZE).name,
    "des": lambda f: write_des(f, size=SIZE).name,
    "megapipe": lambda f: write_megapipe(f, size=SIZE).name,
    "cutout": lambda f: write_cutout(f / "cutout.fits", mask=np.zeros((SIZE, SIZE), np.int16)).name,
    "jwst_cal": lambda f: write_jwst(f / "jw02736001001_02105_00001_nrcalong_cal.fits", mosaic=False).name,
    "jwst_i2d": lambda f: write_jwst(f / "jw02736-o001_t001_nircam_clear-f444w_i2d.fits", mosaic=True).name,
    "roman_cal": lambda f: write_roman(f / "r1_wfi07_f158_cal.asdf", mosaic=False).name,
    "roman_coadd": lambda f: write_roman(f / "r1_f158_coadd.asdf", mosaic=True, compression="lz4").name,
    "hst_drc": lambda f: write_drz(f / "jdba2s010_drc.fits").name,
    "hst_sci": lambda f: write_drz(f / "hlsp_candels_x_drz_sci.fits", beside="hlsp_candels_x_drz_wht.fits").name,
    "hst_flc": lambda f: write_flt(f / "jdba2sgkq_flc.fits", chips=1).name,
    "calexp": _calexp,
    "sdss": _sdss,
    "ztf": _ztf,
    "single_gauss": lambda f: _real(f, _AFW + "calexp_01_tan_singlegauss.fits"),
    "double_gauss": lambda f: _real(f, _AFW + "calexp_02_tansip_doublegauss_gzip2.fits"),
    "pca_psf": lambda f: _real(f, _AFW + "calexp_03_polymap_pca_xy0.fits"),
    "afw_rice": lambda f: _real(f, _AFW + "calexp_05_tansip_psfex_rice.fits"),
    "afw_gauss": lambda f: _real(f, _AFW + "calexp_06_tan_afwgaussian.fits"),
    "warped_psf": lambda f: _real(f, _AFW + "calexp_08_tan_warpedpsf.fits"),
    "coadd_psf": lambda f: _real(f, _AFW + "coadd_10_coaddpsf.fits"),
    "afw_calexp": lambda f: _real(f, "afw/obs_base/calexp.fits", cut=False),
    "afw_piff": lambda f: _real(f, "afw/meas_extensions_piff/exp.fits"),
    **{
        f"exposure_{v}": lambda f, v=v: _real(f, f"afw/afw/exposure-{v}.fits", cut=False)
        for v in ("noversion", "version-0", "version-1", "version-2")
    },
    "written": lambda f: _written(f, _AFW + "calexp_05_tansip_psfex_rice.fits"),
    "cfht": lambda f: _real(f, "cfht_849375/calexp-849375-12.fits.fz", "cfht_849375/SRC-849375-12.fits"),
    "visit_fits": lambda f: _real(f, "rubin/dp1_visit_image.fits", cut=False),
    "cells_fits": lambda f: _real(f, "rubin/dp1_cell_coadd.fits", cut=False),
    "visit_json": lambda f: _real(f, "rubin/visit_image-1.0.0-dp1.json", cut=False),
    "difference_json": lambda f: _real(f, "rubin/difference_image-1.0.0-dp2.json", cut=False),
    "cells_json": lambda f: _real(f, "rubin/cell_coadd-1.0.0-canonical.json", cut=False),
    "vircam": lambda f: _real(f, *(f"video_H/image_1.{e}" for e in ("fits", "weight.fits.fz", "mask.fits.fz", "psf"))),
    "legacy": lambda f: _legacy(f, "decam_grz", "*_ooi_r_*", "*_ood_r_*", "*_oow_r_*", "decam-00390924-S10.fits"),
    "legacy_merged": lambda f: _legacy(f, "decam_stars/r", "*_ooi_r_ls9.N6*", "*_oo[dw]_r_*", "*_r_ls9-psfex*"),
}  # fmt: skip
"""What makes each seed image in a folder: the image's path in it."""


FEW = (
    "sip", "tnx", "planes", "extensions", "plio", "scaled", "rice", "brick", "des", "cutout", "jwst_i2d", "roman_cal",
    "hst_sci", "sdss", "ztf", "single_gauss", "afw_rice", "cells_json", "legacy",
)  # fmt: skip
"""Those of a short run: one of each reader, none that takes long."""


def make_images(folder: Path, kinds: Iterable[str] = tuple(KINDS)) -> list[str]:
    """Write one folder a seed image, each with ``how.json``: how it is read and where sources go.

    Parameters
    ----------
    folder : Path
        Where to.
    kinds : iterable of str, optional
        Which of `KINDS`; by default all.

    Returns
    -------
    list of str
        Names of the seeds that could be made: those of real images only where the reference data are.
    """
    from skygraft import read_exposure

    made = []
    for name, make in ((kind, KINDS[kind]) for kind in kinds):
        (folder / name).mkdir(parents=True)
        try:
            image = make(folder / name)
        except (FileNotFoundError, IndexError):
            if DATA.is_dir():
                raise
            continue
        options: dict[str, Any] = {}
        exposure = read_exposure(folder / name / image)
        if exposure.psf is None:
            options["psf"] = PSF | ({"fwhm": _FWHM[key]} if (key := name.split("_")[0]) in _FWHM else {})
        if exposure.photo_calib is None:
            options["photo_calib"] = {"zeropoint": 27.0}
        if options:
            exposure = read_exposure(folder / name / image, **options)
        assert exposure.photo_calib is not None
        rng, (ny, nx) = np.random.default_rng(5), exposure.shape
        x, y = rng.uniform(0.3, 0.7, (2, 6)) * np.array([[nx], [ny]]) + np.array(exposure.xy0)[:, None]
        ra, dec = exposure.wcs.pixel_to_world_values(x, y)
        mode = "calibrated" if exposure.photo_calib.reference else "psf_sum"
        how = {"image": image, "options": options, "mode": mode, "ra": np.asarray(ra).tolist()}
        (folder / name / "how.json").write_text(json.dumps(how | {"dec": np.asarray(dec).tolist()}))
        made.append(name)
    return made


__all__ = ["DEAR", "DEC", "RA", "SCALE", "SIZE", "make_images"]
