"""The first sections of a report: headline numbers, and the sky map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from skygraft.report.blocks import Figures, Level, Note, Section, Tile
from skygraft.report.counting import Sample, TruthCounts
from skygraft.report.facts import CampaignFacts
from skygraft.report.sections_campaign import TOLERANCE_MMAG, closure_by_band
from skygraft.report.sky import draw_pixels, draw_sky, read_outlines
from skygraft.report.studio import Studio
from skygraft.tables.calibrations import mixed_calibrations
from skygraft.wording import count, number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["campaign_tiles", "is_mixed", "lead", "sky", "state_notes"]


def lead(facts: CampaignFacts, truth: TruthCounts | None) -> str:
    """One sentence that says what the campaign is."""
    status = facts.status
    bands = [band for band in facts.bands if band]
    of = f" in {', '.join(bands)}" if 0 < len(bands) <= 8 else f" in {len(bands)} bands" if bands else ""
    instruments = ", ".join(name for name in facts.instruments if name)
    what = f"{number(status.n_images, 'image')}{of}" + (f" of {instruments}" if instruments else "")
    drawn = f", in which fakes were drawn {number(sum(truth.drawn.values()), 'time')}" if truth is not None else ""
    return f"{what}{drawn}."


def state_notes(facts: CampaignFacts) -> list[Note]:
    """What a reader must know before the numbers: that they are of a part, or of mixed calibrations."""
    status, notes = facts.status, []
    if status.running:
        notes.append(Note("warning", "A process runs the campaign: the numbers are those of now."))
    if status.n_done < status.n_images:
        text = f"The campaign is not finished: {status.n_done:,} of {number(status.n_images, 'image')} are done"
        parts = [(status.n_failed, "failed"), (status.n_remaining, "not made yet")]
        text += "".join(f", {n:,} {what}" for n, what in parts if n) + "."
        notes.append(Note("warning", text, f"skygraft run {facts.command}"))
    if status.n_unusable:
        notes.append(Note("warning", f"{number(status.n_unusable, 'more image')} of the survey cannot be used."))
    if is_mixed(facts):
        notes.append(
            Note(
                "bad",
                "The images do not all use the same calibration reference: a magnitude is the flux of different things "
                "on them. See Calibration apertures.",
            )
        )
    return notes


def is_mixed(facts: CampaignFacts) -> bool:
    """Whether the images are calibrated to different things."""
    if facts.provenance is not None and facts.provenance.run:
        return bool(facts.provenance.run.get("mixed_calibrations"))
    return mixed_calibrations(facts.calibrations)


def campaign_tiles(facts: CampaignFacts, truth: TruthCounts | None) -> list[Tile]:
    """Headline numbers of the campaign itself."""
    status = facts.status
    left = [f"{n:,} {what}" for n, what in ((status.n_failed, "failed"), (status.n_remaining, "not made yet")) if n]
    tiles = [
        Tile(
            "images done",
            count(status.n_done),
            ", ".join(left) or f"all of {count(status.n_images)}",
            "bad" if status.n_failed else "warning" if left else "good",
        )
    ]
    if truth is not None:
        rows = sum(truth.rows.values())
        tiles.append(Tile("fakes drawn", count(sum(truth.drawn.values())), f"of {number(rows, 'row')} of truth"))
    radii = sorted({str(use).removeprefix("aperture of ") for use in facts.calibrations})
    if radii:
        level: Level | Literal[""]
        first = facts.calibrations[0]
        value, level = radii[0], "bad" if is_mixed(facts) else ""
        short = value.removeprefix("radius ").split(" = ")
        text = "mixed" if level else short[0]
        detail = "; ".join(radii) if level else f"{' = '.join(short[1:])} · {first.origin}".strip(" ·")
        tiles.append(Tile("calibration radius" if first.kind == "aperture" else "calibrated to", text, detail, level))
    bands = closure_by_band(facts.closures)
    measured = {band: one for band, one in bands.items() if one["median"] is not None}
    if measured:
        band, worst = max(measured.items(), key=lambda item: abs(item[1]["median"]))
        value = f"{worst['median']:+.2f} mmag".replace("-", "−")
        where = f"median of {band or 'all'}" if len(measured) == 1 else f"median of {band}, the worst band"
        tiles.append(Tile("closure", value, where, "bad" if abs(worst["median"]) > TOLERANCE_MMAG else "good"))
    return tiles


def sky(facts: CampaignFacts, places: Sample | None, studio: Studio, maps: Mapping[str, xr.Dataset] | None) -> Section:
    """The map of images and fakes, and those of depth and completeness.

    Parameters
    ----------
    facts : CampaignFacts
    places : Sample or None
        Places of fakes; None where there is no table of them.
    studio : Studio
    maps : mapping of str to xarray.Dataset, or None
        Of the recovery; None where there is none. Kinds of `places` then say what was found.
    """
    section = Section("sky", "Sky map")
    outlines = read_outlines(facts.plan)
    shown = places if places is not None else Sample()
    drawing, frame = draw_sky(outlines, shown, has_recovery=maps is not None)
    n_outlines, n_images = len(outlines[0]), outlines[1]
    some_drawn = f" ({n_outlines:,} of them drawn)" if n_outlines < n_images else ""
    images, dots = f"Outlines of {number(n_images, 'image')}{some_drawn}", ""
    if shown.n:
        some = f"a sample of {len(shown.ra):,} of the {shown.n:,}" if len(shown.ra) < shown.n else f"the {shown.n:,}"
        dots = f", and {some} {'usable fakes, found or not' if maps is not None else 'fakes drawn'}"
    alt = (
        f"Map of the sky about right ascension {frame.ra:.3f} and declination {frame.dec:.3f} degrees, "
        f"{2 * frame.radius:.3g} degrees wide, with {images[0].lower()}{images[1:]}{dots}."
    )
    caption = f"{images}{dots}. Zenithal equal-area projection, north up, east left."
    figures = [studio.keep(drawing, "sky", title="Images and fakes", caption=caption, alt=alt)]
    kinds = {
        "map_completeness": ("Completeness", "completeness", "completeness", "Of usable fakes of all magnitudes"),
        "map_depth": ("Depth", "median", "5σ depth (mag)", "Median of the local depth at the fakes"),
        "map_bias": (
            "Bias of the magnitude",
            "median",
            "measured − injected (mag)",
            "Median in the calibration aperture, of found fakes of all types and magnitudes (galaxies have light "
            "outside it)",
        ),
    }
    for name, (title, variable, label, note) in kinds.items():
        table = (maps or {}).get(name)
        if table is None or table.sizes["pixel"] < _FEWEST_PIXELS:
            continue
        values = np.asarray(table[variable].values, dtype=float)
        if np.isfinite(values).sum() < _FEWEST_PIXELS:
            continue
        nside = int(table.attrs["nside"])
        drawing = draw_pixels(frame, np.asarray(table["pixel"].values), nside, values, label)
        low, middle, high = np.nanpercentile(values, [0, 50, 100])
        band = str(table.attrs.get("band", ""))
        where = f" in {band}" if band else ""
        caption = f"{note}{where}, in {table.sizes['pixel']:,} HEALPix pixels (nside {nside}, nested, ICRS)."
        alt = f"Map of {label}: from {low:.3g} to {high:.3g}, median {middle:.3g}."
        figures.append(studio.keep(drawing, name.replace("_", "-"), title=title, caption=caption, alt=alt))
    section.add(Figures(tuple(figures)))
    if places is None:
        text = "The tables of truth are not written yet, so no fake is shown."
        section.add(Note("missing", text, f"skygraft run {facts.command}"))
    return section


_FEWEST_PIXELS = 4
