"""Read the images of a plan with the calibration settings of the campaign, with or without their pixels."""

from __future__ import annotations

from typing import Any

from skygraft.config.campaign import CampaignConfig
from skygraft.exposure import Exposure
from skygraft.formats import ImageCalibration, read_calibration, read_exposure
from skygraft.records.plan_file import PlannedImage

__all__ = ["read_image", "read_image_calibration"]


def read_image(image: PlannedImage, config: CampaignConfig) -> Exposure:
    """Read an image of a plan with the calibration settings of the campaign.

    Raises
    ------
    SkygraftError
        Whatever reading raises.
    """
    return read_exposure(image.source(config.survey.root), format=image.format, **_options(image, config))


def read_image_calibration(image: PlannedImage, config: CampaignConfig) -> ImageCalibration:
    """Read the calibration of an image of a plan, as `read_image` would, without its pixels.

    Raises
    ------
    SkygraftError
        Whatever reading raises.
    """
    return read_calibration(image.source(config.survey.root), format=image.format, **_options(image, config))


def _options(image: PlannedImage, config: CampaignConfig) -> dict[str, Any]:
    calibration = config.survey.calibration
    known = {name: getattr(image, name) for name in ("band", "visit", "detector", "instrument")}
    given = {
        "aperture": calibration.aperture,
        "psf": calibration.psf_of(image.source(config.survey.root), config.survey.root, known),
        "photo_calib": calibration.photo_calib(),
        "gain": calibration.gain,
    }
    # The settings of the campaign take precedence over the survey's own tables.
    return image.format_options() | {name: value for name, value in given.items() if value is not None}
