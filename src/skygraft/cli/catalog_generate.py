"""The commands ``catalog generate`` and ``catalog show``."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import (
    ColumnMap,
    Json,
    command,
    echo,
    emit_json,
    err_console,
    growing_bar,
    progress_bar,
    show_rows,
)
from skygraft.errors import ConfigError

if TYPE_CHECKING:
    from skygraft.generation import CatalogSummary, GenerationSummary

__all__ = ["generate", "show"]

_SIMPLE = "Without a file"


class PositionsKind(StrEnum):
    """How positions are chosen."""

    uniform = "uniform"
    halton = "halton"
    hexagonal = "hexagonal"


def _range(text: str, option: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--{option} is {text!r}; two numbers are needed, such as 18:26", key=option) from None
    return low, high


@command
def generate(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[POPULATION.yaml]", help="What to generate.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.", show_default=False)] = Path(
        "fakes.parquet"
    ),
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Number of sources.", show_default=False)] = None,
    density: Annotated[
        float | None, typer.Option(help="Sources per square arcminute, instead of --n.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random numbers. [default: 0]", show_default=False)
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(
            help="Bands of the catalogue, separated by commas; magnitudes are those in the first. [default: those of "
            "the images]",
            show_default=False,
        ),
    ] = None,
    footprint: Annotated[
        Path | None,
        typer.Option(
            help="Images to cover: a campaign's YAML file, its plan.parquet, or an index of skygraft index -o.",
            show_default=False,
        ),
    ] = None,
    positions: Annotated[
        PositionsKind | None,
        typer.Option(help="Random, a Halton sequence, or a hexagonal grid. [default: uniform]", show_default=False),
    ] = None,
    separation: Annotated[
        str | None,
        typer.Option(
            help="Smallest distance between sources: '5 arcsec', or '3 fwhm' of the images' PSF.", show_default=False
        ),
    ] = None,
    mag: Annotated[
        str | None,
        typer.Option(
            help="Range of magnitudes, such as 18:26.",
            metavar="LOW:HIGH",
            show_default=False,
            rich_help_panel=_SIMPLE,
        ),
    ] = None,
    below_depth: Annotated[
        str | None,
        typer.Option(
            help="Range of magnitudes relative to the 5 sigma depth of the images at each place, such as -4:1, instead "
            "of --mag. The images are read.",
            metavar="LOW:HIGH",
            show_default=False,
            rich_help_panel=_SIMPLE,
        ),
    ] = None,
    slope: Annotated[
        float | None,
        typer.Option(
            help="Number counts are 10^(slope m); 0 is uniform. [default: 0]",
            show_default=False,
            rich_help_panel=_SIMPLE,
        ),
    ] = None,
    star_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of stars; the others are Sersic galaxies. [default: 0.5]",
            min=0.0,
            max=1.0,
            show_default=False,
            rich_help_panel=_SIMPLE,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read images. [default: one per core]", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Generate a catalogue of fakes, from the description of a population or a few options.

    The same description and seed give the same rows on every machine. Of random positions, 10 000 are the first of
    100 000. Memory does not grow with the number. Options replace the keys of the file.

    Example:  skygraft catalog generate population.yaml -o fakes.parquet --n 100000 --seed 2
    Example:  skygraft catalog generate --footprint campaign.yaml --n 10000 --mag 18:26 --star-fraction 0.5
    """
    from skygraft.generation.generator import CatalogGenerator, check_output
    from skygraft.generation.spec import load_spec, parse_spec

    check_output(output, overwrite=overwrite)
    changes = _changes(n, density, seed, band, footprint, positions, separation)
    simple = {"--mag": mag, "--below-depth": below_depth, "--slope": slope, "--star-fraction": star_fraction}
    if spec is not None:
        given = [name for name, value in simple.items() if value is not None]
        if given:
            raise ConfigError(
                f"{', '.join(given)} and a file are both given; the file says what sources there are",
                path=spec,
                key=given[0].lstrip("-"),
                fix=f"Leave {given[0]} out, or the file",
            )
        parsed = load_spec(spec, changes)
    else:
        parsed = parse_spec(_simple(mag, below_depth, slope, star_fraction, footprint), changes)
    with growing_bar("generating") as moved:
        # The bar is one for all steps, each of which begins again at 0.
        generator = CatalogGenerator(
            parsed, processes or len(os.sched_getaffinity(0)), lambda what, done, total: moved(done, total)
        )
        summary = generator.write(output, overwrite=overwrite)
    if json:
        emit_json(summary.to_dict())
    else:
        _print_generated(summary)


