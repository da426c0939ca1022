"""Two campaigns that differ by a small change of the catalogue alone: the difference is the response, and not noise.

Both use the same images, seeds and so the same random numbers in each pixel. The background and its noise are those of
the images, and cancel.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skygraft.campaign.campaign import Campaign
from skygraft.campaign.perturbation import Perturbation
from skygraft.config.campaign import CampaignConfig
from skygraft.disk import atomic_path
from skygraft.errors import CampaignError, OutputError
from skygraft.json_text import parse_json
from skygraft.monitoring.reporters import Reporter

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign.summaries import RunSummary

__all__ = ["PAIR_FILE", "PairedCampaign"]

PAIR_FILE = "pair.json"
"""In the output folder: what the pair differs by."""
_SIDES = {"plus": 1, "minus": -1}
_CHUNK = 500_000


@dataclass(frozen=True)
class PairedCampaign:
    """A pair of campaigns, ``pair-plus`` and ``pair-minus`` in the output folder of the one that they come from.

    Parameters
    ----------
    plus, minus : Campaign
        Each is a campaign of its own: it can be resumed, verified and recovered by itself.
    perturbation : Perturbation
        What they differ by.
    """

    plus: Campaign
    minus: Campaign
    perturbation: Perturbation

    @classmethod
    def of(cls, campaign: Campaign, perturbation: Perturbation | str) -> Self:
        """Make the two campaigns, with their catalogues; nothing is injected yet.

        Parameters
        ----------
        campaign : Campaign
            The campaign that both come from; it need not have been run.
        perturbation : Perturbation or str
            See `skygraft.campaign.perturbation`.

        Returns
        -------
        PairedCampaign

        Raises
        ------
        ConfigError
            If the perturbation is none, or not of this catalogue.
        CampaignError
            If the output folder has a pair with another perturbation.
        CatalogError
            If the catalogue cannot be read, or a source could no longer be drawn.
        """
        what = Perturbation.parse(perturbation) if isinstance(perturbation, str) else perturbation
        root = campaign.layout.root
        described = _describe(campaign.config, what)
        before = _read(root / PAIR_FILE)
        if before is not None and before.get("perturbation") != str(what):
            raise CampaignError(
                f"the output folder has a pair with {before.get('perturbation')}, not {what}",
                path=root / PAIR_FILE,
                key="pair",
                fix="Name a new output folder, or remove pair-plus, pair-minus and pair.json",
            )
        files = {side: _folder(root, side).with_name(f"pair-{side}.parquet") for side in _SIDES}
        if before != described or not all(path.is_file() for path in files.values()):
            _write_catalogs(campaign.config, what, files)
            try:
                with atomic_path(root / PAIR_FILE) as temporary:
                    temporary.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"the pair cannot be recorded ({error})", path=root / PAIR_FILE) from error
        sides = {side: Campaign(_side(campaign.config, side, files[side])) for side in _SIDES}
        return cls(sides["plus"], sides["minus"], what)

    @classmethod
    def open(cls, output: str | os.PathLike[str]) -> Self:
        """Open a pair that has been run.

        Parameters
        ----------
        output : path-like
            The output folder of the campaign that it comes from.

        Raises
        ------
        CampaignError
            If there is no pair.
        """
        root = Path(output)
        record = _read(root / PAIR_FILE)
        if record is None:
            raise CampaignError(
                "there is no pair of campaigns",
                path=root / PAIR_FILE,
                fix="Run one: skygraft run CAMPAIGN --pair magnification=±0.02",
            )
        plus, minus = (Campaign.from_yaml(_folder(root, side) / "campaign.yaml") for side in _SIDES)
        return cls(plus, minus, Perturbation.parse(str(record["perturbation"])))

    def run(
        self,
        client: Client | None = None,
        *,
        n_workers: int | None = None,
        redo: bool = False,
        retry_failed: bool = False,
        reporter: Reporter | None = None,
    ) -> tuple[RunSummary, ...]:
        """Run both campaigns, one after the other; parameters and errors as `Campaign.run`.

        Returns
        -------
        tuple of RunSummary
            Of plus and minus; of plus alone, where that was interrupted.
        """
        summaries = []
        for side in (self.plus, self.minus):
            one = side.run(client, n_workers=n_workers, redo=redo, retry_failed=retry_failed, reporter=reporter)
            summaries.append(one)
            if one.interrupted or one.stopped:
                break
        return tuple(summaries)


def _folder(root: Path, side: str) -> Path:
    return root / f"pair-{side}"


def _side(config: CampaignConfig, side: str, catalog: Path) -> CampaignConfig:
    """Return the configuration of one side: another catalogue and output, and all else the same."""
    changes: dict[str, Any] = {
        "name": f"{config.name}-{side}",
        "output": _folder(config.output, side),
        # It is written in the native dialect, whose magnitudes name their bands.
        "catalog": config.catalog.model_copy(update={"path": catalog, "dialect": "auto", "band": None, "columns": {}}),
    }
    butler = config.survey.butler
    if butler is not None and butler.output_run is not None:
        own = butler.model_copy(update={"output_run": f"{butler.output_run}/pair-{side}"})
        changes["survey"] = config.survey.model_copy(update={"butler": own})
    return config.model_copy(update=changes)


def _describe(config: CampaignConfig, what: Perturbation) -> dict[str, Any]:
    path = config.catalog.path
    try:
        status = path.stat()
    except OSError as error:
        raise CampaignError(f"the catalogue cannot be read ({error})", path=path, fix="Check the path") from error
    return {
        "version": 1,
        "perturbation": str(what),
        "parameter": what.parameter,
        "unit": what.unit,
        "step": what.step,
        "plus": "pair-plus",
        "minus": "pair-minus",
        "catalogue": {"path": str(path), "n_bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
        "seed": config.injection.seed,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CampaignError(f"the record of the pair cannot be read ({error})", path=path, fix="Remove it") from error
    return content if isinstance(content, dict) else {}


def _write_catalogs(config: CampaignConfig, what: Perturbation, files: dict[str, Path]) -> None:
    """Write the two catalogues, in chunks."""
    import pyarrow.parquet as pq

    from skygraft.catalog.io import iter_catalog, to_arrow

    origin = str(config.catalog.path)
    options = config.catalog.model_dump(include={"dialect", "band", "on_bad", "columns"})
    for side, path in files.items():
        chunks = iter_catalog(config.catalog.path, chunk_rows=_CHUNK, **options)
        with atomic_path(path) as temporary:
            writer = None
            try:
                for chunk in chunks:
                    table = to_arrow(what.apply(chunk, _SIDES[side], origin=origin))
                    if writer is None:
                        writer = pq.ParquetWriter(temporary, table.schema, write_page_checksum=True)
                    writer.write_table(table.cast(writer.schema))
            finally:
                if writer is not None:
                    writer.close()
