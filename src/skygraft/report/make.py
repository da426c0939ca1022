"""Make the report of a campaign: its page, its figures, and its numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import skygraft
from skygraft.disk import atomic_path
from skygraft.errors import SkygraftError
from skygraft.report.blocks import Block, Files, Note, Section, Text, Tiles
from skygraft.report.counting import BATCH_ROWS, TruthCounts, count_truth
from skygraft.report.cutouts import cutout_blocks
from skygraft.report.facts import CampaignFacts, read_facts
from skygraft.report.methods import methods_section, methods_text
from skygraft.report.numbers import write_numbers
from skygraft.report.page import render_page
from skygraft.report.products import product_notes, product_rows, product_settings, product_tables
from skygraft.report.recovered import Recovered, measure_recovered
from skygraft.report.sections_campaign import apertures, failures, provenance, record_closure
from skygraft.report.sections_checks import count_verification, verification_blocks
from skygraft.report.sections_classes import classes_section
from skygraft.report.sections_completeness import completeness_section, completeness_tiles
from skygraft.report.sections_conditions import conditions_section
from skygraft.report.sections_growth import count_growth, growth_blocks
from skygraft.report.sections_measured import measured_section, measured_tiles
from skygraft.report.sections_missed import missed_section
from skygraft.report.sections_selection import selection_section
from skygraft.report.sections_summary import campaign_tiles, lead, sky, state_notes
from skygraft.report.sections_transients import transients_section
from skygraft.report.studio import Studio
from skygraft.report.style import style

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["make_report"]

_ISOLATION = 3.0
"""Distance to the nearest real source from which a fake counts as isolated, arcsec, where no aperture says more."""
_FILES_NOTE = "Figures are beside the page as PNG and PDF, in the folder figures; numbers in the folder numbers."
_PAGE, _FIGURES, _NUMBERS = "report.html", "figures", "numbers"


def make_report(campaign: Campaign, output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a campaign, as far as it is: one HTML file that needs no other.

    Beside it are the figures as PNG and PDF, and the numbers as NetCDF, Parquet and JSON. What has not been measured is
    said in the page, with the command that does. The same campaign gives the same page, byte for byte.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been planned.
    output : path-like, optional
        Folder to write to; by default ``report`` in the campaign's output.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    CampaignError
        If the campaign has no plan.
    OutputError
        If the folder cannot be written.
    """
    folder = Path(output) if output is not None else campaign.layout.root / "report"
    facts = read_facts(campaign)
    with style():
        title, sections = _sections(facts, folder)
    version = skygraft.__version__
    footer = f"Made by skygraft {version} from {campaign.config.output}."
    page = render_page(campaign.config.name, title, sections, folder=_FIGURES, version=version, footer=footer)
    path = folder / _PAGE
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sections(facts: CampaignFacts, folder: Path) -> tuple[str, list[Section]]:
    """The sentence below the name, and all sections; figures and numbers are written."""
    studio, version = Studio(folder / _FIGURES), skygraft.__version__
    problems: dict[str, Note] = {}
    truth = _read(lambda: _read_truth(facts.campaign), "tables of truth", f"skygraft run {facts.command}", problems)
    recovered = _read(lambda: _read_recovered(facts), "recovery tables", f"skygraft recover {facts.command}", problems)
    tiles = campaign_tiles(facts, truth)
    places = truth.places if truth is not None else None
    found: list[Section] = []
    if recovered is None:
        note = Note(
            "missing", "What was found of the fakes has not been measured.", f"skygraft recover {facts.command}"
        )
        found.append(Section("completeness", "Completeness", [problems.get("recovery tables", note)]))
    else:
        places = recovered.counts.places
        tiles += [*completeness_tiles(recovered), *measured_tiles(recovered)]
        found += _recovery_sections(facts, recovered, studio)
    summary = Section("summary", "Summary", [Tiles(tuple(tiles)), *state_notes(facts), *problems.values()])
    methods, cited = methods_text(facts, truth, recovered, version)
    files = write_numbers(folder / _NUMBERS, facts, recovered, tiles, methods)
    return lead(facts, truth), [
        summary,
        sky(facts, places, studio, None if recovered is None else recovered.tables),
        *found,
        apertures(facts, _growth(facts, studio)),
        Section("closure", "Closure", _closure(facts)),
        failures(facts),
        provenance(facts, version),
        methods_section(facts, methods, cited, version),
        Section("files", "Files", [Files(_NUMBERS, tuple(files)), Text(_FILES_NOTE)]),
    ]


