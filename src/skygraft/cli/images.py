"""The commands on images: ``inspect``, ``inject`` and ``index``."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import (
    ButlerCollections,
    ButlerRepo,
    ButlerType,
    ButlerWhere,
    ColumnMap,
    Json,
    butler_settings,
    command,
    emit_json,
    fail,
    finite,
    out_console,
    print_table,
    progress_bar,
    show_rows,
)
from skygraft.cli.image_options import (
    AllowPickle,
    Aperture,
    Ccds,
    FormatName,
    Hdu,
    Option,
    Psf,
    Zeropoint,
    format_options,
    psf_of,
    read_image,
    wings_of,
)
from skygraft.lazy import left_out

if TYPE_CHECKING:
    from skygraft.survey import SurveyIndex

__all__ = ["register"]


class FluxMode(StrEnum):
    """Normalisation of a source's flux."""

    calibrated = "calibrated"
    aperture = "aperture"
    psf_sum = "psf_sum"
    total = "total"


class OnBad(StrEnum):
    """Treatment of rows that cannot be drawn."""

    refuse = "raise"
    flag = "flag"


class Position(StrEnum):
    """Position at which the PSF is normalised."""

    source = "source"
    image = "image"


class CoaddNoise(StrEnum):
    """Correlation of the photon noise added to a coadd."""

    correlated = "correlated"
    white = "white"


class Stars(StrEnum):
    """Ways to draw stars."""

    precise = "precise"
    fast = "fast"
    grid = "grid"
    stamps = "stamps"
    galsim = "galsim"


class Galaxies(StrEnum):
    """Ways to draw galaxies."""

    fast = "fast"
    precise = "precise"
    galsim = "galsim"


class ConventionsName(StrEnum):
    """Conventions for drawing sources."""

    skygraft = "skygraft"
    lsst_source_injection = "lsst_source_injection"


_LISTED = 100
_NOT_NEEDED = ("asdf_astropy", "numcodecs")
"""What astropy imports where it is installed, for tables in ASDF files and codecs of zarr."""
_TRUTH_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".csv": "ascii.csv"}

Image = Annotated[Path, typer.Argument(help="The image file.", show_default=False)]


