"""Pictures of injected images: triplets, cut-outs, colours, sky maps, regions; and a patch as one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.views.colour import choose_bands, colour_figure, colour_image
    from skygraft.views.cutouts import choose_fakes, cutout_grid
    from skygraft.views.figures import figure_bytes, save_figure
    from skygraft.views.scenes import Scene, find_scene, scene_of
    from skygraft.views.sky import sky_axes, sky_map_figure
    from skygraft.views.triplets import best_cutout, triplet_figure

_HOMES = {
    "skygraft.views.colour": ("choose_bands", "colour_figure", "colour_image"),
    "skygraft.views.cutouts": ("choose_fakes", "cutout_grid"),
    "skygraft.views.figures": ("figure_bytes", "save_figure"),
    "skygraft.views.scenes": ("Scene", "find_scene", "scene_of"),
    "skygraft.views.sky": ("sky_axes", "sky_map_figure"),
    "skygraft.views.triplets": ("best_cutout", "triplet_figure"),
}

__all__ = [
    "Scene",
    "best_cutout",
    "choose_bands",
    "choose_fakes",
    "colour_figure",
    "colour_image",
    "cutout_grid",
    "figure_bytes",
    "find_scene",
    "save_figure",
    "scene_of",
    "sky_axes",
    "sky_map_figure",
    "triplet_figure",
]

# A command that writes regions does not wait for what draws.
if not TYPE_CHECKING:  # else every name would seem to be there
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
