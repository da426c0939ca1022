"""Read the images of a plan with the calibration settings of the campaign, with or without their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skygraft.config.campaign import CampaignConfig
from skygraft.exposure import Exposure
from skygraft.formats import Format, ImageCalibration, get_format, read_calibration, read_exposure
from skygraft.place_names import is_copy
from skygraft.places import bring, for_headers, is_file
from skygraft.records.plan_file import PlannedImage

__all__ = ["read_image", "read_image_calibration"]


def read_image(image: PlannedImage, config: CampaignConfig) -> Exposure:
    """Read an image of a plan with the calibration settings of the campaign.

    Raises
    ------
    SkygraftError
        Whatever reading raises.
    """
    path = bring(image.source(config.survey.root))
    return read_exposure(path, format=image.format, **_options(image, config, path))


def read_image_calibration(image: PlannedImage, config: CampaignConfig) -> ImageCalibration:
    """Read the calibration of an image of a plan, as `read_image` would, without its pixels.

    Raises
    ------
    SkygraftError
        Whatever reading raises.
    """
    path = image.source(config.survey.root)
    if is_copy(path):
        # A format that has no way of its own to read calibrations alone reads the image.
        alone = type(get_format(image.format)).calibration is not Format.calibration
        path = for_headers(path) if alone else bring(path)
    return read_calibration(path, format=image.format, **_options(image, config, path))


def _options(image: PlannedImage, config: CampaignConfig, path: Path) -> dict[str, Any]:
    calibration = config.survey.calibration
    known = {name: getattr(image, name) for name in ("band", "visit", "detector", "instrument")}
    given = {
        "aperture": calibration.aperture,
        "psf": calibration.psf_of(path, config.survey.root, known),
        "photo_calib": calibration.photo_calib(),
        "gain": calibration.gain,
    }
    if isinstance(psf := given["psf"], Path) and is_copy(psf):
        is_file(psf)  # fetches it; whoever opens it says that it is missing
    # The settings of the campaign take precedence over the survey's own tables.
    return image.format_options(path) | {name: value for name, value in given.items() if value is not None}
