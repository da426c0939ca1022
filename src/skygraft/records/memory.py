"""Give back memory that is not used any more: the driver of a campaign runs for days, often beside those of others."""

from __future__ import annotations

import ctypes

import pyarrow as pa

__all__ = ["release_memory"]


def release_memory() -> None:
    """Return what was freed to the machine, as far as its C library can; it changes nothing else.

    Reading the columns of a plan of a million images frees some 100 MB in pieces, which glibc keeps otherwise.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
