"""Inject a catalogue into a coadd and into its visits, in memory, and compare the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from skygraft.errors import ConfigError, InjectionError
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions
from skygraft.qa.consistency.comparison import Comparison
from skygraft.qa.consistency.light import LitImage, light_image
from skygraft.qa.consistency.pixels import PixelFindings
from skygraft.qa.consistency.settings import ConsistencySettings
from skygraft.qa.consistency.summary import ConsistencySummary, summarize
from skygraft.qa.consistency.terms import consistency_table

__all__ = ["Consistency", "check_consistency", "compare_images"]


@dataclass(frozen=True, eq=False)
class Consistency:
    """How a coadd compares with its visits.

    Parameters
    ----------
    table : pyarrow.Table
        A row for each source on the coadd: `skygraft.qa.consistency.terms.SCHEMA`.
    summary : ConsistencySummary
        Counts and medians.
    pixels : PixelFindings
        What the images' own pixels say: zeropoint, shift, and which visits the coadd holds.
    visits : tuple of str
        The visits that were compared.
    left_out : dict of str to str
        Visits that were not, and why.
    radius : float
        Radius that fluxes are measured in, coadd pixels.
    radius_origin : str
        Where it is from.
    comparison : Comparison
        What was measured, for pictures.
    """

    table: pa.Table
    summary: ConsistencySummary
    pixels: PixelFindings
    visits: tuple[str, ...]
    left_out: dict[str, str]
    radius: float
    radius_origin: str
    comparison: Comparison = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether sources were compared, and none differs."""
        return self.summary.ok

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types, without the table."""
        pixels = {name: getattr(self.pixels, name) for name in PixelFindings.__dataclass_fields__}
        return self.summary.to_dict() | {
            "visits": list(self.visits),
            "left_out": self.left_out,
            "radius_pixels": self.radius,
            "radius_origin": self.radius_origin,
            "pixels": pixels,
        }


def compare_images(coadd: LitImage, visits: Iterable[LitImage], settings: ConsistencySettings) -> Consistency:
    """Compare a coadd and its visits, whose light is drawn already.

    Parameters
    ----------
    coadd : LitImage
        The coadd.
    visits : iterable of LitImage
        The visits, which may be made one at a time: none is kept.
    settings : ConsistencySettings
        How to compare.

    Returns
    -------
    Consistency

    Raises
    ------
    InjectionError
        If no visit holds any of the coadd's sources.
    SkygraftError
        As `Comparison`.
    """
    work = Comparison(coadd, settings)
    used: list[str] = []
    given: dict[str, str] = {}
    for visit in visits:
        if visit.image_id in used:
            raise ConfigError(
                f"two visits have the name {visit.image_id}",
                path=visit.exposure.path,
                fix="Give each visit once; images without visit and detector are named after their file and pixels",
            )
        if work.add(visit):
            used.append(visit.image_id)
        if visit.input_name is not None:
            given[visit.input_name] = visit.image_id
    if not used:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(work.left_out.items())[:3]) or "there are none"
        raise InjectionError(
            f"no visit holds a source of the coadd {coadd.image_id} ({why})",
            path=coadd.exposure.path,
            fix="Give visits that overlap the coadd and went into it, and a catalogue of sources there",
        )
    found = work.pixel_findings()
    table = consistency_table(work, found, given)
    return Consistency(
        table,
        summarize([table]),
        found,
        tuple(used),
        dict(work.left_out),
        work.radius,
        work.radius_origin,
        work,
    )


def check_consistency(
    coadd: Exposure,
    visits: Iterable[Exposure],
    catalog: Any,
    *,
    settings: ConsistencySettings | Mapping[str, Any] | None = None,
    options: InjectionOptions | None = None,
    visit_options: InjectionOptions | None = None,
    band: str | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> Consistency:
    """Inject a catalogue into a coadd and into its visits, without noise, and compare the light of each source.

    Nothing is written, and the exposures stay as they are.

    Parameters
    ----------
    coadd : Exposure
        The coadd, before injection.
    visits : iterable of Exposure
        The images that it was made of, before injection. They may be read one at a time: none is kept.
    catalog : table-like
        The sources, as for `skygraft.inject`.
    settings : ConsistencySettings or mapping, optional
        How to compare.
    options, visit_options : InjectionOptions, optional
        How to inject; by default visits as the coadd.
    band : str, optional
        Whose magnitudes to use; by default the images' own.
    progress : callable
        Called with 1 after each visit.

    Returns
    -------
    Consistency

    Raises
    ------
    InjectionError
        If no visit holds any of the coadd's sources.
    UnknownApertureError, UncalibratedImageError
        If an image does not say what its flux is the flux of.
    ConfigError
        If visits are of another band than the coadd, or one is given twice.
    CalibrationError
        If a visit has no variance, and the coadd lists no weights.
    CatalogError
        If the catalogue cannot be used.

    Examples
    --------
    >>> from skygraft.qa.consistency import check_consistency
    >>> from skygraft.testing import make_exposure
    >>> star = {"injection_id": [1], "ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]}
    >>> check_consistency(make_exposure((64, 64)), [make_exposure((64, 64))], star).summary.verdicts["agrees"]
    1
    """
    how = settings if isinstance(settings, ConsistencySettings) else ConsistencySettings.from_dict(settings or {})
    own = options or InjectionOptions()
    first = light_image(coadd, catalog, own, band=band)

    def lit() -> Iterable[LitImage]:
        for visit in visits:
            yield light_image(visit, catalog, visit_options or own, band=band)
            progress(1)

    return compare_images(first, lit(), how)
