"""Identity of an image: instrument, visit and detector, or tract and patch, and the time of its exposure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from skygraft.errors import FormatError

__all__ = ["DataId", "VisitInfo", "is_id"]


def is_id(number: int) -> bool:
    """Tell whether a number fits into 64 bits, as numbers of visits, detectors, tracts and patches must."""
    return -(2**63) <= number < 2**63


@dataclass(frozen=True)
class DataId:
    """Identity of an image: a detector of a visit, or a patch of a tract, in a band.

    The string form (`str`) names the image in plans and records; see also `Exposure.default_image_id`.

    Parameters
    ----------
    instrument : str, optional
        Name of the camera.
    visit : int, optional
        Number of the exposure.
    detector : int or str, optional
        Number or name of the detector.
    tract, patch : int, optional
        Of a coadd, in its sky map; the patch by its sequential index.
    band : str, optional
        Such as ``"r"``.
    name : str, optional
        Of the file, for an image that has no numbers.

    Raises
    ------
    FormatError
        If a number does not fit into 64 bits.
    """

    instrument: str | None = None
    visit: int | None = None
    detector: int | str | None = None
    tract: int | None = None
    patch: int | None = None
    band: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for key in ("visit", "detector", "tract", "patch"):
            value = getattr(self, key)
            if isinstance(value, int) and not is_id(value):
                raise FormatError(f"{key} = {value} does not fit into 64 bits", key=key, fix="Give the right number")

    def __str__(self) -> str:
        parts: tuple[Any, ...]
        if self.visit is not None and self.detector is not None:
            parts = (self.instrument, self.visit, self.detector)
        elif self.tract is not None and self.patch is not None:
            parts = (self.instrument, self.tract, self.patch, self.band)
        else:
            parts = (self.name or "image",)
        return "-".join(str(part) for part in parts if part is not None)

    def as_dict(self) -> dict[str, Any]:
        """Collect the parts that are known, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(frozen=True)
class VisitInfo:
    """Time and length of the exposure.

    Parameters
    ----------
    mjd : float or None
        Middle of the exposure, Modified Julian Date, TAI, in days.
    exposure_time : float or None
        Seconds.
    """

    mjd: float | None = None
    exposure_time: float | None = None
