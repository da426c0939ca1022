"""What a campaign would do, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["PlanSummary"]

_SHOWN = 5
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class PlanSummary:
    """What a campaign would do.

    Parameters
    ----------
    name : str
        The campaign.
    n_images : int
        Images planned.
    n_catalog : int
        Rows of the catalogue.
    n_sources : int
        Sources to draw, summed over images (upper bound: those that turn out not to reach an image are included).
    n_bytes : int
        Bytes of the images to read; about as many are written.
    cost_seconds : float
        Estimated processor time.
    n_patches : int
        Home patches.
    bands, instruments : dict of str to int
        Images by band and by instrument.
    calibrations : tuple of dict
        What the first image of each instrument says that its calibrated flux is the flux of, and where it says so.
    images_without_sources : tuple of str
        Images to which no source is near; they are written all the same.
    patches_without_images : tuple of (int, int)
        Patches of the catalogue that no image reads.
    images_off_map : tuple of str
        Images whose centre is in no patch of the sky map.
    n_unusable : int
        Images that cannot be planned: unreadable, or with the image id of another.
    problems : tuple of str
        What will go wrong if nothing is done.
    """

    name: str
    n_images: int
    n_catalog: int
    n_sources: int
    n_bytes: int
    cost_seconds: float
    n_patches: int
    bands: dict[str, int] = field(default_factory=dict)
    instruments: dict[str, int] = field(default_factory=dict)
    calibrations: tuple[dict[str, Any], ...] = ()
    images_without_sources: tuple[str, ...] = ()
    patches_without_images: tuple[tuple[int, int], ...] = ()
    images_off_map: tuple[str, ...] = ()
    n_unusable: int = 0
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """The summary for people: label and text."""
        rows = [
            ("images", f"{self.n_images}  ({_counts(self.instruments)}; bands {_counts(self.bands)})"),
            ("sources", f"{self.n_sources} to draw, of {self.n_catalog} in the catalogue"),
            ("data", f"{self.n_bytes / 1e9:.2f} GB to read, about as much to write"),
            ("home patches", str(self.n_patches)),
            ("processor time", f"about {_duration(self.cost_seconds)}"),
        ]
        rows += [("calibrated to", f"{_calibration(c)}  ({c['image']})") for c in self.calibrations]
        for label, names in (
            ("images without sources", self.images_without_sources),
            ("images off the sky map", self.images_off_map),
            ("patches without images", [f"{t},{p}" for t, p in self.patches_without_images]),
        ):
            if names:
                more = ", ..." if len(names) > _SHOWN else ""
                rows.append((label, f"{len(names)}: {', '.join(names[:_SHOWN])}{more}"))
        rows += [("problem", text) for text in self.problems[:_PROBLEMS_SHOWN]]
        left = len(self.problems) - _PROBLEMS_SHOWN
        return [*rows, ("problem", f"... and {left} more")] if left > 0 else rows

    def table(self) -> str:
        """The summary as lines of text."""
        rows = self.rows()
        width = max(len(label) for label, _ in rows)
        return "\n".join([f"plan of {self.name}", *(f"  {label:<{width}}  {text}" for label, text in rows)])

    def __str__(self) -> str:
        return self.table()


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(counts.items())) or "none"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _calibration(calibration: Mapping[str, Any]) -> str:
    if calibration["kind"] is None:
        return "unknown"
    pixels, arcsec = calibration["radius_pixels"], calibration["radius_arcsec"]
    radius = "" if pixels is None else f" of radius {pixels:g} pix"
    sky = "" if arcsec is None else f" = {arcsec:.3g} arcsec"
    return f"{calibration['kind']}{radius}{sky}, from {calibration['origin'] or 'nowhere named'}"
