"""Make catalogues of fakes: positions, populations, hosts and groups, stellar systems, footprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.generation.generate import generate_catalog, generate_table
    from skygraft.generation.generator import CatalogGenerator, GenerationSummary
    from skygraft.generation.random_catalogs import (
        Population,
        cosmos_shapes,
        grid_catalog,
        random_catalog,
        star_catalog,
    )
    from skygraft.generation.region import Region
    from skygraft.generation.spec import PopulationSpec, load_spec, parse_spec
    from skygraft.generation.summary import CatalogSummary, catalog_figure, summarise_catalog

__all__ = [
    "CatalogGenerator",
    "CatalogSummary",
    "GenerationSummary",
    "Population",
    "PopulationSpec",
    "Region",
    "catalog_figure",
    "cosmos_shapes",
    "generate_catalog",
    "generate_table",
    "grid_catalog",
    "load_spec",
    "parse_spec",
    "random_catalog",
    "star_catalog",
    "summarise_catalog",
]

if not TYPE_CHECKING:  # random catalogues need no images
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.generation.generate": ("generate_catalog", "generate_table"),
            "skygraft.generation.generator": ("CatalogGenerator", "GenerationSummary"),
            "skygraft.generation.random_catalogs": (
                "Population",
                "cosmos_shapes",
                "grid_catalog",
                "random_catalog",
                "star_catalog",
            ),
            "skygraft.generation.region": ("Region",),
            "skygraft.generation.spec": ("PopulationSpec", "load_spec", "parse_spec"),
            "skygraft.generation.summary": ("CatalogSummary", "catalog_figure", "summarise_catalog"),
        },
    )
