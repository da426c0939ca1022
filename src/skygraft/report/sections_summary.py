"""The first sections of a report: headline numbers, and the sky map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from skygraft.report.blocks import Block, Figures, Level, Note, Section, Tile
from skygraft.report.counting import TruthCounts
from skygraft.report.facts import CampaignFacts
from skygraft.report.sections_campaign import TOLERANCE_MMAG, closure_by_band, missing
from skygraft.report.sky import draw_sky, read_outlines
from skygraft.report.studio import Studio
from skygraft.tables.calibrations import mixed_calibrations
from skygraft.wording import count, number

if TYPE_CHECKING:
    from skygraft.report.counting import Sample

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


def sky(facts: CampaignFacts, places: Sample | None, studio: Studio, *, has_recovery: bool) -> Section:
    """The map of images and fakes.

    Parameters
    ----------
    facts : CampaignFacts
    places : Sample or None
        Places of fakes; None where there is no table of them.
    studio : Studio
    has_recovery : bool
        Whether the kinds of `places` say what was found.
    """
    from skygraft.report.counting import Sample as NewSample

    section = Section("sky", "Sky map")
    outlines = read_outlines(facts.plan)
    shown = places if places is not None else NewSample()
    drawing, frame = draw_sky(outlines, shown, has_recovery=has_recovery)
    n_outlines, n_images = len(outlines[0]), outlines[1]
    images = f"Outlines of {number(n_images, 'image')}" + (
        f" ({n_outlines:,} of them drawn)" if n_outlines < n_images else ""
    )
    dots = ""
    if shown.n:
        some = f"a sample of {len(shown.ra):,} of the {shown.n:,}" if len(shown.ra) < shown.n else f"the {shown.n:,}"
        what = "usable fakes, found or not" if has_recovery else "fakes drawn"
        dots = f", and {some} {what}"
    caption = f"{images}{dots}. Zenithal equal-area projection, north up, east left."
    alt = (
        f"Map of the sky about right ascension {frame.ra:.3f} and declination {frame.dec:.3f} degrees, "
        f"{2 * frame.radius:.3g} degrees wide, with {images[0].lower()}{images[1:]}{dots}."
    )
    figure = studio.keep(drawing, "sky", title="Images and fakes", caption=caption, alt=alt)
    blocks: list[Block] = [Figures((figure,))]
    if places is None:
        blocks.append(
            missing("The tables of truth are not written yet, so no fake is shown.", f"skygraft run {facts.command}")
        )
    section.add(*blocks)
    return section
