"""Make the report of a campaign: its page, its figures, and its numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import skygraft
from skygraft.disk import atomic_path
from skygraft.report.blocks import Section, Tiles
from skygraft.report.counting import BATCH_ROWS, TruthCounts, count_truth
from skygraft.report.cutouts import cutout_blocks
from skygraft.report.facts import CampaignFacts, read_facts
from skygraft.report.page import render_page
from skygraft.report.products import product_settings, product_tables
from skygraft.report.recovered import Recovered, measure_recovered
from skygraft.report.sections_campaign import apertures, failures, missing, provenance, record_closure
from skygraft.report.sections_completeness import completeness_section, completeness_tiles
from skygraft.report.sections_measured import measured_section, measured_tiles
from skygraft.report.sections_missed import missed_section
from skygraft.report.sections_summary import campaign_tiles, lead, sky, state_notes
from skygraft.report.studio import Studio
from skygraft.report.style import style

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["make_report"]

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
    truth = _read_truth(campaign)
    dataset = product_tables(campaign, "recovery")
    recovered = None if dataset is None else measure_recovered(dataset, product_settings(campaign, "recovery"))
    with style():
        studio = Studio(folder / _FIGURES)
        sections = _sections(facts, truth, recovered, studio)
    version = skygraft.__version__
    page = render_page(
        campaign.config.name,
        lead(facts, truth),
        sections,
        folder=_FIGURES,
        version=version,
        footer=f"Made by skygraft {version} from {campaign.config.output}.",
    )
    path = folder / _PAGE
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sections(
    facts: CampaignFacts, truth: TruthCounts | None, recovered: Recovered | None, studio: Studio
) -> list[Section]:
    tiles = campaign_tiles(facts, truth)
    summary = Section("summary", "Summary", [])
    found: list[Section] = []
    if recovered is None:
        places = truth.places if truth is not None else None
        what = "What was found of the fakes has not been measured."
        found.append(Section("completeness", "Completeness", [missing(what, f"skygraft recover {facts.command}")]))
    else:
        places = recovered.counts.places
        tiles += [*completeness_tiles(recovered), *measured_tiles(recovered)]
        found += [
            completeness_section(recovered, studio),
            measured_section(recovered, studio),
            missed_section(recovered, cutout_blocks(facts.campaign, recovered), studio),
        ]
    summary.add(Tiles(tuple(tiles)), *state_notes(facts))
    closure = Section("closure", "Closure", record_closure(facts))
    return [
        summary,
        sky(facts, places, studio, has_recovery=recovered is not None),
        *found,
        apertures(facts, []),
        closure,
        failures(facts),
        provenance(facts, skygraft.__version__),
    ]


def _read_truth(campaign: Campaign) -> TruthCounts | None:
    """Counts of the tables of truth; None where there are none yet."""
    import pyarrow.dataset as ds

    folder = campaign.layout.truth
    files = sorted(str(path) for path in folder.glob("tract=*/patch=*/*.parquet"))
    if not files:
        return None
    columns = ["injection_id", "ra", "dec", "band", "source_type", "mag", "stamp_size", "is_primary"]
    return count_truth(ds.dataset(files, format="parquet").to_batches(columns=columns, batch_size=BATCH_ROWS))
