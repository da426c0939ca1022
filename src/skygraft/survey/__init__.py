"""Which images there are, and where they lie on the sky: an index made from headers alone."""

from skygraft.survey.index import FAILURES, index_images, index_kinds, index_survey, register_index_kind
from skygraft.survey.index_file import INDEX_SCHEMA, IndexFile, SurveyIndex, write_index
from skygraft.survey.pool import process_mapper

__all__ = [
    "FAILURES",
    "INDEX_SCHEMA",
    "IndexFile",
    "SurveyIndex",
    "index_images",
    "index_kinds",
    "index_survey",
    "process_mapper",
    "register_index_kind",
    "write_index",
]
