"""Image formats: read images into an `Exposure`, and write it back with everything else copied from the input.

Installed packages and sessions can add formats: see `skygraft.formats.available` and `register_format`.
"""

from skygraft.formats.base import Format, ImageCalibration, ImageFootprint, ReadOptions
from skygraft.formats.file_format import FileFormat
from skygraft.formats.registry import (
    format_names,
    get_format,
    open_exposure,
    read_calibration,
    read_exposure,
    read_footprint,
    recognise_format,
    register_format,
    resolve_format,
)
from skygraft.formats.writing import write_exposure

__all__ = [
    "FileFormat",
    "Format",
    "ImageCalibration",
    "ImageFootprint",
    "ReadOptions",
    "format_names",
    "get_format",
    "open_exposure",
    "read_calibration",
    "read_exposure",
    "read_footprint",
    "recognise_format",
    "register_format",
    "resolve_format",
    "write_exposure",
]
