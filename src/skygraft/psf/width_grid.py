"""Where kernels are looked at to measure their width: in numpy and in compiled loops alike."""

from __future__ import annotations

__all__ = ["GRID_HALF", "MARGIN", "N_RAYS"]

N_RAYS = 16
"""Rays from the peak on which the contour at half of it is followed."""
MARGIN = 6
"""Pixels around the core that its spline needs."""
GRID_HALF = 4
"""Steps to each side of the grid about the peak."""
