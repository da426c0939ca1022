"""The command ``check-consistency``: compare a catalogue in coadds with the same catalogue in their visits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import (
    ColumnMap,
    Json,
    Plot,
    check_plot,
    command,
    echo,
    emit_json,
    fail,
    finite,
    growing_bar,
    open_campaign,
    progress_bar,
)
from skygraft.cli.image_options import AllowPickle, Aperture, FormatName, Hdu, Option, Psf, Zeropoint, format_options
from skygraft.cli.image_options import read_image as read_one
from skygraft.cli.placing import Cluster, Sample, Scheduler, Workers, placed, role, workers_of

if TYPE_CHECKING:
    from skygraft.exposure import Exposure
    from skygraft.qa.consistency import Consistency, ConsistencySettings

__all__ = ["check_consistency"]


class Weighting(StrEnum):
    """Weights of the visits."""

    auto = "auto"
    variance = "variance"
    equal = "equal"


_VISITS = "Reading the visits"
_CAMPAIGNS = "Two campaigns"


@command
def check_consistency(
    coadd: Annotated[Path, typer.Argument(help="The coadd, or the YAML file of a campaign.", show_default=False)],
    visits: Annotated[
        list[str],
        typer.Option(
            help="The images that the coadd was made of (files, or glob patterns in quotes; may be repeated), or the "
            "YAML file of the campaign of visits.",
            show_default=False,
        ),
    ],
    catalog: Annotated[
        Path | None,
        typer.Option(help="The sources; campaigns have their own.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the table, .parquet: one row a source.", show_default=False),
    ] = None,
    plot: Plot = None,
    tolerance: Annotated[
        float, typer.Option(callback=finite, help="Difference, mag, up to which a source agrees.")
    ] = 0.005,
    size_tolerance: Annotated[
        float, typer.Option(callback=finite, help="The same for the ratio of sizes, as a fraction.")
    ] = 0.01,
    position_tolerance: Annotated[
        float, typer.Option(callback=finite, help="The same for positions, coadd pixels.")
    ] = 0.05,
    measure_in: Annotated[
        str | None,
        typer.Option(
            help="Radius to measure in, such as '12 pix', if the coadd is not calibrated to an aperture; by default "
            "three times the FWHM of its PSF.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Weighting,
        typer.Option(help="Weights of the visits: those that the coadd lists, or else by variance; or all the same."),
    ] = Weighting.auto,
    bad_planes: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask plane of visits whose pixels the coadd left out; may be repeated. By default BAD, SAT, CR, "
            "NO_DATA, EDGE and the like.",
            show_default=False,
        ),
    ] = None,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels/--no-pixels",
            help="Compare the light that was in the images, too: zeropoint, shift, and which visits the coadd holds.",
        ),
    ] = True,
    aperture: Aperture = None,
    format: FormatName = "auto",
    psf: Psf = None,
    zeropoint: Zeropoint = None,
    hdu: Hdu = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    band: Annotated[
        str | None, typer.Option(help="Band of the magnitudes; by default the images'.", show_default=False)
    ] = None,
    dialect: Annotated[str, typer.Option(help="Dialect of the catalogue.")] = "auto",
    columns: ColumnMap = None,
    visit_aperture: Annotated[
        str | None,
        typer.Option(help="As --aperture, of the visits.", show_default=False, rich_help_panel=_VISITS),
    ] = None,
    visit_psf: Annotated[
        str | None, typer.Option(help="As --psf, of the visits.", show_default=False, rich_help_panel=_VISITS)
    ] = None,
    visit_zeropoint: Annotated[
        float | None,
        typer.Option(
            help="As --zeropoint, of the visits.", callback=finite, show_default=False, rich_help_panel=_VISITS
        ),
    ] = None,
    visit_format: Annotated[str, typer.Option(help="Format of the visits.", rich_help_panel=_VISITS)] = "auto",
    visit_hdu: Annotated[
        str | None, typer.Option(help="HDU of the visits.", show_default=False, rich_help_panel=_VISITS)
    ] = None,
    visit_option: Annotated[
        list[str] | None,
        typer.Option(help="As --option, of the visits.", show_default=False, rich_help_panel=_VISITS),
    ] = None,
    ccds: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table of CCDs (survey-ccds) that calibrates visits of the Legacy Surveys; may be repeated.",
            show_default=False,
            rich_help_panel=_VISITS,
        ),
    ] = None,
    sample: Sample = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Compare again what was compared before.", rich_help_panel=_CAMPAIGNS)
    ] = False,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Compare a catalogue injected into a coadd with the weighted mean of the same catalogue injected into its visits.

    For each source: the difference of the magnitudes in the calibration aperture, and what makes it: PSF model,
    warping, calibration, weights, masked pixels; and, from the light that was in the images before, the zeropoint and
    shift of the coadd, and the visits that are not in it. Images are injected into in memory; nothing is written but
    the table.

    With two campaigns, all coadds are compared in tasks that can be resumed, and the table is in the folder consistency
    of the coadds' campaign. The exit code is 1 if a source differs, or none could be compared.

    Example:  skygraft check-consistency coadd.fits --visits 'calexp-*.fits' --catalog fakes.parquet -o table.parquet
    Example:  skygraft check-consistency coadds.yaml --visits visits.yaml --cluster slurm --workers 50
    """
    from skygraft.qa.consistency.settings import ConsistencySettings

    if plot is not None:
        check_plot(plot)
    settings = ConsistencySettings(
        tolerance=tolerance,
        size_tolerance=size_tolerance,
        position_tolerance=position_tolerance,
        weights=weights.value,
        aperture=measure_in,
        bad_planes=None if bad_planes is None else tuple(bad_planes),
        pixels=pixels,
    )
    if _is_yaml(coadd):
        if len(visits) != 1 or not _is_yaml(Path(visits[0])):
            raise fail("with a campaign of coadds, --visits is the YAML file of the campaign of visits", code=2)
        if catalog is not None or output is not None:
            raise fail("campaigns have their own catalogues and tables: leave --catalog and --output out", code=2)
        _of_campaigns(coadd, Path(visits[0]), settings, plot, sample, redo, workers, cluster, scheduler, json)
        return
    if catalog is None:
        raise fail("--catalog is needed: the sources to inject", code=2)
    if output is not None and output.suffix != ".parquet":
        raise fail(f"{output}: the table is a .parquet file", code=2)
    options = format_options(option, None, allow_pickle)
    exposure = read_one(coadd, format, aperture, psf, zeropoint, hdu, options)
    given = (visit_format, visit_aperture, visit_psf, visit_zeropoint, visit_hdu)
    paths = _files(visits, coadd)
    own = format_options(visit_option, ccds, allow_pickle)
    found = _of_files(
        exposure,
        _reading(paths, given, own),
        len(paths),
        _sources(catalog, dialect, band or exposure.data_id.band, columns),
        settings,
        band,
    )
    _write(found, output, plot)
    if json:
        emit_json(found.to_dict())
    else:
        _show(found, output)
    if not found.ok:
        raise typer.Exit(1)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _files(patterns: list[str], coadd: Path) -> list[Path]:
    """The files of some paths, URLs and patterns of these, sorted; the coadd itself is not a visit."""
    import glob

    from skygraft.errors import ConfigError
    from skygraft.place_names import is_url
    from skygraft.places import find_copies, given_path

    found: set[Path] = set()
    for pattern in patterns:
        matching: Sequence[str | Path]
        if is_url(pattern):
            matching = find_copies(pattern) if set("*?[") & set(pattern) else [given_path(pattern)]
        else:
            matching = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        if not matching:
            raise ConfigError(f"no file matches {pattern!r}", key="--visits", fix="Check the pattern; quote it")
        found.update(Path(one) for one in matching)
    return sorted(path for path in found if _whole(path) != _whole(given_path(coadd)))


