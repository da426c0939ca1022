"""Fakes as a region file of DS9, which Firefly, Aladin and CARTA read too."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from astropy.coordinates import SkyCoord

from skygraft.campaign.pairs import read_truth, record_of
from skygraft.catalog.io import to_arrow
from skygraft.errors import CampaignError, ConfigError
from skygraft.execution.task import sources_of
from skygraft.records.plan_file import PlannedImage
from skygraft.render.lensing import lensed_ellipse
from skygraft.views.places import truth_dataset
from skygraft.wording import number

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["region_text", "truth_regions"]

type Frame = Literal["icrs", "fk5"]

_SHAPES = (
    "half_light_radius", "q", "pa", "n", "disk_half_light_radius", "disk_q", "disk_pa", "trail_length", "trail_pa",
    "shear", "shear_pa", "magnification",
)  # fmt: skip
_COLORS = {"Star": "orange", "Trail": "magenta"}
_GALAXY = "cyan"
_RADIUS = 1.0
"""Radius of the circle of a source without a shape where its PSF is not known, arcsec."""
_MOST = 2_000_000
_MAS = 3.6e6


def region_text(campaign: Campaign, image: PlannedImage | None = None, *, frame: Frame = "icrs") -> str:
    """Write the fakes of one image, or of all images of a campaign, as regions.

    Stars are circles with the FWHM of the PSF as radius, galaxies ellipses with the half-light ellipse of the
    catalogue (of a bulge and a disk, the disk's), trails lines. The text is id, type and magnitudes; the tag is the
    type. Of a campaign a source has one region however many images show it, and one for each position if it moves.

    Parameters
    ----------
    campaign : Campaign
    image : PlannedImage, optional
        One image that is done; by default the truth tables of the campaign are used.
    frame : {"icrs", "fk5"}
        Of the positions: FK5 (J2000) is for software that does not know ICRS.

    Returns
    -------
    str
        The content of a ``.reg`` file.

    Raises
    ------
    CampaignError
        If the image's record, or the truth tables, are not there, or are too large for a region file.
    ConfigError
        If there is no such frame.
    """
    if frame not in ("icrs", "fk5"):
        raise ConfigError(f"the frame is {frame!r}", key="frame", fix="Give 'icrs' or 'fk5'")
    if image is not None:
        truth = to_arrow(read_truth(campaign.layout, image, record_of(campaign.layout, image)))
        shapes = to_arrow(sources_of(image, campaign.config)[0])
        names = [name for name in _SHAPES if name in shapes.schema.names]
        rows = truth.filter(pc.greater(truth["stamp_size"], 0)).to_pylist()
        shape_rows = shapes.select(["injection_id", *names]).to_pylist()
        what = f"image {image.image_id}"
    else:
        dataset = truth_dataset(campaign)
        count = dataset.count_rows()
        if count > _MOST:
            raise CampaignError(
                f"the campaign has {count:,} rows of truth; a region file of them could not be shown",
                path=campaign.layout.truth,
                fix="Write the regions of one image: --image ID",
            )
        columns = ["injection_id", "ra", "dec", "source_type", "band", "mag", "psf_fwhm"]
        rows = dataset.to_table(columns=columns, filter=ds.field("stamp_size") > 0).to_pylist()
        shape_rows = _campaign_shapes(campaign)
        what = "all images that are done"
    if frame == "fk5" and rows:
        places = SkyCoord([row["ra"] for row in rows], [row["dec"] for row in rows], unit="deg").fk5
        rows = [row | {"ra": ra, "dec": dec} for row, ra, dec in zip(rows, places.ra.deg, places.dec.deg, strict=True)]
    shapes_by_id = {row["injection_id"]: row for row in shape_rows}
    lines = list(truth_regions(rows, shapes_by_id))
    header = [
        "# Region file format: DS9 version 4.1",
        f"# {number(len(lines), 'injected source')} of the campaign {_plain(campaign.config.name)}, {_plain(what)}",
        'global color=cyan width=1 font="helvetica 10 normal roman" select=1 edit=1 move=0 delete=1 include=1',
        frame,
    ]
    return "\n".join([*header, *lines]) + "\n"


def _campaign_shapes(campaign: Campaign) -> list[dict[str, Any]]:
    folder = campaign.layout.sources
    if not folder.is_dir():
        return []
    dataset = ds.dataset(folder, format="parquet", partitioning="hive")
    names = [name for name in _SHAPES if name in dataset.schema.names]
    return list(dataset.to_table(columns=["injection_id", *names]).to_pylist())


def truth_regions(rows: Iterable[Mapping[str, Any]], shapes: Mapping[Any, Mapping[str, Any]]) -> Iterator[str]:
    """Write rows of truth as regions, one for each source and position, in order of source.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of truth that were drawn: injection_id, ra, dec, source_type, band, mag, psf_fwhm.
    shapes : mapping of injection id to mapping
        Rows of the catalogue with the columns of shapes.

    Yields
    ------
    str
        A line of a region file.
    """
    places: dict[tuple[Any, int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        # What is at the same milliarcsecond is at the same place.
        places[row["injection_id"], round(row["ra"] * _MAS), round(row["dec"] * _MAS)].append(row)
    for (name, _, _), same in sorted(places.items(), key=lambda item: item[0]):
        first = same[0]
        kind = str(first["source_type"])
        shape = _shape(first, shapes.get(name, {}), kind)
        color = _COLORS.get(kind, _GALAXY)
        text = _plain(f"{name} {kind} {_mags(same)}".strip())
        yield f"{shape} # color={color} text={{{text}}} tag={{{_plain(kind)}}}"


def _shape(row: Mapping[str, Any], shape: Mapping[str, Any], kind: str) -> str:
    ra, dec = float(row["ra"]), float(row["dec"])
    place = f"{ra:.8f},{dec:+.8f}"
    if kind == "Trail" and _is_positive(length := _value(shape, "trail_length")):
        return "line({},{})".format(*_ends(ra, dec, length, _value(shape, "trail_pa", 0.0)))
    prefix = "disk_" if kind == "BulgeDisk" else ""
    radius = _value(shape, f"{prefix}half_light_radius")
    if kind not in ("Star", "Trail", "Stamp") and _is_positive(radius):
        ratio, angle = _value(shape, f"{prefix}q", 1.0), _value(shape, f"{prefix}pa", 0.0)
        lens = [_value(shape, name, none) for name, none in (("shear", 0.0), ("shear_pa", 0.0), ("magnification", 1.0))]
        if lens[0] != 0 or lens[2] != 1:
            radius, ratio, angle = (float(value) for value in lensed_ellipse(radius, ratio, angle, *lens))
        # DS9's angles run counterclockwise from West, position angles from North.
        angle = (angle + 90.0) % 180.0
        major, minor = radius / math.sqrt(ratio), radius * math.sqrt(ratio)
        return f'ellipse({place},{major:.4f}",{minor:.4f}",{angle:.3f})'
    fwhm = _value(row, "psf_fwhm")
    return f'circle({place},{fwhm if _is_positive(fwhm) else _RADIUS:.4f}")'


def _ends(ra: float, dec: float, length: float, angle: float) -> tuple[str, str]:
    east, north = (length / 7200 * f(math.radians(angle)) for f in (math.sin, math.cos))
    stretch = max(math.cos(math.radians(dec)), 1e-9)
    ends = [((ra + s * east / stretch) % 360, dec + s * north) for s in (-1, 1)]
    first, second = (f"{a:.8f},{d:+.8f}" for a, d in ends)
    return first, second


def _value(row: Mapping[str, Any], name: str, default: float = math.nan) -> float:
    value = row.get(name)
    found = default if value is None else float(value)
    return found if math.isfinite(found) else default


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _mags(rows: Iterable[Mapping[str, Any]]) -> str:
    """Magnitudes by band; of one that varies, the brightest and the faintest."""
    bands: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["mag"] is not None and np.isfinite(row["mag"]):
            bands[str(row["band"] or "mag")].append(float(row["mag"]))
    words = []
    for band, mags in sorted(bands.items()):
        low, high = f"{min(mags):.2f}", f"{max(mags):.2f}"
        words.append(f"{band}={low}" if low == high else f"{band}={low}-{high}")
    return " ".join(words)


def _plain(text: str) -> str:
    """Text that cannot end a region's text, or its line."""
    return "".join(" " if c in "{}\"'" or not c.isprintable() else c for c in text)
