"""The sections of a report that need no recovery: calibration apertures, closure, failures, provenance."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from skygraft.place_names import shown_place
from skygraft.report.blocks import Block, Cell, Column, Facts, Note, Section, Table, Text, cell, signed
from skygraft.report.facts import CampaignFacts, ImageClosure
from skygraft.tables.calibrations import describe, mixed_calibrations
from skygraft.wording import data_size, number

__all__ = ["apertures", "closure_by_band", "failures", "provenance", "record_closure"]

_MOST_ROWS = 200
_WORST = 20
TOLERANCE_MMAG = 25.0
"""As `skygraft.qa.closure.RESOLUTION`: a wrong or ignored aperture radius causes offsets of 10 to 80 mmag."""


def apertures(facts: CampaignFacts, checked: Sequence[Block]) -> Section:
    """What the images' calibrated fluxes are the flux of, who says so, and what curves of growth say of it."""
    section = Section("apertures", "Calibration apertures")
    found = facts.provenance
    if found is not None and found.calibrations:
        summary = found.entities.get("calibrations", {})
        rows, mixed = [_reference(one) for one in found.calibrations], bool(summary.get("mixed_calibrations"))
        text = str(summary.get("label", ""))
    elif facts.calibrations:
        rows = [_reference(_as_attributes(use)) for use in facts.calibrations]
        mixed, text = mixed_calibrations(facts.calibrations), describe(facts.calibrations)
    else:
        section.add(Note("missing", "No image is done, so no calibration was used.", f"skygraft run {facts.command}"))
        return section
    section.add(
        Text(
            "A zeropoint turns a magnitude into the flux inside the aperture that the calibration measured. Every fake "
            "was scaled so that its flux there is that of its magnitude."
        ),
        Note("warning" if mixed else "good", text),
        Table(
            "Calibration references, with the radius and where it was found. The radius is not the diameter.",
            (
                Column("calibrated to"),
                *Column.numbers("radius (pix)", "radius (arcsec)"),
                Column("found in", long=True),
                Column("images", numeric=True),
                Column("bands"),
            ),
            rows[:_MOST_ROWS],
            len(rows),
        ),
    )
    if checked:
        section.add(*checked)
    else:
        section.add(
            Note(
                "missing",
                "Whether the zeropoints belong to these radii was not measured on the images' own stars.",
                f"skygraft aperture {facts.command}",
            )
        )
    return section


def _as_attributes(use: Any) -> dict[str, Any]:
    found = {"kind": use.kind, "origin": use.place, "n_images": use.n_images, "bands": list(use.bands)}
    for unit, span in (("pixels", use.pixels), ("arcsec", use.arcsec)):
        if span is not None:
            found |= {f"radius_{unit}_min": span[0], f"radius_{unit}_max": span[1]}
    return found


def _reference(one: Mapping[str, Any]) -> list[Cell]:
    kinds = {"aperture": "aperture", "psf_model": "PSF model", "total": "total flux"}
    origin = str(one.get("origin", "unknown"))
    if files := one.get("example_files"):
        origin += f", for example {files if isinstance(files, str) else files[0]}"
    bands = one.get("bands", [])
    return [
        cell(kinds.get(str(one.get("kind")), str(one.get("kind") or "unknown"))),
        _radius(one, "pixels"),
        _radius(one, "arcsec"),
        cell(origin),
        cell(int(one.get("n_images", 0))),
        cell(bands if isinstance(bands, str) else ", ".join(map(str, bands))),
    ]


def _radius(one: Mapping[str, Any], unit: str) -> Cell:
    value = one.get(f"radius_{unit}")
    low, high = one.get(f"radius_{unit}_min", value), one.get(f"radius_{unit}_max", value)
    if low is None or high is None:
        return cell(None)
    texts = f"{low:.4g}", f"{high:.4g}"
    return Cell(texts[0] if texts[0] == texts[1] else " to ".join(texts), float(low))


def closure_by_band(closures: Sequence[ImageClosure]) -> dict[str, dict[str, Any]]:
    """Closure of the records by band: images, images with stars, stars, median and largest of the images' medians."""
    found: dict[str, dict[str, Any]] = {}
    for band in sorted({one.band for one in closures}):
        some = [one for one in closures if one.band == band]
        medians = [1e3 * one.median_mag for one in some if one.median_mag is not None]
        found[band] = {
            "images": len(some),
            "measured": len(medians),
            "stars": sum(one.n_stars for one in some),
            "median": statistics.median(medians) if medians else None,
            "worst": max(medians, key=abs) if medians else None,
        }
    return found


def record_closure(facts: CampaignFacts) -> list[Block]:
    """Closure as each task measured it on its own image, from the records."""
    bands = closure_by_band(facts.closures)
    if not facts.n_records:
        return [Note("missing", "No image is done, so nothing was measured.", f"skygraft run {facts.command}")]
    sample = f" A sample of {number(facts.n_records, 'record')} was read." if facts.is_sample else ""
    if not bands or not any(one["measured"] for one in bands.values()):
        return [
            Note(
                "missing",
                "No image had an isolated star that could be measured while it was made (images without a calibration "
                f"aperture have none).{sample}",
                f"skygraft verify {facts.command}",
            )
        ]
    rows = [
        [
            cell(band or "unknown"),
            cell(one["images"]),
            cell(one["measured"]),
            cell(one["stars"]),
            Cell(signed(one["median"], 2), one["median"]) if one["median"] is not None else cell(None),
            Cell(signed(one["worst"], 2), one["worst"], "bad" if abs(one["worst"]) > TOLERANCE_MMAG else "")
            if one["worst"] is not None
            else cell(None),
        ]
        for band, one in bands.items()
    ]
    return [
        Text(
            "Closure is the flux of lone injected stars inside the calibration aperture, measured on output minus "
            "input, against the flux that was asked for. Each task measured it on its own image, from the brightest "
            f"lone stars.{sample}"
        ),
        Table(
            "Closure by band, from the records: recovered minus injected magnitude",
            (
                Column("band"),
                *Column.numbers("images", "with lone stars", "stars", "median (mmag)", "worst image (mmag)"),
            ),
            rows,
        ),
        Note("missing", "The outputs were not verified independently.", f"skygraft verify {facts.command}"),
    ]


