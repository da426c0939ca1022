"""Injection of sources into one exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.injection.core import Injection, inject
    from skygraft.injection.options import InjectionOptions

__all__ = ["Injection", "InjectionOptions", "inject"]

if not TYPE_CHECKING:  # settings, and what only describes images, need nothing that draws
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.injection.core": ("Injection", "inject"),
            "skygraft.injection.options": ("InjectionOptions",),
        },
    )
