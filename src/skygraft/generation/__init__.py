"""Make catalogues of fakes: positions, populations, hosts and groups, stellar systems, footprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.generation.detected import hosts_from_detections
    from skygraft.generation.generate import generate_catalog, generate_table
    from skygraft.generation.generator import CatalogGenerator, GenerationSummary
    from skygraft.generation.groups import binaries, place_groups
    from skygraft.generation.hosts import in_hosts
    from skygraft.generation.lenses import Lens, LensedImages, lensed_system
    from skygraft.generation.random_catalogs import (
        Population,
        cosmos_shapes,
        grid_catalog,
        random_catalog,
        star_catalog,
    )
    from skygraft.generation.region import Region
    from skygraft.generation.spec import PopulationSpec, load_spec, parse_spec
    from skygraft.generation.star_positions import Exponential, King, Plummer, SersicStars, Stream
    from skygraft.generation.stellar import StellarSystem
    from skygraft.generation.stellar_populations import (
        StellarPopulation,
        isochrone,
        luminosity_function,
        read_isochrones,
    )
    from skygraft.generation.summary import CatalogSummary, catalog_figure, summarise_catalog

__all__ = [
    "CatalogGenerator",
    "CatalogSummary",
    "Exponential",
    "GenerationSummary",
    "King",
    "Lens",
    "LensedImages",
    "Plummer",
    "Population",
    "PopulationSpec",
    "Region",
    "SersicStars",
    "StellarPopulation",
    "StellarSystem",
    "Stream",
    "binaries",
    "catalog_figure",
    "cosmos_shapes",
    "generate_catalog",
    "generate_table",
    "grid_catalog",
    "hosts_from_detections",
    "in_hosts",
    "isochrone",
    "lensed_system",
    "load_spec",
    "luminosity_function",
    "parse_spec",
    "place_groups",
    "random_catalog",
    "read_isochrones",
    "star_catalog",
    "summarise_catalog",
]

if not TYPE_CHECKING:  # random catalogues need no images
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.generation.detected": ("hosts_from_detections",),
            "skygraft.generation.generate": ("generate_catalog", "generate_table"),
            "skygraft.generation.generator": ("CatalogGenerator", "GenerationSummary"),
            "skygraft.generation.groups": (
                "binaries",
                "place_groups",
            ),
            "skygraft.generation.hosts": ("in_hosts",),
            "skygraft.generation.lenses": (
                "Lens",
                "LensedImages",
                "lensed_system",
            ),
            "skygraft.generation.random_catalogs": (
                "Population",
                "cosmos_shapes",
                "grid_catalog",
                "random_catalog",
                "star_catalog",
            ),
            "skygraft.generation.region": ("Region",),
            "skygraft.generation.spec": ("PopulationSpec", "load_spec", "parse_spec"),
            "skygraft.generation.star_positions": (
                "Exponential",
                "King",
                "Plummer",
                "SersicStars",
                "Stream",
            ),
            "skygraft.generation.stellar": ("StellarSystem",),
            "skygraft.generation.stellar_populations": (
                "StellarPopulation",
                "isochrone",
                "luminosity_function",
                "read_isochrones",
            ),
            "skygraft.generation.summary": ("CatalogSummary", "catalog_figure", "summarise_catalog"),
        },
    )