@dataclass(frozen=True)
class _Inspector:
    """Describes an image; it runs in a child process, which a damaged image may crash."""

    format: str
    aperture: str | None
    psf: str | None
    zeropoint: float | None
    hdu: str | None
    options: dict[str, Any]

    def __call__(self, path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        # All of it in the child: a parent that has loaded libraries is slow to fork, and to end.
        gc.disable()
        with left_out(*_NOT_NEEDED):
            from skygraft.cli.describe import describe_exposure, describe_rows

        given = (self.format, self.aperture, self.psf, self.zeropoint, self.hdu)
        content = describe_exposure(read_image(path, *given, self.options, lazily=True))
        return content, describe_rows(content)

    def lost(self, path: Path, reason: str) -> Any:
        from skygraft.formats.registry import killed_its_reader

        raise killed_its_reader(path, reason)

    def prepare(self) -> None:
        """Do nothing: there is only one image."""


@command
def inspect(
    image: Image,
    aperture: Aperture = None,
    format: FormatName = "auto",
    psf: Psf = None,
    zeropoint: Zeropoint = None,
    hdu: Hdu = None,
    ccds: Ccds = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Show what is known about an image, above all its calibration aperture and where it is recorded.

    Example:  skygraft inspect skygraft-demo/survey/calexp-1002-0.fits
    """
    from skygraft.place_names import shown_place
    from skygraft.places import given_path
    from skygraft.processes import careful_map

    look = _Inspector(format, aperture, psf, zeropoint, hdu, format_options(option, ccds, allow_pickle))
    [(content, rows)] = careful_map(look, [image])
    if json:
        emit_json(content)
    else:
        show_rows(rows, shown_place(given_path(image)))


@command
def inject(
    image: Image,
    catalog: Annotated[
        Path, typer.Argument(help="Sources: FITS, ECSV, CSV, VOTable, Parquet or HATS.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write.", show_default=False)],
    aperture: Aperture = None,
    format: FormatName = "auto",
    psf: Psf = None,
    zeropoint: Zeropoint = None,
    hdu: Hdu = None,
    ccds: Ccds = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    band: Annotated[
        str | None, typer.Option(help="Band of the magnitudes; by default the image's.", show_default=False)
    ] = None,
    dialect: Annotated[str, typer.Option(help="Dialect of the catalogue.")] = "auto",
    columns: ColumnMap = None,
    on_bad: Annotated[
        OnBad, typer.Option(help="Refuse a catalogue with rows that cannot be drawn, or flag these rows.")
    ] = OnBad.refuse,
    flux_mode: Annotated[
        FluxMode,
        typer.Option(help="Normalisation of a source's flux; 'aperture' uses the radius given with --aperture."),
    ] = FluxMode.calibrated,
    position: Annotated[
        Position, typer.Option(help="Position at which the PSF is normalised: each source's, or the image's average.")
    ] = Position.source,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the photon noise.")] = 0,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Add the sources' photon noise.")] = True,
    gain: Annotated[
        float | None, typer.Option(help="Electrons per image unit.", callback=finite, show_default=False)
    ] = None,
    variance: Annotated[
        bool | None,
        typer.Option(
            "--variance/--no-variance",
            help="Add the sources' variance to the variance plane. By default as --noise; it may differ from that only "
            "with LSST's conventions.",
            show_default=False,
        ),
    ] = None,
    conventions: Annotated[
        ConventionsName,
        typer.Option(help="Conventions for drawing; with LSST's, the pixels of that package are reproduced."),
    ] = ConventionsName.skygraft,
    mark_injected: Annotated[
        bool,
        typer.Option(
            "--mark-injected/--no-mark-injected",
            help="Flag the sources in the mask planes INJECTED and INJECTED_CORE; switch this off for software that "
            "drops all pixels whose mask is not 0.",
        ),
    ] = True,
    coadd_noise: Annotated[
        CoaddNoise, typer.Option(help="Add noise to a coadd that is correlated like its own, or white noise.")
    ] = CoaddNoise.correlated,
    stars: Annotated[
        Stars,
        typer.Option(
            help="Draw stars to single precision (on a grid where they are crowded), faster, all on a grid, none on a "
            "grid, or by GalSim."
        ),
    ] = Stars.precise,
    galaxies: Annotated[
        Galaxies, typer.Option(help="Draw galaxies fast, more precisely, or by GalSim.")
    ] = Galaxies.fast,
    flux_tolerance: Annotated[
        float, typer.Option(help="Fraction of a source's flux that may fall outside its stamp.", callback=finite)
    ] = 1e-3,
    mask_threshold: Annotated[
        float,
        typer.Option(
            help="Mark pixels as INJECTED that change by more than this fraction of their noise.", callback=finite
        ),
    ] = 0.1,
    wings: Annotated[
        str | None,
        typer.Option(
            help="Extended wings of the PSF: a YAML file with the section wings, as 'skygraft psf wings' writes it, or "
            "its content, such as '{model: power_law, alpha: 3, join: 12 pix, outer: 300 arcsec}'.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Write one row per source: .parquet, .ecsv, .fits or .csv.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Json = False,
) -> None:
    """Inject the sources of a catalogue into one image.

    All pixels and HDUs that injection does not change are copied unchanged.

    Example:  skygraft inject calexp-1002-0.fits fakes.parquet -o injected.fits --truth truth.ecsv
    """
    from skygraft.catalog import read_catalog
    from skygraft.catalog.column_maps import parse_map
    from skygraft.disk import atomic_path
    from skygraft.errors import InjectionError
    from skygraft.formats import write_exposure
    from skygraft.formats.given import psf_files
    from skygraft.injection import inject as inject_sources
    from skygraft.injection.coadd_noise import noise_words
    from skygraft.injection.winged import describe_wings

    if truth is not None and truth.suffix not in (".parquet", ".ecsv", ".fits", ".csv"):
        raise fail(f"{truth}: a truth table is .parquet, .ecsv, .fits or .csv", code=2)
    inputs = [image, catalog, *psf_files(psf_of(psf)), *(ccds or ())]
    _check_outputs([path for path in (output, truth) if path is not None], inputs, overwrite)
    by_aperture = flux_mode is FluxMode.aperture
    options = format_options(option, ccds, allow_pickle)
    exposure = read_image(image, format, None if by_aperture else aperture, psf, zeropoint, hdu, options)
    sources = read_catalog(
        catalog,
        dialect=dialect,
        band=band or exposure.data_id.band,
        on_bad=on_bad.value,
        columns=parse_map(columns or ()),
    )
    with progress_bar("injecting", len(sources)) as advance:
        injection = inject_sources(
            exposure,
            sources,
            band=band,
            on_bad=on_bad.value,
            progress=advance,
            flux_mode=flux_mode.value,
            aperture=aperture if by_aperture else None,
            position=position.value,
            seed=seed,
            noise=noise,
            gain=gain,
            coadd_noise=coadd_noise.value,
            mark_injected=mark_injected,
            conventions=conventions.value,
            variance=variance,
            stars=stars.value,
            galaxies=galaxies.value,
            flux_tolerance=flux_tolerance,
            mask_threshold=mask_threshold,
            wings=wings_of(wings),
        )
    if injection.summary["n_drawn"] == 0:
        flags = ", ".join(f"{n} x {name}" for name, n in injection.summary["flags"].items())
        raise InjectionError(
            f"none of the {len(sources)} sources can be drawn on {image} ({flags}); nothing was written",
            path=catalog,
            fix="Check that both are of the same field, and the magnitudes",
        )
    with contextlib.ExitStack() as stack:
        # The truth table is written before the image, but appears only if the image could be written.
        if truth is not None:
            _write_truth(injection.truth, truth, stack.enter_context(atomic_path(truth)))
        written = [str(path) for path in write_exposure(injection.exposure, output, overwrite=overwrite)]
    if truth is not None:
        written.append(str(truth))
    if json:
        emit_json({**injection.summary, "outputs": written})
        return
    summary, calib = injection.summary, injection.exposure.photo_calib
    rows = [
        ("sources", f"{summary['n_drawn']} drawn of {summary['n_sources']}"),
        ("conventions", " of ".join(v for k, v in summary["conventions"].items() if k in {"name", "date"})),
        ("flux mode", summary["flux_mode"]),
        ("calibrated to", "unknown" if calib is None else calib.reference_text),
    ]
    if "wings" in summary:
        rows.append(("wings", describe_wings(summary["wings"])))
    if summary["gain"] is not None:
        rows.append(("gain", f"{summary['gain']:.4g} electrons per image unit ({summary['gain_origin']})"))
    if summary["noise_correlation"] is not None:
        rows.append(("noise", noise_words(summary["noise_correlation"])))
    rows += [("flags", f"{n} x {name}") for name, n in summary["flags"].items()]
    rows += [("note", text) for text in summary["messages"]]
    rows += [("written", path) for path in written]
    show_rows(rows, summary["image_id"])


def _check_outputs(outputs: list[Path], inputs: list[Path], overwrite: bool) -> None:
    """Raise, before any work is done, if an output would replace something or cannot be written."""
    from skygraft.errors import OutputError, OutputExistsError
    from skygraft.formats.base import refuse_overwrite
    from skygraft.places import given_path, is_place

    for path in outputs:
        if is_place(path):
            raise OutputError(
                "this command writes files of this machine",
                path=given_path(path),
                fix="Name one; a campaign writes to stores (output: in its YAML file)",
            )
        refuse_overwrite(path, inputs, overwrite=overwrite)
        if not path.parent.is_dir():
            raise OutputError(f"there is no directory {str(path.parent)!r}", path=path, fix="Make it first")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OutputExistsError("image and truth have the same name", path=outputs[0], fix="Give --truth another one")


def _write_truth(table: Any, path: Path, temporary: Path) -> None:
    """Write the truth table under a temporary name, in the format of the suffix of `path`."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        from skygraft.catalog.io import to_arrow

        pq.write_table(to_arrow(table), temporary)
        return
    table = table.copy(copy_data=False)
    if path.suffix == ".fits":
        table.meta["BUNIT"] = table.meta.pop("image_units", "")  # FITS keywords have at most 8 characters
    table.write(temporary, format=_TRUTH_FORMATS[path.suffix])


@command
def index(
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, or glob patterns in quotes.", show_default=False)
    ] = None,
    ccds: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table of CCDs (survey-ccds) of the Legacy Surveys. Alone, all images that it lists are indexed; with "
            "images, it calibrates them. May be repeated.",
            show_default=False,
        ),
    ] = None,
    butler: ButlerRepo = None,
    collections: ButlerCollections = None,
    dataset_type: ButlerType = None,
    where: ButlerWhere = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    format: FormatName = "auto",
    root: Annotated[Path, typer.Option(help="Folder in which patterns are searched.")] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the index as Parquet, for survey: {index: FILE}.", show_default=False
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes that read images.")] = 1,
    json: Json = False,
) -> None:
    """List the images of a survey and their positions on the sky, without reading pixels.

    The exit code is 1 if an image cannot be used. With --output, images are listed only if there are at most a hundred.

    Example:  skygraft index 'skygraft-demo/survey/calexp-*.fits'
    Example:  skygraft index --butler /repo/main --collections LSSTCam/runs/DRP --dataset-type visit_image
    """
    from skygraft.disk import atomic_path
    from skygraft.errors import ConfigError
    from skygraft.processes import process_mapper
    from skygraft.survey import index_survey, write_index

    asked = butler_settings(repo=butler, collections=collections, dataset_type=dataset_type, where=where)
    if not images and not ccds and not asked:
        raise fail("give images (files or patterns), or --ccds, or both, or --butler", code=2)
    if asked and (images or ccds):
        raise fail("--butler lists images itself; give no images and no --ccds", code=2)
    tables = [path.absolute() for path in ccds or ()] if images else None
    options = format_options(option, tables, allow_pickle, of_reading=False)
    listed: dict[str, Any] = {"images": images} if images else {"ccds": [str(path) for path in ccds or ()]}
    listed = {"butler": asked} if asked else listed
    spec: dict[str, Any] = {"format": format, "options": options, **listed}
    with progress_bar("indexing", None) as advance, process_mapper(processes) as mapper:
        found = index_survey(
            spec,
            root,
            progress=lambda _done, _all: advance(1),
            mapper=lambda function, jobs: mapper(function, jobs, chunksize=16),
        )
    if not len(found) and not found.failures:
        raise ConfigError(
            f"no images found for {', '.join(asked.values() if asked else next(iter(listed.values())))}",
            path=root,
            fix="Check --collections and --where" if asked else "Check the pattern and --root",
        )
    if output is not None:
        paths = [*found.table.column("path").to_pylist(), *(bad["path"] for bad in found.failures)]
        _check_outputs([output], [root / path for path in paths], overwrite=True)
        with atomic_path(output) as temporary:
            write_index(found, temporary)
    if json:
        emit_json({"images": found.table.to_pylist(), "failures": list(found.failures)})
    else:
        _show_index(found, output)
    if found.failures:
        raise typer.Exit(1)


def _show_index(found: SurveyIndex, output: Path | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = out_console()
    if output is None or len(found) <= _LISTED:
        shown = Table(box=None, header_style="cyan")
        columns = ("image_id", "band", "ra", "dec", "size", "arcsec/pix", "format", "path")
        for name in columns:
            right = name in ("ra", "dec", "size", "arcsec/pix")
            shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
        for row in found.table.to_pylist():
            shown.add_row(
                escape(row["image_id"]),
                escape(row["band"] or "--"),
                f"{row['ra']:.5f}",
                f"{row['dec']:+.5f}",
                f"{row['nx']} x {row['ny']}",
                f"{row['pixel_scale']:.4f}",
                escape(row["format"]),
                escape(row["path"]),
            )
        print_table(console, shown)
    summary = f"{len(found)} images" + (f", [red]{len(found.failures)} cannot be used[/]" if found.failures else "")
    console.print(summary + (f", written to {escape(str(output))}" if output is not None else ""))
    for failure in found.failures:
        console.print(f"  [red]{escape(failure['path'])}[/]: {escape(failure['reason'])}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (inspect, inject, index):
        app.command(rich_help_panel="Images")(function)
