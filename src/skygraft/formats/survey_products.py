"""Recognise by name the products of SDSS and ZTF that are not calibrated science images, and say what to give instead.

Their names are those of the surveys' data models: `SDSS <https://data.sdss.org/datamodel/>`_, and the ZTF Science Data
System explanatory supplement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from skygraft.errors import FormatError

__all__ = ["Product", "refuse_product", "survey_product"]

_FRAME = "Give the calibrated frame of the same field, frame-<band>-<run>-<camcol>-<field>.fits (DR8 and later)"
_SCIENCE = "Give the science image of the same name, ending in _sciimg.fits"
_ANYWAY = "; to read it as ordinary FITS, choose its HDU with hdu= and give what it lacks (zeropoint=, psf=, aperture=)"


@dataclass(frozen=True)
class Product:
    """A file of a survey that sources are not injected into.

    Parameters
    ----------
    what : str
        What it is.
    fix : str
        What to give instead.
    """

    what: str
    fix: str


_PRODUCTS: tuple[tuple[str, Product], ...] = (
    (
        r"fpC-\d{6}-[ugriz][1-6]-\d{4}",
        Product(
            "a corrected frame of SDSS (fpC) from before DR8: counts above a soft bias of 1000, calibrated by the "
            "tsField file",
            _FRAME + _ANYWAY,
        ),
    ),
    (
        r"drC-\d{6}-[ugriz][1-6]-\d+-\d{4}",
        Product("a corrected frame of SDSS (drC) from before DR8: counts, without a calibration", _FRAME + _ANYWAY),
    ),
    (r"idR-\d{6}-[ugriz][1-6]-\d{4}", Product("a raw frame of SDSS (idR), neither flattened nor calibrated", _FRAME)),
    (r"fpM-\d{6}-[ugriz][1-6]-\d{4}", Product("the mask of an SDSS frame (fpM)", _FRAME)),
    (r"fpBIN-\d{6}-[ugriz][1-6]-\d{4}", Product("a binned frame of SDSS, without its objects (fpBIN)", _FRAME)),
    (r"fpAtlas-\d{6}-[1-6]-\d{4}", Product("the atlas images of an SDSS field (fpAtlas)", _FRAME)),
    (r"fpObjc-\d{6}-[1-6]-\d{4}", Product("a catalogue of SDSS, not calibrated (fpObjc)", _FRAME)),
    (
        r"ps(Field|BB)-\d{6}-[1-6]-\d{4}",
        Product("the PSF model of an SDSS field", f"{_FRAME}; a psField file beside it, or psfield=, is its PSF"),
    ),
    (r"(tsField|asTrans|photoField|photoObj|calibObj|tsObj)-\d{6}", Product("a table of SDSS", _FRAME)),
    (
        r"ztf_.*_scimrefdiffimg",
        Product("a difference image of ZTF (science minus reference)", _SCIENCE + _ANYWAY),
    ),
    (r"ztf_.*_mskimg", Product("the mask of a ZTF image", _SCIENCE)),
    (r"ztf_.*_refimg", Product("a reference image of ZTF, a coadd of many exposures", _SCIENCE + _ANYWAY)),
    (r"ztf_.*_(refcov|refunc|sciunc)", Product("a map of ZTF's (coverage or noise)", _SCIENCE)),
    (r"ztf_.*_(sciimgdao|diffimgpsf|refimgdaopsfcent)", Product("a PSF model of ZTF", _SCIENCE)),
    (r"ztf_.*_(psfcat|sexcat|refpsfcat|refsexcat)", Product("a catalogue of ZTF", _SCIENCE)),
    (r"ztf_\d{14}_(\d{6}_z[gri]|\d{6}_\w\w|000000_\w\w)_c\d\d_[obdf]\.fits", Product("a raw image of ZTF", _SCIENCE)),
)
_COMPILED = tuple((re.compile(rf"^{pattern}"), product) for pattern, product in _PRODUCTS)


def survey_product(path: Path) -> Product | None:
    """Return what a file of SDSS or ZTF is by its name, if that is no calibrated science image; else None.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Product or None
    """
    return next((product for pattern, product in _COMPILED if pattern.match(path.name)), None)


def refuse_product(path: Path) -> None:
    """Raise if a file is a product of SDSS or ZTF that sources are not injected into, by its name.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    FormatError
    """
    product = survey_product(path)
    if product is not None:
        raise FormatError(f"by its name this is {product.what}", path=path, fix=product.fix)
