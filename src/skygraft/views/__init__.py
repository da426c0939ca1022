"""Pictures of injected images: triplets, cut-outs, colours, sky maps, regions; a patch as one array; training sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.views.blink import blink_bytes
    from skygraft.views.colour import choose_bands, colour_figure, colour_image
    from skygraft.views.cutouts import choose_fakes, cutout_grid, found_and_missed_figure
    from skygraft.views.figures import figure_bytes, save_figure
    from skygraft.views.moc import Moc, footprint_moc
    from skygraft.views.patch import open_patch
    from skygraft.views.regions import region_text
    from skygraft.views.scenes import Scene, find_scene, scene_of
    from skygraft.views.sky import sky_axes, sky_map_figure
    from skygraft.views.template_images import templates_of
    from skygraft.views.training import TripletCounts, training_triplets
    from skygraft.views.triplet_files import open_triplets
    from skygraft.views.triplets import best_cutout, triplet_figure

_HOMES = {
    "skygraft.views.blink": ("blink_bytes",),
    "skygraft.views.colour": ("choose_bands", "colour_figure", "colour_image"),
    "skygraft.views.cutouts": ("choose_fakes", "cutout_grid", "found_and_missed_figure"),
    "skygraft.views.figures": ("figure_bytes", "save_figure"),
    "skygraft.views.moc": ("Moc", "footprint_moc"),
    "skygraft.views.patch": ("open_patch",),
    "skygraft.views.regions": ("region_text",),
    "skygraft.views.scenes": ("Scene", "find_scene", "scene_of"),
    "skygraft.views.sky": ("sky_axes", "sky_map_figure"),
    "skygraft.views.template_images": ("templates_of",),
    "skygraft.views.training": ("TripletCounts", "training_triplets"),
    "skygraft.views.triplet_files": ("open_triplets",),
    "skygraft.views.triplets": ("best_cutout", "triplet_figure"),
}

__all__ = [
    "Moc",
    "Scene",
    "TripletCounts",
    "best_cutout",
    "blink_bytes",
    "choose_bands",
    "choose_fakes",
    "colour_figure",
    "colour_image",
    "cutout_grid",
    "figure_bytes",
    "find_scene",
    "footprint_moc",
    "found_and_missed_figure",
    "open_patch",
    "open_triplets",
    "region_text",
    "save_figure",
    "scene_of",
    "sky_axes",
    "sky_map_figure",
    "templates_of",
    "training_triplets",
    "triplet_figure",
]

# A command that writes regions does not wait for what draws.
if not TYPE_CHECKING:  # else every name would seem to be there
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
