"""Register a campaign's outputs in a Butler repository: images, their truth tables and their provenance.

The campaign's records remain the authority: the repository is made to agree with them. Registering may be interrupted
at any point and repeated; datasets that are registered already are left alone.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skygraft.config.campaign import ButlerConfig, CampaignConfig
from skygraft.dataset import Dataset, Lineage
from skygraft.errors import ConfigError
from skygraft.records.files import Layout, write_json
from skygraft.records.image_record import read_record
from skygraft.records.plan_file import Plan, PlannedImage

if TYPE_CHECKING:
    from skygraft.survey.butler_output import DatasetFile, OutputRun

__all__ = ["Registration", "begin_run", "check_run", "lineage_of", "register"]

_BATCH = 200
"""Images that are registered at a time."""
_CATALOG, _RECORD = "_catalog", "_record"
_KINDS = {_CATALOG: "ArrowAstropy", _RECORD: "StructuredDataDict"}
"""Storage class of what is registered beside each image, by the suffix of its dataset type."""


@dataclass(frozen=True)
class Registration:
    """The result of registering.

    Parameters
    ----------
    run, type : str
        The run collection, and the images' dataset type.
    n_images : int
        Images that are registered now.
    n_added, n_removed : int
        Datasets that were added and removed.
    complete : bool
        Whether all images that are done are registered; False if it was asked to stop.
    """

    run: str
    type: str
    n_images: int
    n_added: int
    n_removed: int
    complete: bool = True

    def __str__(self) -> str:
        new = f"{self.n_added} datasets added" if self.n_added else "nothing to add"
        gone = f", {self.n_removed} removed that were of earlier outputs" if self.n_removed else ""
        text = f"{self.n_images} images are registered in {self.run} as {self.type} ({new}{gone})"
        return text if self.complete else f"{text}; run the campaign again to register the others"


def _tag(config: CampaignConfig, butler: ButlerConfig) -> str:
    return f"{config.name}\n{butler.output_run}\n{butler.type_written}"


def _output(config: CampaignConfig) -> tuple[ButlerConfig, str] | None:
    """The repository, and the run collection that outputs are registered in; None where they are not."""
    butler = config.survey.butler
    return None if butler is None or butler.output_run is None else (butler, butler.output_run)


def _required(config: CampaignConfig) -> tuple[ButlerConfig, str]:
    found = _output(config)
    if found is None:
        raise ConfigError("the campaign has no run collection for its outputs", key="survey.butler.output_run")
    return found


def lineage_of(image: PlannedImage, config: CampaignConfig, key: str) -> Lineage | None:
    """The dataset of an image's output, and the dataset it was made from; None if outputs are not registered.

    Parameters
    ----------
    image : PlannedImage
        The image.
    config : CampaignConfig
        The campaign.
    key : str
        `content_key` of the output, which identifies the dataset.
    """
    found = _output(config)
    if found is None or not image.dataset:
        return None
    butler, run = found
    origin = Dataset.from_json(image.dataset)
    return Lineage(origin.derive(type=butler.type_written, run=run, tag=_tag(config, butler), key=key), (origin,))


def _beside(dataset: Dataset, config: CampaignConfig, butler: ButlerConfig, suffix: str, key: str) -> Dataset:
    return dataset.derive(
        type=f"{dataset.type}{suffix}",
        run=dataset.run,
        tag=_tag(config, butler),
        key=key,
        storage_class=_KINDS[suffix],
    )


def _types(config: CampaignConfig, butler: ButlerConfig, image: PlannedImage) -> list[Dataset]:
    lineage = lineage_of(image, config, "")
    if lineage is None:
        raise ConfigError(
            "the plan does not say which datasets its images are",
            path=Layout(config.output).plan,
            key="survey.butler",
            fix="Delete it and plan again: skygraft plan",
        )
    return [lineage.dataset, *(_beside(lineage.dataset, config, butler, suffix, "") for suffix in _KINDS)]


@contextlib.contextmanager
def _open(config: CampaignConfig, plan: Plan, *, begin: bool) -> Iterator[OutputRun]:
    """The run collection, checked; with `begin`, created if it does not exist."""
    from skygraft.survey.butler_output import open_run

    butler, run = _required(config)
    mark = Layout(config.output).registration
    types = _types(config, butler, next(plan.images([0])))
    with open_run(butler.repo_written, run, types, _tag(config, butler), source=butler.repo) as output:
        output.check(begun=mark.exists())
        if begin:
            # Before the first dataset, so that this campaign recognises its own datasets from now on.
            write_json(mark, {"repo": butler.repo_written, "run": run, "types": [one.type for one in types]})
            output.begin()
        yield output


def check_run(config: CampaignConfig, plan: Plan) -> None:
    """Make sure that the run collection can take the outputs; nothing is written.

    Raises
    ------
    OutputExistsError
        If it has datasets of these types that are not this campaign's.
    OutputError, ConfigError
        If it cannot be used.
    """
    if _output(config) is not None:
        with _open(config, plan, begin=False):
            pass


def begin_run(config: CampaignConfig, plan: Plan, rows: Iterable[int]) -> int:
    """Prepare the run collection for a run, and remove from it the datasets whose files will be replaced.

    A repository that holds only the paths of files would otherwise show a new image under the old dataset's id.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    rows : iterable of int
        Rows of the images that are not done, ascending.

    Returns
    -------
    int
        How many datasets were removed.

    Raises
    ------
    OutputExistsError, OutputError, ConfigError
        As `check_run`; also if the collection or the dataset types cannot be made.
    """
    if _output(config) is None:
        return 0
    with _open(config, plan, begin=True) as output:
        present = output.present()
        first = next(present, None)
        if first is None:
            return 0
        # By the plan alone, since opening the records of all images would take long.
        waiting = {Dataset.from_json(image.dataset).place for image in plan.images(list(rows)) if image.dataset}
        stale = [one for one, place in itertools.chain([first], present) if place in waiting]
        output.remove(stale)
    return len(stale)


def register(
    config: CampaignConfig, plan: Plan, rows: Iterable[int], stop: Callable[[], bool] = lambda: False
) -> Registration | None:
    """Register the outputs of images that are done, and remove datasets of earlier outputs.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    rows : iterable of int
        Rows of the images that are done, ascending.
    stop : callable
        Called between batches; True leaves the rest for the next run.

    Returns
    -------
    Registration or None
        None if the campaign's outputs are not to be registered.

    Raises
    ------
    OutputError, ConfigError
        If the repository refuses them; what was registered before stays.
    """
    if _output(config) is None:
        return None
    (butler, run), rows = _required(config), list(rows)
    with _open(config, plan, begin=True) as output:
        there = {one for one, _ in output.present()}
        wanted = {uuid.UUID(file.dataset.id) for files in _files(config, plan, rows) for file in files}
        stale = there - wanted
        output.remove(sorted(stale, key=str))
        n_added, n_images, complete = 0, 0, True
        for some in itertools.batched(_files(config, plan, rows), _BATCH):
            if stop():
                complete = False
                break
            new = [file for files in some for file in files if uuid.UUID(file.dataset.id) not in there]
            output.add(new, butler.transfer)
            n_added, n_images = n_added + len(new), n_images + len(some)
    return Registration(run, butler.type_written, n_images, n_added, len(stale), complete)


def _files(config: CampaignConfig, plan: Plan, rows: Iterable[int]) -> Iterator[list[DatasetFile]]:
    """Yield, for each image that is done, its files to register."""
    from skygraft.survey.butler_output import DatasetFile

    butler, layout = _required(config)[0], Layout(config.output)
    for image in plan.images(list(rows)):
        path = layout.record(image.tract, image.patch, image.stem)
        record = read_record(path, image.image_id)
        if record is None or "dataset" not in record:
            continue
        dataset, key = Dataset.from_simple(record["dataset"]["dataset"]), str(record["key"])
        table = layout.truth_dataset(image.tract, image.patch, image.stem)
        # From the record: the plan's own place changes with the common folder of its images.
        place = (layout.images / image.output).relative_to(layout.root).as_posix()
        if place not in record["outputs"]:
            beneath = f"{layout.images.name}/"
            place = next((name for name in record["outputs"] if name.startswith(beneath)), place)
        yield [
            DatasetFile(_absolute(layout.root / place), dataset),
            DatasetFile(_absolute(table), _beside(dataset, config, butler, _CATALOG, key)),
            # Not fixed: it holds times and timings, too.
            DatasetFile(_absolute(path), _beside(dataset, config, butler, _RECORD, key), fixed=False),
        ]


def _absolute(path: Path) -> str:
    return str(path.absolute())
