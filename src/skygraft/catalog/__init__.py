"""Catalogues of sources to inject: the canonical schema, and the dialects that are converted to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.catalog.checks import validate
    from skygraft.catalog.flags import Flag, count_flags, decode_flags, flag_registry, has_flag
    from skygraft.catalog.io import normalize_catalog, read_catalog, write_catalog
    from skygraft.catalog.motion import in_window, positions_at, rates_at
    from skygraft.catalog.partition import PartitionSummary, partition_catalog
    from skygraft.catalog.partition_read import PartitionCache, list_partitions, read_partitions
    from skygraft.catalog.schema import COLUMNS, SOURCE_TYPES, bands_of, values
    from skygraft.catalog.select import band_column, select_for_visit
    from skygraft.catalog.tables import as_table

__all__ = [
    "COLUMNS",
    "SOURCE_TYPES",
    "Flag",
    "PartitionCache",
    "PartitionSummary",
    "as_table",
    "band_column",
    "bands_of",
    "count_flags",
    "decode_flags",
    "flag_registry",
    "has_flag",
    "in_window",
    "list_partitions",
    "normalize_catalog",
    "partition_catalog",
    "positions_at",
    "rates_at",
    "read_catalog",
    "read_partitions",
    "select_for_visit",
    "validate",
    "values",
    "write_catalog",
]

if not TYPE_CHECKING:  # what reads the head of one image or a configuration needs no reader of catalogues
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.catalog.checks": ("validate",),
            "skygraft.catalog.flags": ("Flag", "count_flags", "decode_flags", "flag_registry", "has_flag"),
            "skygraft.catalog.io": ("normalize_catalog", "read_catalog", "write_catalog"),
            "skygraft.catalog.motion": ("in_window", "positions_at", "rates_at"),
            "skygraft.catalog.partition": ("PartitionSummary", "partition_catalog"),
            "skygraft.catalog.partition_read": ("PartitionCache", "list_partitions", "read_partitions"),
            "skygraft.catalog.schema": ("COLUMNS", "SOURCE_TYPES", "bands_of", "values"),
            "skygraft.catalog.select": ("band_column", "select_for_visit"),
            "skygraft.catalog.tables": ("as_table",),
        },
    )
