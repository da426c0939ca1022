"""Recognise FITS files that are not ordinary science images: other formats, weights, masks, tables.

They are refused with an error that says what they are. Otherwise sources would silently be injected into a weight map,
or with a header calibration that the survey has replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from skygraft.errors import FormatError
from skygraft.formats.fits_headers import Headers
from skygraft.formats.fits_layout import HDU_NAMES, HduInfo, Role, split_name
from skygraft.formats.fits_units import image_unit
from skygraft.formats.survey_products import survey_product

__all__ = [
    "LEGACY_CAUTION",
    "RUBIN_IMAGES",
    "describe_file",
    "describe_foreign",
    "is_legacy_image",
    "kind_of_name",
    "lsst_images_kind",
    "refuse_archive",
    "refuse_companion",
]

RUBIN_IMAGES = "images.lsst.io"
"""Host of the schemas of Rubin's lsst.images files."""

LEGACY_CAUTION = (
    "this is an image of the Legacy Surveys read as ordinary FITS: zeropoint, gain and astrometry in its header are "
    "older than those in the survey's tables, and its PSF model is among the survey's files"
)
"""Warning about a Legacy Surveys image that is read as ordinary FITS."""

_ROLES: dict[Role, str] = {
    "variance": "a variance plane",
    "weight": "weights (inverse variances)",
    "rms": "a noise (standard deviation) plane",
    "mask": "a mask",
}
_MASK, _WEIGHT, _BACKGROUND = _ROLES["mask"], _ROLES["weight"], "a background model"
_HDU_KINDS = {name: what for role, what in _ROLES.items() for name in HDU_NAMES[role]} | {
    **dict.fromkeys(("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"), _ROLES["variance"]),
    **dict.fromkeys(("MASKBITS", "DQMASK"), _MASK),
    **dict.fromkeys(("BACKGROUND", "BKG", "BKGD"), _BACKGROUND),
    **dict.fromkeys(("PSF", "PSFEX", "KERNEL"), "a PSF image"),
    **dict.fromkeys(("NEXP", "EXPMAP", "CON", "CTX", "COVERAGE"), "a map of exposures"),
    **dict.fromkeys(("DEPTH", "GALDEPTH", "PSFDEPTH"), "a depth map"),
    **dict.fromkeys(("SEGMENTATION", "SEGM", "SEGMAP"), "a segmentation map"),
    "AREA": "a map of pixel areas",
    "CHI2": "a chi-squared image",
}
_WORDS = {
    **dict.fromkeys(("weight", "weights", "wht", "wgt", "ivar", "invvar", "inverse_variance"), _WEIGHT),
    **dict.fromkeys(("var", "variance"), _ROLES["variance"]),
    **dict.fromkeys(("rms", "sigma", "err", "error", "unc"), _ROLES["rms"]),
    **dict.fromkeys(("mask", "msk", "flag", "flags", "dq", "dqmask", "bpm", "maskbits"), _MASK),
    **dict.fromkeys(("background", "bkg", "bkgd"), _BACKGROUND),
    **dict.fromkeys(("segmentation", "segm", "segmap"), "a segmentation map"),
    **dict.fromkeys(("expmap", "coverage", "nexp", "ctx"), "a map of exposures"),
    "psf": "a PSF image",
}
_FIRST_WORDS = ("weight", "ivar", "invvar", "mask", "background", "bkg", "bkgd", "psf")
# The NOIRLab Community Pipeline: c4d_..._oow_r_v1 are weights, _ood_ data quality, _ooe_ exposure times.
_PIPELINE = re.compile(r"_o[a-z]([wde])_")
_PIPELINE_KINDS = {"w": _WEIGHT, "d": "data quality (a mask)", "e": "a map of exposure times"}
_LEGACY_COADD = re.compile(r"^legacysurvey-.*?-([a-z0-9]+)(?:-[a-z])?$", re.IGNORECASE)
_LEGACY_KINDS = {
    "depth": "a depth map",
    "galdepth": "a depth map",
    "psfsize": "a map of PSF sizes",
    "chi2": "a chi-squared image",
    **dict.fromkeys(("model", "blobmodel"), "a model of the image"),
}
# Keywords of the kind of product, and their values for products that are not science images.
_PRODUCT_KEYS = ("PRODTYPE", "IMTYPE", "DES_EXT", "EXTTYPE", "HDUCLAS2", "HDUCLAS3", "FILETYPE", "OBSTYPE", "IMAGETYP")
_PRODUCTS: Mapping[str, str] = {
    **dict.fromkeys(("wtmap", "weight", "ivar", "invvar", "wht"), _WEIGHT),
    **dict.fromkeys(("dqmask", "mask", "maskbits", "quality", "bpm"), _MASK),
    **dict.fromkeys(("error", "rms", "sigma", "stdev"), _ROLES["rms"]),
    "variance": _ROLES["variance"],
    **dict.fromkeys(("expmap", "nexp"), "a map of exposures"),
    **dict.fromkeys(("depth", "galdepth", "psfdepth"), "a depth map"),
    **dict.fromkeys(("psf", "psfsize"), "a map of the PSF"),
    **dict.fromkeys(("background", "bkg"), _BACKGROUND),
    **dict.fromkeys(("bias", "zero", "dark", "flat", "dome flat", "domeflat", "skyflat", "sky flat"), "a calibration"),
}
_FILE_NAME = "its file's name"
_MAGIC = {
    b"\x89HDF\r\n": "an HDF5 file",
    b"PAR1": "a Parquet table",
    b"#ASDF": "an ASDF file of an unknown kind",
    b"\x93NUMPY": "an array of NumPy (.npy)",
    b"\x89PNG": "a PNG picture, without calibration",
    b"\xff\xd8\xff": "a JPEG picture, without calibration",
    b"II*\x00": "a TIFF picture, without calibration",
    b"MM\x00*": "a TIFF picture, without calibration",
    b"XISF0100": "an XISF image of PixInsight",
    b"%PDF": "a PDF document",
}
"""First bytes of files that are not FITS."""
_SURVEY_CAMERAS = ("decam", "90prime", "mosaic3", "mosaic-3", "mosaic 3")


