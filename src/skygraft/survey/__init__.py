"""The index of a survey's images: identity and sky position of each, read from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.survey.butler import ButlerQuery, FoundImage, find_images
    from skygraft.survey.index import FAILURES, index_images, index_kinds, index_survey, register_index_kind
    from skygraft.survey.index_file import INDEX_SCHEMA, IndexFile, SurveyIndex, write_index

__all__ = [
    "FAILURES",
    "INDEX_SCHEMA",
    "ButlerQuery",
    "FoundImage",
    "IndexFile",
    "SurveyIndex",
    "find_images",
    "index_images",
    "index_kinds",
    "index_survey",
    "register_index_kind",
    "write_index",
]

if not TYPE_CHECKING:  # the columns of an index need nothing that reads images
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.survey.butler": ("ButlerQuery", "FoundImage", "find_images"),
            "skygraft.survey.index": (
                "FAILURES",
                "index_images",
                "index_kinds",
                "index_survey",
                "register_index_kind",
            ),
            "skygraft.survey.index_file": ("INDEX_SCHEMA", "IndexFile", "SurveyIndex", "write_index"),
        },
    )
