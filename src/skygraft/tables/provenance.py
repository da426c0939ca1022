"""The provenance of a campaign's outputs, as one W3C PROV-JSON file that begins with the calibration."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from skygraft.catalog.hats_files import folder_identity
from skygraft.config.campaign import CampaignConfig, SurveyConfig
from skygraft.conventions import conventions_record
from skygraft.place_names import shown_place
from skygraft.places import beneath, bring, see
from skygraft.provenance import ProvGraph
from skygraft.records.events import RunEnded, RunStarted, TablesStarted
from skygraft.records.file_checksums import checked_path
from skygraft.records.files import Layout, digest, sha256_file
from skygraft.records.plan_file import Plan
from skygraft.tables.calibrations import CalibrationUse
from skygraft.tables.consolidate import Consolidation

__all__ = ["campaign_provenance", "write_provenance"]

_LEAST_SPREAD = 1e-6


def write_provenance(
    config: CampaignConfig,
    plan: Plan,
    found: Consolidation,
    *,
    runs: Iterable[RunStarted | TablesStarted | RunEnded],
    ended: str,
    n_failed: int,
    n_quarantined: int = 0,
) -> None:
    """Write ``provenance.json``; parameters as for `campaign_provenance`.

    Raises
    ------
    OutputError
        If it cannot be written, or a file that it describes cannot be read.
    """
    with checked_path(Layout(config.output).provenance) as temporary:
        document = campaign_provenance(
            config, plan, found, runs=runs, ended=ended, n_failed=n_failed, n_quarantined=n_quarantined
        )
        # Not sorted by name: whoever opens the file sees the calibration first.
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def campaign_provenance(
    config: CampaignConfig,
    plan: Plan,
    found: Consolidation,
    *,
    runs: Iterable[RunStarted | TablesStarted | RunEnded],
    ended: str,
    n_failed: int,
    n_quarantined: int = 0,
) -> dict[str, Any]:
    """Describe a campaign's outputs: what they were made from, with which software, and when.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    found : Consolidation
        Summary of its outputs.
    runs : iterable of RunStarted, TablesStarted or RunEnded
        The ledger's events of runs, in order (`skygraft.records.ledger.read_runs`).
    ended : str
        When the run that writes this ended, ISO 8601.
    n_failed, n_quarantined : int
        Images whose last attempt failed, and those of them that are quarantined because they kill workers.

    Returns
    -------
    dict
        A PROV-JSON document, in reading order.
    """
    graph = ProvGraph()
    references = _calibrations(graph, found)
    inputs = [*_inputs(graph, config, plan), *references]
    outputs = _outputs(graph, found, n_failed, n_quarantined)
    conventions = conventions_record(config.injection.conventions)
    unusable = len(plan.metadata.get("unusable", []))
    left = max(found.n_images - found.n_done - n_failed, 0)
    times = _runs(runs, ended)
    graph.activity(
        "run",
        "sg:Campaign",
        config.name if found.complete else f"{config.name}: {_incomplete(found, n_failed, n_quarantined, left)}",
        times[0][0] if times else None,
        ended,
        complete=found.complete,
        mixed_calibrations=found.mixed_calibrations,
        n_images=found.n_images,
        n_done=found.n_done,
        n_failed=n_failed,
        n_quarantined=n_quarantined,
        n_remaining=left,
        n_unusable=unusable,
        n_damaged=len(found.problems),
        n_drawn=found.n_drawn,
        n_hosts=len(found.hosts),
        n_runs=len(times),
        seed=config.injection.seed,
        flux_mode=config.injection.flux_mode,
        conventions=conventions["name"],
        conventions_version=conventions.get("commit"),
        aperture=None if config.injection.aperture is None else str(config.injection.aperture),
        noise=config.injection.noise,
        coadd_noise=config.injection.coadd_noise,
        pixel_version=[version for version, _ in found.pixel_versions],
    )
    for i, (start, end, attributes) in enumerate(times, start=1):
        graph.activity(f"run-{i}", "sg:Run", f"run {i} of the campaign", start, end, **attributes)
        graph.relate("wasInformedBy", "run", f"run-{i}")
    for i, (versions, n) in enumerate(found.software):
        named = {f"version-{package}": version for package, version in sorted(versions.items())}
        graph.agent(f"software-{i}", f"skygraft and what it runs on, which made {n} images", n_images=n, **named)
        graph.relate("wasAssociatedWith", "run", f"software-{i}", plan="configuration")
    for name in inputs:
        graph.relate("used", "run", name)
    for name in outputs:
        graph.relate("wasGeneratedBy", name, "run")
        for origin in inputs:
            graph.relate("wasDerivedFrom", name, origin)
    for name in references[1:]:
        graph.relate("hadMember", "calibrations", name)
    return graph.to_dict()


def _incomplete(found: Consolidation, n_failed: int, n_quarantined: int, left: int) -> str:
    return (
        f"INCOMPLETE, {found.n_done} of {found.n_images} images are done ({n_failed} failed, {n_quarantined} of them "
        f"in quarantine; {left} not made yet)"
    )


def _calibrations(graph: ProvGraph, found: Consolidation) -> list[str]:
    """The calibration references: all together, in words, then each."""
    names = [
        graph.entity(
            "calibrations",
            ["sg:CalibrationSummary", "prov:Collection"],
            found.calibration_text,
            mixed_calibrations=found.mixed_calibrations,
            n_references=len(found.calibrations),
            n_images=found.n_done,
        )
    ]
    for i, use in enumerate(found.calibrations):
        names.append(
            graph.entity(
                f"calibration-{i}",
                "sg:CalibrationReference",
                f"what the calibrated fluxes of {use.n_images} images are the flux of: {use}",
                kind=use.kind or "unknown",
                **_radii(use),
                origin=use.origin or "unknown",
                example_files=list(use.files),
                n_images=use.n_images,
                bands=list(use.bands),
                instruments=list(use.instruments),
            )
        )
    return names


def _radii(use: CalibrationUse) -> dict[str, float]:
    """Radius and diameter in both units; smallest and largest where the images' pixel scales make them differ."""
    found: dict[str, float] = {}
    for unit, span in (("pixels", use.pixels), ("arcsec", use.arcsec)):
        if span is None:
            continue
        low, high = span
        ends = {"": low} if high - low <= _LEAST_SPREAD * high else {"_min": low, "_max": high}
        for what, factor in (("radius", 1.0), ("diameter", 2.0)):
            found |= {f"{what}_{unit}{end}": float(f"{factor * value:.7g}") for end, value in ends.items()}
    return found


