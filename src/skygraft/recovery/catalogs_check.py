"""A look at a pipeline's catalogues before a recovery: what they are taken for, and what is left out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from skygraft.campaign.finished import finished_rows
from skygraft.campaign.pairs import read_pair
from skygraft.errors import ConfigError, SkygraftError
from skygraft.recovery.catalogs import read_detections
from skygraft.recovery.catalogs_terms import Detections, ImageContext
from skygraft.recovery.matching_catalogs import catalog_path, sky_box
from skygraft.wording import number

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["CatalogLook", "look_at_catalogs"]


@dataclass(frozen=True)
class CatalogLook:
    """What a catalogue is taken for.

    Parameters
    ----------
    image_id : str
        The image.
    which : str
        ``injected`` or ``original``.
    path : str
        The file.
    kind : str
        What made it; empty where it cannot be read.
    n : int
        Detections on the image.
    fluxes : mapping of str to str
        Kinds of flux, and the columns that they come from.
    counts : mapping of str to int
        Rows that were read, and left out, by reason.
    error, message : str
        Class of the error and what it says, where it cannot be read.
    """

    image_id: str
    which: str
    path: str
    kind: str = ""
    n: int = 0
    fluxes: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    message: str = ""

    @classmethod
    def of(cls, image_id: str, which: str, found: Detections) -> CatalogLook:
        """Describe detections that were read."""
        fluxes = {kind: flux.column for kind, flux in found.fluxes.items()}
        return cls(image_id, which, str(found.path), found.kind, len(found), fluxes, dict(found.counts))

    def to_dict(self) -> dict[str, Any]:
        """The look as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        start = f"{self.image_id}, {self.which}: "
        if self.error:
            return f"{start}{self.error}: {self.message}"
        left_out = [f"{n:,} {reason}" for reason, n in self.counts.items() if reason != "rows"]
        fluxes = ", ".join(f"{kind} = {column}" for kind, column in self.fluxes.items())
        sizes = f"{number(self.n, 'detection')} of {number(self.counts['rows'], 'row')}"
        lines = [
            f"{start}{sizes}, kind {self.kind}, {self.path}",
            f"  fluxes: {fluxes or 'none'}",
        ]
        return "\n".join([*lines, f"  left out: {', '.join(left_out)}"] if left_out else lines)


def look_at_catalogs(campaign: Campaign, sample: int = 3) -> tuple[CatalogLook, ...]:
    """Read the catalogues of a few images, without matching.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, and whose ``recovery: catalogs:`` names catalogues.
    sample : int
        How many images, spread evenly over those that are done.

    Returns
    -------
    tuple of CatalogLook
        With the catalogues that cannot be read; their errors are not raised.

    Raises
    ------
    ConfigError
        If the configuration names no catalogues.
    CampaignError
        If no image is done.
    """
    given = campaign.config.recovery.catalogs
    if given is None:
        raise ConfigError(
            "the configuration names no catalogues",
            key="recovery.catalogs",
            fix="Name them: recovery: {catalogs: {injected: cats/{file}.cat}}",
        )
    plan, done = finished_rows(campaign)
    step = max(1, len(done) // max(1, sample))
    looks = []
    for image in plan.images(done[::step][:sample]):
        try:
            context = ImageContext.of(read_pair(campaign.config, image), campaign.config.recovery.apertures)
        except SkygraftError as error:
            looks.append(CatalogLook(image.image_id, "image", "", error=type(error).__name__, message=str(error)))
            continue
        for which, template in (("injected", given.injected), ("original", given.original)):
            if template is None:
                continue
            try:
                found = read_detections(catalog_path(template, image), given, context, box=sky_box(context))
                looks.append(CatalogLook.of(image.image_id, which, found))
            except SkygraftError as error:
                name = type(error).__name__
                looks.append(CatalogLook(image.image_id, which, error.path or template, error=name, message=str(error)))
    return tuple(looks)
