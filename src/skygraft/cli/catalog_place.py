"""The commands ``catalog hosts`` and ``catalog groups``: sources that are placed by others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import command, echo, naming

if TYPE_CHECKING:
    from astropy.wcs.wcsapi import BaseLowLevelWCS

__all__ = ["groups", "hosts"]

_Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Catalogue to write: .parquet, .ecsv, .fits or .vot.", show_default=False),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the catalogue if it exists.")]


@command
def hosts(
    transients: Annotated[
        Path,
        typer.Argument(help="Table of transients: injection_id, and other columns of catalogues, without ra, dec."),
    ],
    galaxies: Annotated[Path, typer.Argument(help="Catalogue of galaxies, or with --detections a table of real ones.")],
    output: _Output,
    weights: Annotated[
        str | None,
        typer.Option(
            help="How hosts are drawn for transients without host_id: uniform, mag_<band>, or a column of galaxies.",
            show_default=False,
        ),
    ] = None,
    separation: Annotated[
        str | None,
        typer.Option(
            help="Distance from the host's centre: arcsec, or a column of the transients. [default: from its light]",
            show_default=False,
        ),
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option(
            help="Distance in half-light radii, along the host's ellipse, instead of --separation.", show_default=False
        ),
    ] = None,
    pa: Annotated[
        str | None,
        typer.Option(
            help="Position angle for --separation or --radii: degrees, or a column. [default: random]",
            show_default=False,
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(help="Largest distance drawn from the light, half-light radii.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    detections: Annotated[
        bool, typer.Option("--detections", help="The galaxies are detections (Source Extractor, LSST, Tractor).")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(help="Image of the detections, whose WCS takes pixels to the sky.", show_default=False),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TERM=COLUMN",
            help="Column of the detections that is not recognised, for a term such as ra, half_light_radius, q or pa. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    seeing: Annotated[float, typer.Option(min=0.0, help="FWHM taken out of the sizes of detections, arcsec.")] = 0.0,
    circular: Annotated[bool, typer.Option("--circular", help="Take detections as round.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """Place transients in host galaxies.

    Example:  skygraft catalog hosts supernovae.csv galaxies.parquet --weights mag_r -o fakes.parquet
    """
    import numpy as np

    from skygraft.catalog import read_catalog, write_catalog
    from skygraft.catalog.io import read_table
    from skygraft.errors import ConfigError
    from skygraft.generation.detected import hosts_from_detections
    from skygraft.generation.hosts import in_hosts

    if not detections and (image is not None or seeing or circular or columns):
        raise ConfigError("--image, --columns, --seeing and --circular apply to --detections", fix="Add --detections")
    if detections:
        wcs = None if image is None else _wcs_of(image)
        table = hosts_from_detections(
            galaxies, columns=_terms(columns or ()), wcs=wcs, seeing=seeing, circular=circular
        )
    else:
        table = read_catalog(galaxies)
    with naming(f"{transients}, with hosts of {galaxies}"):
        placed = in_hosts(
            read_table(transients),
            table,
            separation=_number_or_column(separation),
            radii=_number_or_column(radii),
            pa=_number_or_column(pa),
            weights=weights,
            within=np.inf if within is None else within,
            seed=seed,
        )
    write_catalog(placed, output, overwrite=overwrite)
    n_hosts = len(np.unique(placed["host_id"]))
    echo(f"{len(placed)} transients in {n_hosts} hosts: {output}")


@command
def groups(
    members: Annotated[
        Path,
        typer.Argument(help="Table of the group's members: columns of catalogues, with offset_east, offset_north."),
    ],
    places: Annotated[Path, typer.Argument(help="Table of places: ra, dec, and optionally rotation, scale, group_id.")],
    output: _Output,
    first_id: Annotated[int, typer.Option(min=0, help="Injection id of the first member of group 0.")] = 0,
    overwrite: _Overwrite = False,
) -> None:
    """Place a group of sources, turned and scaled as one, at each position of a table.

    Example:  skygraft catalog groups members.ecsv places.ecsv --first-id 1000 -o fakes.parquet
    """
    from skygraft.catalog import write_catalog
    from skygraft.catalog.io import read_table, resolve_stamps
    from skygraft.generation.groups import place_groups

    table, where = read_table(members), read_table(places)
    resolve_stamps(table, members)
    with naming(f"{members} at {places}"):
        placed = place_groups(table, where, first_id=first_id)
    write_catalog(placed, output, overwrite=overwrite)
    echo(f"{len(placed)} sources in {len(where)} groups: {output}")


def _terms(pairs: Iterable[str]) -> dict[str, str]:
    """Return the column of each term of texts such as ``pa=THETA``."""
    from skygraft.errors import ConfigError
    from skygraft.generation.detected import TERMS

    columns = {}
    for pair in pairs:
        term, sign, column = (part.strip() for part in pair.partition("="))
        if not sign or not column or term not in TERMS:
            raise ConfigError(
                f"--columns {pair!r} is not TERM=COLUMN with a term of {', '.join(TERMS)}",
                key="columns",
                fix="Write for instance half_light_radius=FLUX_RADIUS",
            )
        columns[term] = column
    return columns


def _wcs_of(image: Path) -> BaseLowLevelWCS:
    """Return the WCS in the first header of a FITS file that has one."""
    from skygraft.errors import MissingWcsError
    from skygraft.fitsfile.open import open_fits
    from skygraft.wcs import read_fits_wcs

    with open_fits(image) as hdus:
        headers = [hdu.header for hdu in hdus if "CTYPE1" in hdu.header]
    if not headers:
        raise MissingWcsError("no HDU has a celestial WCS (CTYPE1)", path=image, fix="Give the image itself")
    return read_fits_wcs(headers[0], path=image)


def _number_or_column(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