def kind_of_name(name: str) -> str | None:
    """Return what an HDU contains by its EXTNAME, or None if it may be a science image."""
    return _HDU_KINDS.get(name.upper())


def lsst_images_kind(hdus: Sequence[HduInfo]) -> str | None:
    """Return the schema of an lsst.images file ("https://images.lsst.io/schemas/visit_image-1.0.0"), or None."""
    header = hdus[0].header
    model = str(header.get("DATAMODL", ""))
    if RUBIN_IMAGES in model:
        return model
    return "a schema that the file does not name" if "JSONADDR" in header and "INDXADDR" in header else None


def refuse_archive(path: Path, hdus: Sequence[HduInfo]) -> None:
    """Raise if the calibrations of a file are in an archive that ordinary FITS does not read.

    Raises
    ------
    FormatError
        If the file is an LSST afw image, or one of Rubin's lsst.images.
    """
    kind = lsst_images_kind(hdus)
    if kind is not None:
        raise FormatError(
            f"this is an lsst.images file of Rubin ({kind}): as ordinary FITS its PSF, sky projection and mask schema "
            "would be lost, and its own reader would not see the INJECTED plane",
            path=path,
            fix="Read it with format='auto'",
        )
    types = {str(hdu.header.get("EXTTYPE", "")).strip() for hdu in hdus}
    if "ARCHIVE_INDEX" in types or {"IMAGE", "MASK"} <= types:
        raise FormatError(
            "this is an image of the LSST pipelines (afw): as ordinary FITS its PSF, WCS, photometric calibration and "
            "gains, which are in its archive, would be lost",
            path=path,
            fix="Read it with format='lsst_afw', or 'auto'",
        )


def is_legacy_image(path: Path, headers: Headers) -> bool:
    """Return whether this is a CCD image of the Legacy Surveys, whose tables replace the header's calibration."""
    if "_ooi_" in path.name:
        return True
    camera = headers.find("INSTRUME", "INSTRUMENT")
    process = headers.find("PROCTYPE")
    return (
        camera is not None
        and str(camera.value).strip().lower() in _SURVEY_CAMERAS
        and process is not None
        and str(process.value).strip().lower() == "instcal"
        and headers.find("PLVER") is not None
    )


def refuse_companion(path: Path, hdu: HduInfo, hdus: Sequence[HduInfo], *, chosen: bool) -> None:
    """Raise if the image is a weight, a mask or the like.

    Parameters
    ----------
    path : Path
        The file.
    hdu : HduInfo
        The HDU that would be the image.
    hdus : sequence of HduInfo
        All HDUs of the file.
    chosen : bool
        Whether the caller chose the HDU; the file's name is then ignored.

    Raises
    ------
    FormatError
        If EXTNAME, header, unit or file name show that it is not a science image, or its pixels are not linear.
    """
    if "BSOFTEN" in hdu.header and "BOFFSET" in hdu.header:
        raise FormatError(
            "the pixels are on the asinh scale of Pan-STARRS's stacks (BSOFTEN, BOFFSET): no flux can be added to them",
            path=path,
            hdu=hdu.index,
            key="BSOFTEN",
            fix="Convert each pixel p to BOFFSET + 2 BSOFTEN sinh(p / 1.0857362) and remove the two cards, or fetch a "
            "cut-out, which is linear",
        )
    found = _by_header(hdu, hdus)
    if found is None and not chosen and hdu.name not in ("SCI", "SCIENCE", "IMAGE"):
        found = _by_file_name(path)
    if found is None:
        return
    what, evidence = found
    again = "" if evidence != _FILE_NAME else "; if it is a science image, choose its HDU with hdu="
    raise FormatError(
        f"this holds {what}, by {evidence}, and no science image",
        path=path,
        hdu=hdu.index,
        fix=f"Give the image that it belongs to{again}",
    )


