"""Files that lie in a store: found by URL, copied to a scratch folder for reading, and published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.places.copies import (
        beneath,
        bring,
        bring_all,
        for_headers,
        given_path,
        is_file,
        is_place,
        local_path,
        prefetched,
        published,
    )
    from skygraft.places.outputs import Outputs, OutputsAt, outputs_of
    from skygraft.places.ranges import RangedFile
    from skygraft.places.scratch import Scratch, holding, scratch_of, use_scratch
    from skygraft.places.stores import Storage, Store
    from skygraft.places.stubs import find_copies, is_folder, names_in, refresh, see
    from skygraft.places.urls import checked_url

_FROM = {
    "skygraft.places.copies": (
        "beneath",
        "bring",
        "bring_all",
        "given_path",
        "for_headers",
        "is_file",
        "is_place",
        "local_path",
        "prefetched",
        "published",
    ),
    "skygraft.places.outputs": ("Outputs", "OutputsAt", "outputs_of"),
    "skygraft.places.ranges": ("RangedFile",),
    "skygraft.places.scratch": ("Scratch", "holding", "scratch_of", "use_scratch"),
    "skygraft.places.stores": ("Storage", "Store"),
    "skygraft.places.stubs": ("find_copies", "is_folder", "names_in", "refresh", "see"),
    "skygraft.places.urls": ("checked_url",),
}

__all__ = [
    "Outputs",
    "OutputsAt",
    "RangedFile",
    "Scratch",
    "Storage",
    "Store",
    "beneath",
    "bring",
    "bring_all",
    "checked_url",
    "find_copies",
    "for_headers",
    "given_path",
    "holding",
    "is_file",
    "is_folder",
    "is_place",
    "local_path",
    "names_in",
    "outputs_of",
    "prefetched",
    "published",
    "refresh",
    "scratch_of",
    "see",
    "use_scratch",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _FROM)
