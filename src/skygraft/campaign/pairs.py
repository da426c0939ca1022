"""An image of a campaign before and after injection, with its truth and its record: what measurements work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astropy.table import QTable

from skygraft.catalog import PartitionCache
from skygraft.catalog.io import from_arrow
from skygraft.config.campaign import CampaignConfig
from skygraft.errors import CampaignError
from skygraft.execution.task import light_curves_of, sources_of
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure
from skygraft.injection.roles import Role
from skygraft.places import bring
from skygraft.planning.reading import read_image
from skygraft.records.files import Layout
from skygraft.records.image_record import read_record
from skygraft.records.packs import file_exists
from skygraft.records.plan_file import PlannedImage
from skygraft.tables.truth_parts import read_truth_part
from skygraft.timedomain.light_curves import LightCurves

__all__ = ["ImagePair", "read_injected", "read_pair", "read_truth", "record_of"]


@dataclass(frozen=True)
class ImagePair:
    """An image before and after injection.

    Parameters
    ----------
    image : PlannedImage
        The image, as the plan has it.
    record : mapping
        Its record: inputs, outputs with checksums, calibration, summary of the injection.
    before, after : Exposure
        The image as it was, and the output file, read again.
    truth : QTable
        One row per source that reaches the image, as `Injection.truth`.
    sources : QTable
        The catalogue's rows of the image, with all their columns, in order of ``injection_id``.
    light_curves : LightCurves or None
        Their light curves; None where they have none.
    role : {"auto", "science", "template"}
        What the campaign's images are in a search for transients.
    """

    image: PlannedImage
    record: Mapping[str, Any]
    before: Exposure
    after: Exposure
    truth: QTable
    sources: QTable
    light_curves: LightCurves | None = None
    role: Role = "auto"


def record_of(layout: Layout, image: PlannedImage) -> dict[str, Any]:
    """Read the record of an image that is done.

    Parameters
    ----------
    layout : Layout
        The campaign's output folder.
    image : PlannedImage

    Returns
    -------
    dict

    Raises
    ------
    CampaignError
        If there is none, or it is damaged.
    """
    path = layout.record(image.tract, image.patch, image.stem)
    if (record := read_record(path, image.image_id)) is None:
        what = "the record is damaged" if file_exists(path) else "there is no record: the image is not done"
        raise CampaignError(what, path=path, fix="Redo the image: skygraft run")
    return record


def read_pair(
    config: CampaignConfig,
    image: PlannedImage,
    partitions: PartitionCache | None = None,
) -> ImagePair:
    """Read an image before and after injection, its truth and its catalogue rows.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    image : PlannedImage
        An image that is done.
    partitions : PartitionCache, optional
        Partitions of the catalogue, as for `skygraft.execution.task.sources_of`.

    Returns
    -------
    ImagePair

    Raises
    ------
    CampaignError
        If its record or truth is missing or damaged.
    SkygraftError
        If an image cannot be read; as `skygraft.read_exposure`.
    """
    layout = Layout(config.output)
    record = record_of(layout, image)
    before, after = read_image(image, config), read_injected(config, image)
    truth = read_truth(layout, image, record)
    sources, _ = sources_of(image, config, partitions)
    curves = light_curves_of(image, config, sources, partitions)
    return ImagePair(image, record, before, after, truth, sources, curves, config.survey.role)


def read_injected(config: CampaignConfig, image: PlannedImage) -> Exposure:
    """Read an image as the campaign wrote it.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    image : PlannedImage
        An image that is done.

    Returns
    -------
    Exposure

    Raises
    ------
    SkygraftError
        As `skygraft.read_exposure`.
    """
    path = Layout(config.output).images / image.output
    path = bring(path)
    return read_exposure(path, format=image.format, **image.format_options(path))


def read_truth(layout: Layout, image: PlannedImage, record: Mapping[str, Any]) -> QTable:
    """Read the truth table of one image.

    Parameters
    ----------
    layout : Layout
        The campaign's output folder.
    image : PlannedImage
        An image that is done.
    record : mapping
        Its record, from `record_of`.

    Returns
    -------
    QTable

    Raises
    ------
    CampaignError
        If the table is missing or damaged.
    """
    part = layout.truth_part(image.tract, image.patch, image.stem)
    written = record["outputs"].get(part.relative_to(layout.root).as_posix(), {})
    return from_arrow(read_truth_part(part, written.get("sha256", "")))