def _changes(
    n: int | None,
    density: float | None,
    seed: int | None,
    band: str | None,
    footprint: Path | None,
    positions: PositionsKind | None,
    separation: str | None,
) -> dict[str, Any]:
    changes: dict[str, Any] = {"n": n, "density": density, "seed": seed}
    if n is not None and density is not None:
        raise ConfigError("--n and --density are both given", key="density", fix="Give one of them")
    changes = {name: value for name, value in changes.items() if value is not None}
    if band is not None:
        changes["bands"] = [name.strip() for name in band.split(",") if name.strip()]
    if footprint is not None:
        changes["area"] = {"footprint": str(footprint.absolute())}
    chosen = {"kind": None if positions is None else str(positions), "separation": separation}
    if any(value is not None for value in chosen.values()):
        changes["positions"] = {name: value for name, value in chosen.items() if value is not None}
    return changes


def _simple(
    mag: str | None, below_depth: str | None, slope: float | None, star_fraction: float | None, footprint: Path | None
) -> dict[str, Any]:
    """The description that the options stand for."""
    if footprint is None:
        raise ConfigError(
            "neither a population.yaml nor --footprint is given",
            key="footprint",
            fix="Name the images to cover: --footprint campaign.yaml",
        )
    if (mag is None) == (below_depth is None):
        raise ConfigError(
            "one of --mag and --below-depth is needed" if mag is None else "--mag and --below-depth are both given",
            key="mag",
            fix="Give the range of magnitudes: --mag 18:26",
        )
    low, high = _range(mag, "mag") if mag is not None else _range(below_depth or "", "below-depth")
    magnitudes: dict[str, Any] = {"mag": {"kind": "power_law", "low": low, "high": high, "slope": slope or 0.0}}
    if below_depth is not None:
        magnitudes["mag_relative_to"] = "depth"
    stars = 0.5 if star_fraction is None else star_fraction
    kinds = [("Star", stars), ("Sersic", 1.0 - stars)]
    return {"sources": [{"type": name, "fraction": part, **magnitudes} for name, part in kinds if part > 0], "area": {}}


def _print_generated(summary: GenerationSummary) -> None:
    rows = [
        ("sources", f"{summary.n:,}"),
        ("types", ", ".join(f"{name} {n:,}" for name, n in summary.types.items())),
        ("bands", ", ".join(summary.bands)),
        ("area", f"{summary.area:.6g} square degrees, {summary.density:.4g} sources per square arcminute"),
        *(("note", note) for note in summary.notes),
    ]
    show_rows(rows, str(summary.path))


@command
def show(
    catalog: Annotated[
        Path,
        typer.Argument(
            help="The catalogue: a file or folder in any format and dialect that skygraft reads.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Figure of positions, magnitudes and sizes to write: .png, .pdf, .svg or .jpg.",
            show_default=False,
        ),
    ] = None,
    dialect: Annotated[str, typer.Option(help="Dialect of the catalogue; auto recognises it.")] = "auto",
    columns: ColumnMap = None,
    json: Json = False,
) -> None:
    """Show what is in a catalogue: rows, types, bands, ranges and density; and draw it.

    Example:  skygraft catalog show fakes.parquet -o fakes.png
    """
    from skygraft.catalog.column_maps import parse_map
    from skygraft.cli.common import check_plot
    from skygraft.generation.summary import catalog_figure, summarise_catalog

    if output is not None:
        check_plot(output)
    with progress_bar("reading", None) as advance:
        summary = summarise_catalog(catalog, dialect=dialect, columns=parse_map(columns or ()), progress=advance)
    if output is not None:
        from skygraft.views.figures import save_figure

        save_figure(catalog_figure(summary), output)
    if json:
        emit_json(summary.to_dict())
        return
    _print_summary(summary)
    if output is not None:
        err_console().print(f"figure: {output}", markup=False)


def _print_summary(summary: CatalogSummary) -> None:
    rows = [
        ("sources", f"{summary.n:,}" + (f", {summary.n_flagged:,} cannot be drawn" if summary.n_flagged else "")),
        ("types", ", ".join(f"{name} {n:,}" for name, n in summary.types.items())),
        ("ids", f"{summary.ids[0]} to {summary.ids[1]}"),
        ("ra", f"{summary.ra[0]:.6f} to {summary.ra[1]:.6f} deg"),
        ("dec", f"{summary.dec[0]:.6f} to {summary.dec[1]:.6f} deg"),
        ("area", f"about {summary.area:.3g} square degrees, {summary.density:.3g} sources per square arcminute"),
    ]
    for band, found in summary.bands.items():
        missing = summary.n - found.n
        text = f"{found.low:.3f} to {found.high:.3f}, median {found.median:.2f}"
        rows.append((f"mag_{band}", text + (f"; {missing:,} without" if missing else "")))
    for name, found in summary.columns.items():
        rows.append((name, f"{found.low:.6g} to {found.high:.6g} {found.unit}".rstrip()))
    show_rows(rows, str(summary.path))
    if not summary.bands:
        echo("It has no magnitudes: nothing of it would be drawn.", err=True)
