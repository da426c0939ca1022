"""What a campaign's own files say of it: its state, calibrations, closure, failures and provenance."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skygraft.errors import SkygraftError
from skygraft.json_text import parse_json

if TYPE_CHECKING:
    from skygraft.campaign import Campaign, Plan, PlannedImage, Status
    from skygraft.tables.calibrations import CalibrationUse

__all__ = ["CampaignFacts", "ImageClosure", "Provenance", "read_facts"]

RECORDS_READ = 1000
"""Most records that are read: of larger campaigns a sample, of all instruments and bands and always the same."""


@dataclass(frozen=True)
class ImageClosure:
    """Closure of one image as its task measured it; magnitudes are None where no star was measured."""

    image_id: str
    band: str
    n_stars: int
    radius_pixels: float | None
    median_mag: float | None
    max_abs_mag: float | None


@dataclass(frozen=True)
class Provenance:
    """The parts of ``provenance.json``, without its prefixes: attributes of entities, activities and agents by name."""

    entities: Mapping[str, Mapping[str, Any]]
    activities: Mapping[str, Mapping[str, Any]]
    agents: Mapping[str, Mapping[str, Any]]

    @property
    def run(self) -> Mapping[str, Any]:
        """Attributes of the campaign as a whole."""
        return self.activities.get("run", {})

    @property
    def calibrations(self) -> list[Mapping[str, Any]]:
        """Attributes of each calibration reference."""
        return [self.entities[name] for name in self.entities if name.startswith("calibration-")]


@dataclass
class CampaignFacts:
    """What is known of a campaign before anything is measured on its images."""

    campaign: Campaign
    status: Status
    plan: Plan
    provenance: Provenance | None  # None where it is missing or damaged
    closures: list[ImageClosure] = field(default_factory=list)  # of the records that were read, and had any
    calibrations: tuple[CalibrationUse, ...] = ()  # of the records that were read
    n_records: int = 0  # that were read
    bands: dict[str, int] = field(default_factory=dict)  # images of the plan; an unknown band is empty
    instruments: dict[str, int] = field(default_factory=dict)
    n_sources: int = 0  # rows of truth of the records that were read
    n_drawn: int = 0  # of these, drawn
    flags: Counter[str] = field(default_factory=Counter)  # rows of these with each flag
    made: list[int | None] = field(default_factory=list)  # images that each run made; None for one that was killed
    noise: set[str] = field(default_factory=set)  # photon noise: white, correlated or none

    @property
    def command(self) -> str:
        """What commands take that go on with this campaign: the path of its configuration."""
        return shlex.quote(str(self.campaign.layout.config))

    @property
    def is_sample(self) -> bool:
        """Whether there are records that were not read."""
        return self.n_records < self.status.n_done


def read_facts(campaign: Campaign) -> CampaignFacts:
    """Read what a campaign's files say of it.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been planned.

    Returns
    -------
    CampaignFacts

    Raises
    ------
    CampaignError
        If there is no plan.
    """
    from skygraft.records.plan_file import campaign_plan
    from skygraft.tables.calibrations import calibration_use, tidy

    plan = campaign_plan(campaign.layout.plan)
    facts = CampaignFacts(campaign, campaign.status(), plan, read_provenance(campaign.layout.provenance))
    facts.made = _made(campaign.layout.ledger)
    for name, found in (("band", facts.bands), ("instrument", facts.instruments)):
        values = Counter(str(value or "") for value in plan.table([name])[name].to_pylist())
        found.update(sorted(values.items()))
    uses = []
    for image, record in _records(campaign, plan):
        facts.n_records += 1
        calibration = record.get("calibration") or {}
        files = [Path(name).name for name in record.get("inputs", {})]
        uses.append(calibration_use(calibration, image.band, image.instrument, files))
        facts.n_sources += int(record.get("n_sources", 0))
        facts.n_drawn += int(record.get("n_drawn", 0))
        facts.flags.update({str(name): int(n) for name, n in (record.get("flags") or {}).items()})
        correlation = (record.get("injection") or {}).get("noise_correlation")
        facts.noise.add(str(correlation.get("kind", "photon")) if isinstance(correlation, dict) else "none")
        if closure := record.get("closure"):
            measured: list[float | None] = [closure.get(key) for key in ("radius_pixels", "median_mag", "max_abs_mag")]
            facts.closures.append(
                ImageClosure(image.image_id, image.band or "", int(closure.get("n_stars") or 0), *measured)
            )
    facts.calibrations = tidy(uses)
    return facts


def _made(ledger: Path) -> list[int | None]:
    """Images that each run made, from the ledger: a run writes its provenance before it has ended."""
    from skygraft.records.events import RunEnded, RunStarted
    from skygraft.records.ledger import read_runs

    found: list[int | None] = []
    try:
        for event in read_runs(ledger):
            if isinstance(event, RunStarted):
                found.append(None)
            elif found and isinstance(event, RunEnded):
                found[-1] = event.n_done
    except SkygraftError:  # it is damaged, which the status says
        return []
    return found


def read_provenance(path: Path) -> Provenance | None:
    """Read ``provenance.json``; None where there is none, or nothing that can be read."""
    try:
        document = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    parts = [document.get(part) for part in ("entity", "activity", "agent")]
    return Provenance(*(_attributes(part) if isinstance(part, dict) else {} for part in parts))


def _attributes(things: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix("sg:"): {key.split(":", 1)[-1]: _value(value) for key, value in content.items()}
        for name, content in things.items()
        if isinstance(content, dict)
    }


def _value(value: Any) -> Any:
    """A literal of PROV-JSON as Python has it."""
    if isinstance(value, list):
        return [_value(one) for one in value]
    if isinstance(value, dict):
        text, kind = value.get("$"), str(value.get("type", ""))
        try:
            return int(str(text)) if kind == "xsd:long" else float(str(text)) if kind == "xsd:double" else text
        except ValueError:
            return text
    return value


def _records(campaign: Campaign, plan: Plan) -> Iterator[tuple[PlannedImage, dict[str, Any]]]:
    """Images that are done with their records: all of them, or a sample of many."""
    from skygraft.planning.check import choose_images
    from skygraft.records.image_record import read_record
    from skygraft.records.status import DONE, record_states

    layout = campaign.layout
    done = record_states(plan, layout)[0].rows(DONE)
    if not len(done):
        return
    for image in plan.images(choose_images(plan, min(RECORDS_READ, len(done)), among=done)):
        try:
            record = read_record(layout.record(image.tract, image.patch, image.stem), image.image_id)
        except (SkygraftError, OSError, json.JSONDecodeError):
            continue  # it is damaged, which the status says
        if record is not None:
            yield image, record