def _recovery_sections(facts: CampaignFacts, recovered: Recovered, studio: Studio) -> list[Section]:
    first = completeness_section(recovered, studio)
    first.blocks[:0] = product_notes(facts.campaign, "recovery", f"skygraft recover {facts.command}")
    return [
        first,
        selection_section(recovered, _NUMBERS),
        measured_section(recovered, studio),
        classes_section(recovered, studio),
        transients_section(recovered, studio),
        conditions_section(recovered, studio),
        missed_section(recovered, cutout_blocks(facts.campaign, recovered), studio),
    ]


def _growth(facts: CampaignFacts, studio: Studio) -> list[Block]:
    """What the curves of growth say, if they were measured."""
    command, problems = f"skygraft aperture {facts.command}", dict[str, Note]()
    dataset = product_tables(facts.campaign, "apertures")
    if dataset is None:
        return []
    found = _read(lambda: count_growth(dataset), "tables of apertures", command, problems)
    blocks = [] if found is None else growth_blocks(found, studio)
    return [*problems.values(), *product_notes(facts.campaign, "apertures", command), *blocks]


def _closure(facts: CampaignFacts) -> list[Block]:
    """What the verification says, or else the records."""
    from skygraft.qa.verdicts import CHECKS

    command, problems = f"skygraft verify {facts.command}", dict[str, Note]()
    dataset = product_tables(facts.campaign, "verification")
    if dataset is None:
        return record_closure(facts)
    whole = product_rows(facts.campaign, "verification", "verdicts")
    found = _read(lambda: count_verification(dataset, whole), "tables of the verification", command, problems)
    blocks = record_closure(facts) if found is None else verification_blocks(found, CHECKS)
    return [*problems.values(), *product_notes(facts.campaign, "verification", command), *blocks]


def _read[T](read: Callable[[], T], what: str, command: str, problems: dict[str, Note]) -> T | None:
    """Read tables; what is wrong with them is said in the page, and stops nothing."""
    import pyarrow as pa

    try:
        return read()
    except (SkygraftError, OSError, KeyError, pa.ArrowException) as error:
        problems[what] = Note("bad", f"The {what} cannot be read: {error}.", command)
        return None


def _read_recovered(facts: CampaignFacts) -> Recovered | None:
    dataset = product_tables(facts.campaign, "recovery")
    if dataset is None:
        return None
    radii = [use.arcsec[1] for use in facts.calibrations if use.arcsec is not None]
    settings = product_settings(facts.campaign, "recovery")
    return measure_recovered(
        dataset,
        settings,
        isolation=max(radii, default=_ISOLATION),
        light_curves=facts.campaign.config.catalog.light_curves is not None,
    )


def _read_truth(campaign: Campaign) -> TruthCounts | None:
    """Counts of the tables of truth; None where there are none yet."""
    import pyarrow.dataset as ds

    folder = campaign.layout.truth
    files = sorted(str(path) for path in folder.glob("tract=*/patch=*/*.parquet"))
    if not files:
        return None
    columns = ["injection_id", "ra", "dec", "band", "source_type", "mag", "stamp_size", "is_primary"]
    return count_truth(ds.dataset(files, format="parquet").to_batches(columns=columns, batch_size=BATCH_ROWS))
