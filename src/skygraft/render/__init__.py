"""Drawing sources into a model image."""

from skygraft.render.canvas import Canvas, RenderReport
from skygraft.render.engine import render
from skygraft.render.galsim_engine import reach_pixels
from skygraft.render.normalisation import Normalisation
from skygraft.render.sources import SHAPE_COLUMNS, Sources

__all__ = ["SHAPE_COLUMNS", "Canvas", "Normalisation", "RenderReport", "Sources", "reach_pixels", "render"]
