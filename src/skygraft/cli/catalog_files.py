"""The commands ``catalog validate`` and ``catalog convert``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import ColumnMap, Json, command, echo, emit_json, growing_bar, in_options, show_rows

if TYPE_CHECKING:
    from skygraft.catalog.conversion import Conversion
    from skygraft.catalog.inspection import CatalogProblem, CatalogReport

__all__ = ["register"]


class OnBad(StrEnum):
    """What to do with bad rows."""

    raise_ = "raise"
    flag = "flag"


Dialect = Annotated[str, typer.Option(help="Dialect of the catalogue; auto recognises it.")]
Band = Annotated[
    str | None, typer.Option(help="Band of a magnitude column that does not name one.", show_default=False)
]
Catalogue = Annotated[
    Path,
    typer.Argument(
        help="File (Parquet, FITS, ECSV, CSV, VOTable), HATS catalogue or collection, or folder of Parquet files.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the sub-app ``skygraft catalog``."""
    app.command()(validate)
    app.command()(convert)


@command
def validate(
    catalog: Catalogue,
    dialect: Dialect = "auto",
    columns: ColumnMap = None,
    band: Band = None,
    json: Json = False,
) -> None:
    """Check a catalogue: show its format, dialect, types and bands, and all problems with it.

    The exit code is 1 if there are problems.

    Example:  skygraft catalog validate fakes.fits --columns ra=RAJ2000 --columns dec=DEJ2000
    """
    from skygraft.catalog.column_maps import parse_map
    from skygraft.catalog.inspection import inspect_catalog

    report = inspect_catalog(catalog, dialect=dialect, band=band, columns=parse_map(columns or ()))
    if json:
        emit_json(report.to_dict())
    else:
        _show(report)
    if report.problems:
        raise typer.Exit(1)


def _show(report: CatalogReport) -> None:
    rows = [("format", report.format), ("dialect", report.dialect), ("rows", f"{report.n_rows:,}")]
    rows += [("type", f"{name}: {n:,}") for name, n in report.source_types.items()]
    for name, found in report.bands.items():
        span = f", {found.brightest:.2f} to {found.faintest:.2f} mag" if found.n else ""
        rows.append(("band", f"{name}: {found.n:,} sources{span}"))
    rows += [("sources", f"{n:,} {what}") for what, n in report.contents.items()]
    if report.units:
        rows.append(("units", ", ".join(f"{name} {unit}" for name, unit in report.units.items())))
    if report.unused:
        rows.append(("not used", ", ".join(report.unused)))
    rows += [("note", text) for text in report.notes]
    rows += [("problem", _words(problem)) for problem in report.problems]
    n = len(report.problems)
    show_rows(
        [(label, text) for label, text in rows if text],
        f"{report.path}: " + (f"{n} problem{'s' * (n > 1)}" if n else "nothing is wrong with it"),
    )


def _words(problem: CatalogProblem) -> str:
    if not problem.n:
        return in_options(problem.text, ("dialect", "columns", "band"))
    first = ", ".join(f"{row} (injection_id {i})" for row, i in zip(problem.rows, problem.ids, strict=True))
    kept = "; can be kept undrawn with on_bad='flag'" if problem.keepable else ""
    more = ", ..." if problem.n > len(problem.rows) else ""
    return f"{problem.n:,} row{'s' * (problem.n > 1)}, such as {problem.text}{kept}. Rows {first}{more}"


@command
def convert(
    catalog: Catalogue,
    output: Annotated[
        Path,
        typer.Argument(
            help="File to write (.parquet, .fits, .ecsv, .vot), or with --hats the folder of a collection.",
            show_default=False,
        ),
    ],
    dialect: Dialect = "auto",
    columns: ColumnMap = None,
    band: Band = None,
    select: Annotated[
        str,
        typer.Option(help="Expression for the rows to write, such as 'mag_r < 24 and not isnan(mag_i)'."),
    ] = "",
    on_bad: Annotated[
        OnBad, typer.Option(help="Rows that cannot be drawn are an error, or are written with a flag.")
    ] = OnBad.raise_,
    hats: Annotated[bool, typer.Option("--hats", help="Write a HATS collection, which LSDB reads.")] = False,
    margin: Annotated[
        float, typer.Option(help="Width of a HATS collection's margins, arcseconds; 0 for none.", min=0.0)
    ] = 10.0,
    max_rows: Annotated[
        int, typer.Option(help="Rows above which a partition of a HATS collection is cut.", min=1)
    ] = 500_000,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Copy the columns unconverted and unchecked, as is always done with a campaign's truth and sources.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Convert a catalogue to the native columns and another format, or a campaign's tables to a HATS collection.

    Parquet and HATS are read and written in pieces, so that they may be of any size.

    Example:  skygraft catalog convert out/truth truth_hats --hats
    """
    from skygraft.catalog.column_maps import parse_map
    from skygraft.catalog.conversion import convert_catalog

    done = 0
    with growing_bar("rows") as moved:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            moved(done, None)

        found = convert_catalog(
            catalog,
            output,
            dialect=dialect,
            band=band,
            columns=parse_map(columns or ()),
            select=select,
            on_bad=on_bad.value,
            hats=hats,
            as_is=True if as_is else None,
            margin_arcsec=margin,
            max_rows=max_rows,
            overwrite=overwrite,
            progress=advance,
        )
    if json:
        emit_json(_content(found))
        return
    columns_of = "columns as they were" if found.as_is else "native columns"
    echo(f"{found.path}: {found.n_written:,} of {found.n_read:,} rows, {columns_of}")
    if found.hats is not None:
        parts = f"{found.hats.n_partitions:,} partition{'s' * (found.hats.n_partitions > 1)}"
        echo(f"HATS collection of {parts}, with {found.hats.n_margin:,} rows in margins")


def _content(found: Conversion) -> dict[str, object]:
    content: dict[str, object] = {
        "path": str(found.path),
        "n_read": found.n_read,
        "n_written": found.n_written,
        "as_is": found.as_is,
    }
    if found.hats is not None:
        content |= {"n_partitions": found.hats.n_partitions, "n_margin": found.hats.n_margin}
    return content
