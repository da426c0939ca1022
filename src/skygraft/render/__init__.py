"""Drawing sources into a model image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.render.canvas import Canvas, RenderReport
    from skygraft.render.engine import render
    from skygraft.render.normalisation import Normalisation
    from skygraft.render.reach import reach_pixels
    from skygraft.render.sources import SHAPE_COLUMNS, Sources

__all__ = ["SHAPE_COLUMNS", "Canvas", "Normalisation", "RenderReport", "Sources", "reach_pixels", "render"]

if not TYPE_CHECKING:  # what only describes images needs neither numba nor GalSim
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.render.canvas": ("Canvas", "RenderReport"),
            "skygraft.render.engine": ("render",),
            "skygraft.render.normalisation": ("Normalisation",),
            "skygraft.render.reach": ("reach_pixels",),
            "skygraft.render.sources": ("SHAPE_COLUMNS", "Sources"),
        },
    )
