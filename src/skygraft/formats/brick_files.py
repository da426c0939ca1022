"""Names, kinds and mask bits of the files of a Legacy Surveys brick.

A brick has, for each band, ``legacysurvey-<brick>-<kind>-<band>.fits.fz`` in ``coadd/<AAA>/<brick>/``, and one
``legacysurvey-<brick>-maskbits.fits.fz`` for all bands (https://www.legacysurvey.org/dr10/files/#image-stacks). Headers
say what a file is in IMTYPE and PRODTYPE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits

from skygraft.errors import FormatError
from skygraft.formats.fits_layout import HduInfo, is_flat, list_hdus, split_name
from skygraft.places import is_file

__all__ = ["KINDS", "MASKBITS", "VIEWER_SURVEYS", "BrickFile", "find_brick_file", "mask_hdu", "mask_names"]

KINDS: Mapping[str, str] = {
    "image": "the image",
    "invvar": "inverse variances (weights)",
    "maskbits": "the mask of all bands",
    "maskbits-light": "the mask of all bands, without source fits",
    "injected": "the mask of injected sources",
    "psfsize": "a map of PSF sizes",
    "copsf": "the PSF of the coadd",
    "model": "the Tractor's model of the image",
    "blobmodel": "the Tractor's model of the image, cut to its blobs",
    "chi2": "chi squared",
    "depth": "a map of the depth for point sources",
    "galdepth": "a map of the depth for galaxies",
    "nexp": "numbers of exposures",
}
"""What each kind of file of a brick holds."""

MASKBITS: tuple[str, ...] = (
    *("NPRIMARY", "BRIGHT", "SATUR_G", "SATUR_R", "SATUR_Z", "ALLMASK_G", "ALLMASK_R", "ALLMASK_Z", "WISEM1", "WISEM2"),
    *("BAILOUT", "MEDIUM", "GALAXY", "CLUSTER", "SATUR_I", "ALLMASK_I", "SUB_BLOB", "RESOLVED", "MCLOUDS", "WISE_GAIA"),
)
"""Names of the bits of maskbits, from bit 0, for files whose header does not name them.

https://www.legacysurvey.org/dr10/bitmasks (bits 14 to 16 since DR10); bits 17 to 19 are those of DR11's pipeline.
"""

_KINDS = "|".join(sorted(map(re.escape, KINDS), key=len, reverse=True))
_NAME = re.compile(rf"^(?P<survey>[^-]+)-(?P<brick>.+?)-(?P<kind>{_KINDS})(?:-(?P<band>[A-Za-z0-9_]+))?$")
_SURVEYS = ("legacysurvey", "decals")
VIEWER_SURVEYS = ("legacysurvey", "decals", "mzls")
"""SURVEY of the sky viewer's cut-outs, in lower case."""
_ONE_FOR_ALL_BANDS = ("maskbits", "maskbits-light")
_BIT_CARDS = re.compile(r"^(?:MBIT_|BITNM)(\d+)$")


@dataclass(frozen=True)
class BrickFile:
    """What a file of a brick is, by its name.

    Parameters
    ----------
    path : Path
        The file.
    survey, brick, kind : str
        Parts of its name; `kind` is one of `KINDS`.
    band : str
        The band; "" for a file of all bands.
    """

    path: Path
    survey: str
    brick: str
    kind: str
    band: str

    @property
    def name(self) -> str:
        """Name of the image that the file belongs to."""
        return "-".join(part for part in (self.survey, self.brick, self.band) if part)

    def sibling(self, kind: str, suffix: str | None = None) -> Path:
        """Return the path of the file of another kind beside this one; by default with its suffix.

        Examples
        --------
        >>> brick = BrickFile(Path("legacysurvey-0001p000-image-r.fits.fz"), "legacysurvey", "0001p000", "image", "r")
        >>> brick.sibling("psfsize").name, brick.sibling("maskbits").name
        ('legacysurvey-0001p000-psfsize-r.fits.fz', 'legacysurvey-0001p000-maskbits.fits.fz')
        """
        parts = [self.survey, self.brick, kind]
        if kind not in _ONE_FOR_ALL_BANDS:
            parts.append(self.band)
        return self.path.with_name("-".join(parts) + (split_name(self.path)[1] if suffix is None else suffix))

    def find(self, kind: str) -> Path | None:
        """Return the file of another kind beside this one, compressed like it or in the usual ways; None if absent."""
        for suffix in dict.fromkeys((split_name(self.path)[1], ".fits.fz", ".fits", ".fits.gz")):
            if is_file(found := self.sibling(kind, suffix)):
                return found
        return None


def find_brick_file(path: Path, hdus: Sequence[HduInfo] | None = None) -> BrickFile | None:
    """Return what a file of a brick is, or None if it is none.

    Files are recognised by their name, which begins with "legacysurvey" or "decals", or by a name of that form and
    cards of legacypipe: LEGPIPEV, or BRICK together with IMTYPE.

    Parameters
    ----------
    path : Path
        The file.
    hdus : sequence of HduInfo, optional
        Its HDUs; without them only the name counts.

    Returns
    -------
    BrickFile or None
    """
    match = _NAME.match(split_name(path)[0])
    if match is None or (match["band"] is None) != (match["kind"] in _ONE_FOR_ALL_BANDS):
        return None
    found = BrickFile(path, match["survey"], match["brick"], match["kind"], match["band"] or "")
    if match["survey"].lower() in _SURVEYS or any(_by_legacypipe(hdu.header) for hdu in hdus or ()):
        return found
    return None


def _by_legacypipe(header: fits.Header) -> bool:
    return "LEGPIPEV" in header or ("IMTYPE" in header and ("BRICK" in header or "BRICKNAM" in header))


def mask_names(path: Path, hdu: HduInfo) -> dict[str, int]:
    """Return names and bit numbers of maskbits: those of its header, and for other bits `MASKBITS`.

    Headers have ``MBIT_2 = 'SATUR_G'`` since DR9, ``BITNM2`` in DR8.

    Parameters
    ----------
    path : Path
        The file, for errors.
    hdu : HduInfo
        The HDU of the mask.

    Raises
    ------
    FormatError
        If the header gives one name to two bits.
    """
    names: dict[int, str] = {}
    for key in hdu.header:
        card = _BIT_CARDS.match(key)
        value = hdu.header[key] if card is not None else None
        if card is not None and isinstance(value, str) and value.strip() and int(card[1]) < 31:
            names[int(card[1])] = "_".join(value.split())
    if len(set(names.values())) < len(names):
        raise FormatError(
            f"its header gives one name to two bits: {names}",
            path=path,
            hdu=hdu.index,
            fix="Fetch the file again, or name the bits with mask_planes=",
        )
    for bit, name in enumerate(MASKBITS):
        if bit not in names and name not in names.values():
            names[bit] = name
    return {name: bit for bit, name in sorted(names.items())}


def mask_hdu(path: Path) -> HduInfo:
    """Return the HDU of the optical mask in a file of maskbits, which has those of WISE too."""
    flat = [hdu for hdu in list_hdus(path) if is_flat(hdu)]
    named = [hdu for hdu in flat if hdu.name == "MASKBITS"]
    if not flat:
        raise FormatError(
            "the file of mask bits has no image", path=path, fix="Fetch it again, or read with mask=False"
        )
    return (named or flat)[0]