def _by_header(hdu: HduInfo, hdus: Sequence[HduInfo]) -> tuple[str, str] | None:
    header = hdu.header
    if (what := kind_of_name(hdu.name)) is not None:
        return what, f"its EXTNAME {hdu.name}"
    alone = sum(other.shape is not None for other in hdus) == 1
    headers = Headers([(hdu.index, header), *([(0, hdus[0].header)] if alone and hdu.index else [])])
    for card in headers.every(*_PRODUCT_KEYS):
        what = _PRODUCTS.get(str(card.value).strip().lower())
        if what is not None:
            return what, f"{card.key} = {card.value!r}"
    unit = image_unit(Headers([(hdu.index, header)]))
    if unit.unit.kind in ("variance", "inverse variance"):
        return f"{'an' if unit.unit.kind[0] == 'i' else 'a'} {unit.unit.kind} plane", f"BUNIT = {unit.name!r}"
    if int(header.get("BITPIX", -32)) > 0:
        planes = [key for key in header if key.startswith("MP_") or re.fullmatch(r"MSKN\d+", key)]
        if planes:
            return _MASK, f"its cards {', '.join(planes[:3])}"
    if "BKGD_X0" in header:
        return _BACKGROUND, "its card BKGD_X0"
    return None


def _by_file_name(path: Path) -> tuple[str, str] | None:
    stem = split_name(path)[0]
    pipeline = _PIPELINE.search(stem)
    if pipeline is not None:
        return _PIPELINE_KINDS[pipeline[1]], _FILE_NAME
    coadd = _LEGACY_COADD.match(stem)
    words = re.split(r"[._\-]", stem.lower())
    what = None
    if coadd is not None:
        what = (_WORDS | _LEGACY_KINDS).get(coadd[1].lower())
    elif len(words) > 1:
        what = _WORDS.get(words[-1]) or (_WORDS[words[0]] if words[0] in _FIRST_WORDS else None)
    return None if what is None else (what, _FILE_NAME)


def describe_file(path: Path, hdus: Sequence[HduInfo]) -> str:
    """Describe a FITS file without a science image, such as "a PSFEx model"; "" if it is not known."""
    if (product := survey_product(path)) is not None:
        return f"{product.what}, by {_FILE_NAME}"
    images = [hdu for hdu in hdus if hdu.shape is not None and len(hdu.shape) == 2]
    if images:
        found = _by_header(images[0], hdus) or _by_file_name(path)
        return "" if found is None else f"{found[0]}, by {found[1]}"
    for hdu in hdus:
        if "TFIELDS" not in hdu.header or hdu.shape is not None:
            continue
        names = [str(hdu.header.get(f"TTYPE{i + 1}", "")) for i in range(int(hdu.header["TFIELDS"]))]
        lower = {name.lower() for name in names}
        if {"rrows", "nrow_b", "ncol_b"} <= lower:
            return "a psField file of SDSS, to be given as psfield= or psf="
        if {"cat.archive", "cat.persistable"} <= lower:
            return "an archive of the LSST pipelines (a WCS, a calibration, footprints or the like), without an image"
        if "AFW_TABLE_VERSION" in hdu.header or {"coord_ra", "coord_dec"} <= lower:
            return f"a catalogue of the LSST pipelines (rows: {hdu.header.get('NAXIS2')})"
        if "psf_mask" in lower or "PSFAXIS1" in hdu.header or {"POLNAME1", "PSF_SAMP"} & set(hdu.header):
            return "a PSFEx model, to be given as psf="
        if {"image_filename", "ccdname"} <= lower:
            return "a table of CCDs (survey-ccds), to be given as ccds="
        listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        return f"a table (rows: {hdu.header.get('NAXIS2')}; columns: {listed}), such as a catalogue"
    return ""


def describe_foreign(head: bytes) -> str:
    """Describe a file that is not FITS by its first bytes, such as "an HDF5 file"; "" if they are not known."""
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            return what
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return ""
    if text.lstrip().startswith(("<html", "<!DOCTYPE", "<!doctype", "<?xml")):
        return "a page of HTML or XML, such as a server's answer instead of the file"
    return "a text file" if text.strip() and all(c.isprintable() or c.isspace() for c in text) else ""