def failures(facts: CampaignFacts) -> Section:
    """The images that could not be made, and files that are damaged."""
    section = Section("failures", "Failures")
    status = facts.status
    counts: tuple[tuple[int, str, Literal["bad", "warning"], str], ...] = (
        (status.n_failed, "could not be made", "bad", "run --retry-failed"),
        (status.n_unusable, "of the survey cannot be used", "bad", ""),
        (status.n_damaged, "with damaged files, which a run repairs", "bad", "run"),
        (status.n_remaining, "not made yet", "warning", "run"),
    )
    for n, what, level, command in counts:
        if n:
            section.add(Note(level, f"{number(n, 'image')} {what}.", command and f"skygraft {command} {facts.command}"))
    section.add(*(Note("bad", f"Not as it was written: {text}") for text in status.files[:_WORST]))
    rows = [(f.image_id, f.error, f.message, f.tries, "quarantined" if f.quarantined else "") for f in status.failures]
    rows += [(bad.path, bad.error, bad.message, 1, "not planned") for bad in status.unusable]
    if not section.blocks:
        section.add(Note("good", f"None: {number(status.n_done, 'image')} of {status.n_images:,} are done and whole."))
    if rows:
        section.add(
            Table(
                "Images that failed or cannot be used, with what is wrong; all of them are in failures.parquet",
                (
                    Column("image", long=True),
                    Column("error", code=True),
                    Column("what it says", long=True),
                    Column("tries", numeric=True),
                    Column("state"),
                ),
                [[cell(value) for value in row] for row in rows[:_MOST_ROWS]],
                status.n_failed + status.n_unusable,
            )
        )
    return section


def provenance(facts: CampaignFacts, version: str) -> Section:
    """What made the outputs: software, seed, configuration, inputs and runs."""
    section = Section("provenance", "Provenance")
    found, config = facts.provenance, facts.campaign.config
    injection = config.injection
    if found is None:
        section.add(
            Note(
                "missing",
                "provenance.json is not there: a run writes it at its end.",
                f"skygraft run {facts.command}",
            )
        )
    run = found.run if found is not None else {}
    entities = found.entities if found is not None else {}
    configuration, catalog = entities.get("configuration", {}), entities.get("catalog", {})
    rows = [
        ("campaign", config.name),
        ("configuration", _hash(configuration.get("settings-sha256"), "settings that pixels depend on")),
        ("seed", str(run.get("seed", injection.seed))),
        ("flux", _flux(facts)),
        ("photon noise", _noise(facts)),
        ("conventions", str(run.get("conventions", injection.conventions))),
        ("pixel version", _listed(run.get("pixel_version"))),
        ("images", shown_place(config.survey.root)),
        ("catalogue", f"{config.catalog.path}{_of_size(catalog)}"),
        ("sky map", str(configuration.get("skymap", config.skymap))),
        ("output", shown_place(config.output)),
        ("this report", f"skygraft {version}"),
    ]
    if found is None:
        section.add(Facts(tuple((name, text) for name, text in rows if text)))
        return section
    for agent in found.agents.values():
        names = sorted(name for name in agent if name.startswith("version-"))
        text = ", ".join(f"{name.removeprefix('version-')} {agent[name]}" for name in names)
        rows.append((f"software of {number(int(agent.get('n_images', 0)), 'image')}", text))
    section.add(Facts(tuple((name, text) for name, text in rows if text)))
    if runs := [name for name in found.activities if name.startswith("run-")]:
        section.add(
            Table(
                "Runs",
                (
                    Column("run", numeric=True),
                    Column("began (UTC)"),
                    Column("ended (UTC)"),
                    Column("images made", numeric=True),
                ),
                [_run(i, found.activities[name], facts.made[i - 1 : i]) for i, name in enumerate(runs, start=1)],
            )
        )
    return section


def _run(i: int, run: Mapping[str, Any], made: Sequence[int | None]) -> list[Cell]:
    ended = _clock(run.get("endTime")) or "was killed"
    n_done = made[0] if made and made[0] is not None else run.get("n_done")
    return [cell(i), cell(_clock(run.get("startTime"))), cell(ended), cell(n_done)]


def _clock(iso: Any) -> str:
    return str(iso or "")[:19].replace("T", " ")


def _hash(value: Any, what: str) -> str:
    return f"{what}: SHA-256 {value}" if value else ""


def _of_size(entity: Mapping[str, Any]) -> str:
    size, checksum = entity.get("n_bytes"), entity.get("sha256")
    parts = [data_size(size)] if isinstance(size, int) else []
    parts += [f"SHA-256 {checksum}"] if checksum else []
    return f" ({', '.join(parts)})" if parts else ""


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _flux(facts: CampaignFacts) -> str:
    injection = facts.campaign.config.injection
    return injection.flux_mode + (f", aperture {injection.aperture}" if injection.aperture else "")


def _noise(facts: CampaignFacts) -> str:
    if not facts.campaign.config.injection.noise:
        return "none"
    return "Poisson, " + ", ".join(sorted(facts.noise)) if facts.noise else "Poisson"
