"""The section of a report for whoever writes the paper: methods with the numbers in it, and citations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skygraft.report.blocks import Code, Section, Text, within
from skygraft.report.counting import TruthCounts, total
from skygraft.report.facts import CampaignFacts
from skygraft.report.recovered import Recovered, fits_badly, kind_name
from skygraft.report.references import PAPERS, bibtex
from skygraft.report.sections_campaign import closure_by_band
from skygraft.report.sections_completeness import is_known
from skygraft.report.sections_summary import is_mixed
from skygraft.wording import number

if TYPE_CHECKING:
    from skygraft.statistics import CompletenessFit
    from skygraft.tables.calibrations import CalibrationUse

__all__ = ["methods_section", "methods_text"]

_DRAWN_BY_GALSIM = ("InclinedExponential", "InclinedSersic", "RealGalaxy")


@dataclass
class _Text:
    """Sentences, and the papers that they cite in the order of the text."""

    sentences: list[str] = field(default_factory=list)
    cited: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        if sentence:
            self.sentences.append(sentence)

    def cite(self, *keys: str) -> str:
        self.cited += [key for key in keys if key not in self.cited]
        return f"({'; '.join(PAPERS[key][0] for key in keys)})"


def methods_section(facts: CampaignFacts, text: str, cited: list[str], version: str) -> Section:
    """The paragraph, how to cite, and BibTeX.

    Parameters
    ----------
    facts : CampaignFacts
    text, cited
        From `methods_text`.
    version : str
        Of the skygraft that makes the report, for campaigns that do not say what made them.
    """
    runs = facts.provenance.activities if facts.provenance is not None else {}
    year = str(runs.get("run", {}).get("endTime", ""))[:4]
    papers = _listed([PAPERS[key][0] for key in cited])
    return Section(
        "methods",
        "Methods, and how to cite",
        [
            Text("For the paper, with the numbers of this campaign; what is written here was done, and nothing else."),
            Code("Methods", text, prose=True),
            Text(f"Please cite skygraft{f', and {papers}' if papers else ''}."),
            Code("BibTeX", bibtex(cited, _made_by(facts, version), year)),
        ],
    )


def methods_text(
    facts: CampaignFacts, truth: TruthCounts | None, found: Recovered | None, version: str
) -> tuple[str, list[str]]:
    """Return the paragraph, and the keys of the papers that it cites.

    Parameters
    ----------
    facts : CampaignFacts
    truth : TruthCounts or None
        None where the tables are not written.
    found : Recovered or None
        None where nothing was recovered.
    version : str
        As in `methods_section`.
    """
    text = _Text()
    _injection(text, facts, truth, version)
    _closure(text, facts)
    if found is not None:
        _recovery(text, found)
    return " ".join(text.sentences), text.cited


def _made_by(facts: CampaignFacts, version: str) -> str:
    agents = facts.provenance.agents.values() if facts.provenance is not None else ()
    versions = sorted({str(agent["version-skygraft"]) for agent in agents if "version-skygraft" in agent})
    return ", ".join(versions) or version


def _injection(text: _Text, facts: CampaignFacts, truth: TruthCounts | None, version: str) -> None:
    status, config = facts.status, facts.campaign.config
    bands = [band for band in facts.bands if band]
    where = f" in {_listed(bands)}" if bands else ""
    text.say(
        f"Artificial sources were injected into {number(status.n_done, 'image')}{where} with skygraft "
        f"{_made_by(facts, version)}."
    )
    if truth is not None and (rows := sum(truth.drawn.values())):
        kinds = sorted({kind for (_, kind), n in truth.drawn.items() if n}, key=lambda k: -total(truth.drawn, kind=k))
        parts = [f"{total(truth.drawn, kind=kind):,} times {kind_name(kind)}" for kind in kinds]
        low, high = min(truth.low.values(), default=np.nan), max(truth.high.values(), default=np.nan)
        mags = f", of magnitudes {low:.1f} to {high:.1f}" if np.isfinite(low) else ""
        text.say(f"In all, {rows:,} sources were drawn ({_listed(parts)}){mags}.")
    text.say(_scaled(text, facts))
    injection = config.injection
    if injection.noise:
        kind = " with the correlation of the coadds' own noise" if facts.noise == {"correlated"} else ""
        text.say(
            f"Their photon noise was drawn{kind} by the gain of each image (seed {injection.seed}), and its expected "
            "variance was added to the variance planes."
        )
    else:
        text.say("No photon noise of the sources was added.")
    if truth is not None and any(total(truth.drawn, kind=kind) for kind in _DRAWN_BY_GALSIM):
        text.say(f"Inclined disks and real galaxies were drawn with GalSim {text.cite('rowe2015')}.")


def _scaled(text: _Text, facts: CampaignFacts) -> str:
    """How the PSF was scaled: what the calibrated fluxes are the flux of."""
    uses = facts.calibrations
    if not uses:
        return ""
    if is_mixed(facts):
        parts = [f"{_reference(use)} for {number(use.n_images, 'image')}" for use in uses[:6]]
        return (
            "The PSF model of each image was scaled, at each source, to what its calibrated flux is the flux of: "
            f"{_listed(parts)}."
        )
    if uses[0].kind == "aperture":
        how = text.cite("bickerton2013")
        return (
            "The PSF model of each image was scaled, at each source, so that the flux inside the calibration aperture "
            f"({_reference(uses[0])}; {uses[0].origin or 'origin unknown'}) is that of the magnitude in the image's "
            f"own photometric calibration; aperture fluxes of PSF models are band-limited integrals {how}."
        )
    what = "to unit sum" if uses[0].kind == "psf_model" else "so that its total flux is that of the magnitude"
    return (
        f"The PSF model of each image was scaled {what}, as its calibration means ({uses[0].origin or uses[0].kind})."
    )


def _reference(use: CalibrationUse) -> str:
    return str(use).removeprefix("aperture of ")


def _closure(text: _Text, facts: CampaignFacts) -> None:
    measured = {band: one for band, one in closure_by_band(facts.closures).items() if one["median"] is not None}
    if measured:
        parts = [
            f"{one['median']:+.2f} mmag{f' in {band}' if band else ''}".replace("-", "−")
            for band, one in measured.items()
        ]
        text.say(
            f"Lone injected stars, measured inside that aperture on output minus input, are recovered to "
            f"{_listed(parts)} (medians of images)."
        )


def _recovery(text: _Text, found: Recovered) -> None:
    counts, settings = found.counts, found.settings
    usable = total(counts.usable)
    text.say(_detected(text, settings))
    text.say(
        f"Of {total(counts.rows):,} sources on images, {usable:,} are usable (drawn, centred on good pixels), "
        f"and {total(counts.found):,} of these were recovered: detected in the injected image, where the original has "
        "no detection that they could be taken for."
    )
    fits = [(band, kind, fit) for (band, kind), fit in found.fits.items() if is_known(fit) and not fits_badly(fit)]
    if fits:
        parts = [
            f"{within(fit.m50, fit.m50_error)} for {kind_name(kind)}{f' in {band}' if band else ''}"
            for band, kind, fit in fits
        ]
        errors = text.cite("efron1979")
        text.say(
            f"Completeness is 50 % at magnitude {_listed(parts)}, from {_curves(fits)} fitted to single sources, "
            f"with errors from a bootstrap of the sources {errors}."
        )
        text.say(f"Completeness in bins has 68 % Wilson score intervals {text.cite('wilson1927')}.")


def _curves(fits: list[tuple[str, str, CompletenessFit]]) -> str:
    names = {"logistic": "logistic functions", "double_fermi": "double Fermi functions"}
    return _listed([names.get(model, model) for model in sorted({fit.model for _, _, fit in fits}, reverse=True)])


def _detected(text: _Text, settings: dict[str, Any]) -> str:
    if settings.get("catalogs") or settings.get("catalogues"):
        return "They were looked for in catalogues that were measured on the injected and on the original images."
    threshold, area = settings.get("threshold"), settings.get("min_area")
    if not isinstance(threshold, int | float):
        return ""
    what = f"at {threshold:g} standard deviations"
    what += f" in at least {area} connected pixels" if isinstance(area, int) else ""
    cited = text.cite("bertin1996", "barbary2016")
    return f"Sources were detected {what} on injected and original images with SEP {cited}."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
