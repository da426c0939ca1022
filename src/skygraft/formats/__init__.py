"""Image formats: what is on disk becomes an `Exposure`, and is written back with everything else carried over."""

from skygraft.formats.base import FileStamp, Format, ImageFootprint, ReadOptions
from skygraft.formats.registry import (
    format_names,
    get_format,
    read_exposure,
    read_footprint,
    recognise_format,
    write_exposure,
)

__all__ = [
    "FileStamp",
    "Format",
    "ImageFootprint",
    "ReadOptions",
    "format_names",
    "get_format",
    "read_exposure",
    "read_footprint",
    "recognise_format",
    "write_exposure",
]