def _inputs(graph: ProvGraph, config: CampaignConfig, plan: Plan) -> list[str]:
    layout = Layout(config.output)
    catalog, survey = see(config.catalog.path), config.survey
    return [
        graph.entity(
            "configuration",
            ["sg:Input", "prov:Plan"],
            "the configuration, as resolved",
            path=layout.config.name,
            sha256=sha256_file(layout.config),
            **{"settings-sha256": digest(config.pixel_settings())},
            skymap=config.skymap if isinstance(config.skymap, str) else json.dumps(config.skymap, sort_keys=True),
        ),
        graph.entity(
            "catalog",
            "sg:Input",
            "the catalogue of sources",
            path=shown_place(catalog),
            n_bytes=catalog.stat().st_size if catalog.is_file() else None,
            sha256=sha256_file(bring(catalog)) if catalog.is_file() else None,
            **({"identity": folder_identity(catalog)} if catalog.is_dir() else {}),
        ),
        graph.entity(
            "survey",
            "sg:Input",
            "the images; the stamps of each one's files are in its record",
            path=shown_place(survey.root),
            **_listing(survey),
            n_images=len(plan),
            n_unusable=len(plan.metadata.get("unusable", [])),
        ),
        graph.entity(
            "plan",
            "sg:Input",
            "the index of the images, with the sources that each one gets",
            path=layout.plan.name,
            sha256=sha256_file(layout.plan),
        ),
    ]


def _listing(survey: SurveyConfig) -> dict[str, Any]:
    """What said which the images are."""
    if survey.butler is not None:
        query = {key.replace("_", "-"): value for key, value in survey.butler.query().items()}
        repo = {"butler": query.pop("repo"), **query}
        repo |= {"output-repo": survey.butler.output_repo}
        return repo | {"output-run": survey.butler.output_run, "output-type": survey.butler.type_written}
    if survey.images is not None:
        return {"images": survey.images if isinstance(survey.images, str) else list(survey.images)}
    # A table of images is an input of its own, whose content can be told.
    kind = "ccds" if survey.ccds is not None else "index"
    name = str(getattr(survey, kind))
    table = see(beneath(survey.root, name))
    return {kind: name, "sha256": sha256_file(bring(table)) if table.is_file() else None}


def _outputs(graph: ProvGraph, found: Consolidation, n_failed: int, n_quarantined: int) -> list[str]:
    return [
        graph.entity(
            "images",
            "sg:Output",
            "the injected images; the checksums of each are in its record",
            path="images",
            n_images=found.n_done,
            n_bytes=found.n_bytes,
            **{"records-sha256": found.records},
        ),
        graph.entity(
            "truth",
            "sg:Output",
            "what was injected: a row per source and image",
            path="truth",
            n_rows=found.n_rows,
            fingerprint=found.truth,
        ),
        graph.entity(
            "sources",
            "sg:Output",
            "what became of the catalogue: a row per source",
            path="sources.parquet",
            n_rows=found.n_sources,
            bands=list(found.bands),
            fingerprint=found.sources,
        ),
        graph.entity(
            "failures",
            "sg:Output",
            "the images that could not be made, and why",
            path="failures.parquet",
            n_failed=n_failed,
            n_quarantined=n_quarantined,
        ),
    ]


def _runs(
    runs: Iterable[RunStarted | TablesStarted | RunEnded], ended: str
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Start, end and what is known of every run; one that was killed has no end, the last one ends now."""
    found: list[tuple[str, str | None, dict[str, Any]]] = []
    for event in runs:
        if isinstance(event, RunStarted):
            found.append((event.time, None, {}))
        elif found and isinstance(event, RunEnded):
            known: dict[str, Any] = {"n_done": event.n_done, "n_failed": event.n_failed, "interrupted": event.early}
            if event.interrupted:
                known["signal"] = event.interrupted
            if event.stopped:
                known["stopped"] = event.stopped
            found[-1] = (found[-1][0], event.time, known)
    if found and found[-1][1] is None:
        found[-1] = (found[-1][0], ended, found[-1][2])
    return found
