"""Image formats: what is on disk becomes an `Exposure`, and is written back with everything else carried over."""

from skygraft.formats.base import Format, ImageCalibration, ImageFootprint, ReadOptions
from skygraft.formats.registry import (
    format_names,
    get_format,
    read_calibration,
    read_exposure,
    read_footprint,
    recognise_format,
    write_exposure,
)

__all__ = [
    "Format",
    "ImageCalibration",
    "ImageFootprint",
    "ReadOptions",
    "format_names",
    "get_format",
    "read_calibration",
    "read_exposure",
    "read_footprint",
    "recognise_format",
    "write_exposure",
]
