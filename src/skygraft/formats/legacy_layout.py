"""The files of a CCD image of the Legacy Surveys: image, inverse variance, data quality, marks of injected sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skygraft.errors import FormatError
from skygraft.formats.fits_layout import FitsLayout, HduInfo, Plane, is_flat, list_hdus
from skygraft.formats.legacy_tables import beside
from skygraft.places import is_file

__all__ = ["LegacyLayout", "find_layout"]


@dataclass(frozen=True)
class LegacyLayout:
    """The files of an image.

    Parameters
    ----------
    planes : FitsLayout
        Image and inverse variance.
    dq : Plane or None
        Data quality.
    injected : Path or None
        Mask of injected sources.
    """

    planes: FitsLayout
    dq: Plane | None
    injected: Path | None

    def files(self) -> dict[str, Path]:
        """Return the files that exist, by kind, the image first."""
        noise = self.planes.noise
        found = {
            "ooi": self.planes.image.path,
            "oow": None if noise is None else noise.path,
            "ood": None if self.dq is None else self.dq.path,
            "injected": self.injected,
        }
        return {kind: path for kind, path in found.items() if path is not None}


def find_layout(
    path: Path, hdus: Sequence[HduInfo], ccd: int | str | None = None, *, weight: bool = True, mask: bool = True
) -> LegacyLayout:
    """Find the files of an image by their names, and the HDU of its CCD in each.

    Parameters
    ----------
    path : Path
        The image.
    hdus : sequence of HduInfo
        Its HDUs.
    ccd : int or str, optional
        Number or name of the HDU, if there are several.
    weight, mask : bool, optional
        Whether the image has such a file.

    Raises
    ------
    FormatError
        If one is not there, or does not have the CCD.
    """
    image = _choose_ccd(path, ccd, hdus)
    noise = _companion(path, "oow", image) if weight else None
    marks = beside(path, "injected")
    return LegacyLayout(
        FitsLayout(image.plane("image", path), noise),
        _companion(path, "ood", image) if mask else None,
        marks if is_file(marks) else None,
    )


def _companion(path: Path, kind: str, image: HduInfo) -> Plane:
    option = "weight" if kind == "oow" else "mask"
    other = beside(path, kind)
    if not is_file(other):
        raise FormatError(
            f"its {'inverse variance' if kind == 'oow' else 'data quality'} file {other.name} is not beside it",
            path=path,
            fix=f"Fetch it too, or read without it ({option}=False)",
        )
    found = [hdu for hdu in list_hdus(other) if hdu.shape == image.shape]
    named = [hdu for hdu in found if hdu.name == image.name]
    numbered = [hdu for hdu in found if hdu.index == image.index]
    for hdus in (named, numbered if not image.name else []):
        if len(hdus) == 1:
            return hdus[0].plane("mask" if kind == "ood" else "weight", other)
    raise FormatError(
        f"it has no image {image.name or image.index} of shape {image.shape}",
        path=other,
        fix=f"Fetch the {kind} file of this image again, or read without it ({option}=False)",
    )


def _choose_ccd(path: Path, wanted: int | str | None, hdus: Sequence[HduInfo]) -> HduInfo:
    """Return the HDU of the CCD: the requested one, or the only image."""
    images = [hdu for hdu in hdus if is_flat(hdu)]
    if wanted is None:
        found = images
    elif isinstance(wanted, int):
        found = [hdu for hdu in images if hdu.index == wanted]
    else:
        found = [hdu for hdu in images if hdu.name == wanted.strip().upper()]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(str(hdu) for hdu in images)
    problem = f"there is no CCD {wanted!r}" if wanted is not None else f"the file has {len(images)} CCDs"
    raise FormatError(f"{problem}: {listed}", path=path, fix="Choose one with ccdname= or hdu=")
