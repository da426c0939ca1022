"""The catalogue of sources to inject: one canonical schema, and the dialects that are converted to it."""

from skygraft.catalog.flags import Flag, count_flags, decode_flags, flag_registry, has_flag
from skygraft.catalog.io import normalize_catalog, read_catalog, write_catalog
from skygraft.catalog.schema import COLUMNS, SOURCE_TYPES, bands_of, validate, values

__all__ = [
    "COLUMNS",
    "SOURCE_TYPES",
    "Flag",
    "bands_of",
    "count_flags",
    "decode_flags",
    "flag_registry",
    "has_flag",
    "normalize_catalog",
    "read_catalog",
    "validate",
    "values",
    "write_catalog",
]