def _whole(path: Path) -> str:
    """A path by which two names of one file are the same: of a copy its URL."""
    from skygraft.place_names import url_of

    return url_of(path) or path.resolve().as_uri()


type _Given = tuple[str, str | None, str | None, float | None, str | None]
"""Format, aperture, PSF, zeropoint and HDU."""


def _reading(paths: list[Path], given: _Given, options: dict[str, Any]) -> Iterator[Exposure]:
    for path in paths:
        yield read_one(path, *given, options)


def _sources(path: Path, dialect: str, band: str | None, columns: list[str] | None) -> Any:
    from skygraft.catalog import read_catalog
    from skygraft.catalog.column_maps import parse_map

    return read_catalog(path, dialect=dialect, band=band, on_bad="flag", columns=parse_map(columns or ()))


def _of_files(
    coadd: Exposure,
    visits: Iterator[Exposure],
    n_visits: int,
    sources: Any,
    settings: ConsistencySettings,
    band: str | None,
) -> Consistency:
    from skygraft.qa.consistency import check_consistency as compare

    with progress_bar("comparing", n_visits) as advance:
        return compare(coadd, visits, sources, settings=settings, band=band, progress=advance)


def _write(found: Consistency, output: Path | None, plot: Path | None) -> None:
    if output is not None:
        import pyarrow.parquet as pq

        from skygraft.disk import atomic_path

        with atomic_path(output) as temporary:
            pq.write_table(found.table, temporary, compression="zstd")
    if plot is not None:
        from skygraft.qa.consistency.figure import consistency_figure, worst_stamps
        from skygraft.views.figures import save_figure

        save_figure(consistency_figure(found.table, worst_stamps(found)), plot)


def _show(found: Consistency, output: Path | None) -> None:
    from skygraft.wording import number

    echo(str(found.summary))
    echo(f"measured in {found.radius:.5g} pix ({found.radius_origin}); {number(len(found.visits), 'visit')} compared")
    for name, reason in list(found.left_out.items())[:10]:
        echo(f"left out: {name}: {reason}")
    for line in found.pixels.lines():
        echo(line)
    if output is not None:
        echo(f"table in {output}")


def _of_campaigns(
    coadds: Path,
    visits: Path,
    settings: ConsistencySettings,
    plot: Path | None,
    sample: int | None,
    redo: bool,
    workers: int | None,
    cluster: str | None,
    scheduler: str | None,
    json: bool,
) -> None:
    from skygraft.qa.consistency.campaigns import compare_campaigns, consistency_rows

    campaign = placed(open_campaign(coadds), cluster, scheduler, workers)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(role(campaign)):
            return
        moved = stack.enter_context(growing_bar("comparing"))
        found = compare_campaigns(
            campaign,
            open_campaign(visits),
            settings,
            sample=sample,
            **workers_of(campaign, cluster, scheduler, workers),
            redo=redo,
            progress=moved,
        )
    if plot is not None:
        from skygraft.qa.consistency.figure import consistency_figure
        from skygraft.views.figures import save_figure

        save_figure(consistency_figure(consistency_rows(campaign)), plot)
    if json:
        emit_json(found.to_dict())
    else:
        echo(str(found))
    if not found.ok:
        raise typer.Exit(1)
