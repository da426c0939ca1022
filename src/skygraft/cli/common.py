"""Code shared by the commands: error messages, JSON output, progress bars, and common options."""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.errors import SkygraftError
from skygraft.printable import json_text, printable

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = [
    "PICTURES",
    "ButlerCollections",
    "ButlerRepo",
    "ButlerRun",
    "ButlerType",
    "ButlerWhere",
    "ColumnMap",
    "Config",
    "Json",
    "Plot",
    "butler_settings",
    "check_plot",
    "command",
    "echo",
    "emit_json",
    "err_console",
    "fail",
    "finite",
    "growing_bar",
    "in_options",
    "open_campaign",
    "out_console",
    "print_table",
    "progress_bar",
    "show_rows",
    "state",
]

Config = Annotated[Path, typer.Argument(help="The campaign's YAML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ColumnMap = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN",
        help="The table's own name of a column, such as ra=RAJ2000; source_type==Star gives all rows one value. "
        "May be repeated.",
        show_default=False,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Write a plot of what was measured: .png, .pdf, .svg or .jpg.", show_default=False),
]
PICTURES = (".png", ".pdf", ".svg", ".jpg")
"""Endings of the files that figures are written to."""


@dataclass
class _State:
    debug: bool = False


_NO_LIMIT = 100_000
"""Width of output that is not a terminal, in characters, so that the next program gets complete paths."""

state = _State()
"""Global options, given before the command's name."""


def out_console() -> Any:
    """Return the console for results (standard output)."""
    from skygraft.printable import console

    piped = not sys.stdout.isatty()
    return console(file=sys.stdout, highlight=False, soft_wrap=piped, width=_NO_LIMIT if piped else None)


def print_table(console: Any, table: Any) -> None:
    """Print a table, fitted to the width of a terminal; if the output is piped, complete and one line per row."""
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(table, soft_wrap=False)
    for line in captured.get().splitlines():
        echo(line.rstrip())


def err_console() -> Any:
    """Return the console for errors and progress (standard error)."""
    from skygraft.printable import console

    return console(file=sys.stderr, highlight=False, stderr=True)


def echo(text: str, *, err: bool = False) -> None:
    """Print text with control characters escaped, since it may come from files."""
    typer.echo(printable(text, lines=True), err=err)


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print an error message, and return the exit to raise."""
    typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
    echo(message, err=True)
    return typer.Exit(code)


# Command-line options for the library's arguments, which its error messages name.
_OPTIONS = {
    "psf=": "--psf",
    "photo_calib=": "--zeropoint",
    "aperture=": "--aperture",
    "gain=": "--gain",
    "noise=": "--no-noise",
    "on_bad=": "--on-bad",
    "overwrite=": "--overwrite",
    "ccds=": "--ccds",
    "hdu=": "--hdu",
    "wcs=": "--image",
    "circular=": "--circular",
    "columns=": "--columns",
    "dialect=": "--dialect",
    "format=": "--format",
    "allow_pickle=": "--allow-pickle",
}
# Options of formats that have no command-line option of their own.
_FORMAT_OPTIONS = re.compile(
    r"\b(pixel_area|zeropoint_key|zeropoint|unit|exposure_time|mjd|ccdname|root|dq|weight|rms|variance|mask)="
)


def _parameter(option: str) -> str:
    return option.removeprefix("--").removeprefix("no-").replace("-", "_")


def finite(value: float | None) -> float | None:
    """Return an option's value after checking that it is finite: ranges do not exclude ``nan`` and ``inf``.

    Parameters
    ----------
    value : float or None
        The given value.

    Raises
    ------
    typer.BadParameter
        If it is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not finite; a number is needed")
    return value


def check_plot(path: Path) -> None:
    """Raise, before anything is measured, if a plot cannot be written.

    Parameters
    ----------
    path : Path
        The file to write.

    Raises
    ------
    OutputError
        If its ending is not that of a picture, or its folder is not there.
    """
    from skygraft.errors import OutputError

    if path.suffix.lower() not in PICTURES:
        raise OutputError(f"a plot is one of {', '.join(PICTURES)}", path=path, fix="Change its ending")
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {str(path.parent)!r}"
        raise OutputError(f"the plot cannot be written: {what}", path=path, fix="Name a file in a folder that is there")


def in_options(message: str, parameters: Collection[str]) -> str:
    """Add to an error message the command-line options for the library arguments that it names.

    Parameters
    ----------
    message : str
        Message of the error.
    parameters : collection of str
        Parameters of the command.
    """
    found = [
        option
        for argument, option in _OPTIONS.items()
        if re.search(rf"(?<![\w]){argument}", message) and option not in message and _parameter(option) in parameters
    ]
    if "option" in parameters:
        names = dict.fromkeys(_FORMAT_OPTIONS.findall(message))
        found += [
            "--zeropoint" if name == "zeropoint" else f"--option {name}=..."
            for name in names
            if name != "zeropoint" or "--zeropoint" not in found
        ]
    return f"{message} Here: {', '.join(found)}." if found else message


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that errors that users can fix become one message and exit code 1."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (SkygraftError, OSError) as error:
            if state.debug:
                raise
            raise fail(in_options(str(error), inspect.signature(function).parameters)) from None
        except ValueError as error:
            # pydantic's ValidationError is a ValueError; any other one is a bug and keeps its traceback.
            if state.debug or type(error).__module__.split(".")[0] not in ("pydantic", "pydantic_core"):
                raise
            raise fail(str(error)) from None
        except KeyboardInterrupt as error:
            from skygraft.records.interruption import Terminated

            code = 128 + error.number if isinstance(error, Terminated) else 130
            raise fail("interrupted; finished work is kept: run it again to continue", code=code) from None

    return wrapped


def emit_json(content: Any) -> None:
    """Print JSON; NaN becomes null."""
    from skygraft.records.files import plain

    typer.echo(json_text(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)))


def show_rows(rows: list[tuple[str, str]], title: str = "") -> None:
    """Print rows of label and text in two columns."""
    from rich.markup import escape
    from rich.table import Table

    console = out_console()
    if title:
        console.print(f"[bold]{escape(printable(title))}[/]")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(f"  {escape(printable(label))}", escape(printable(text, lines=True)))
    print_table(console, table)


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if it is a terminal; yields a function that advances it by n."""
    done = 0
    with growing_bar(label) as moved:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            moved(done, total)

        moved(0, total)
        yield advance


@contextmanager
def growing_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar as `progress_bar` does; yields a function of the numbers done and in total."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = err_console()
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


_BUTLER = "A Butler repository"
ButlerRepo = Annotated[
    str | None,
    typer.Option(
        "--butler",
        help="Folder or name of the repository with the images, instead of the campaign's.",
        show_default=False,
        rich_help_panel=_BUTLER,
    ),
]
ButlerCollections = Annotated[
    str | None,
    typer.Option(
        "--collections",
        help="Collections to search, separated by commas.",
        show_default=False,
        rich_help_panel=_BUTLER,
    ),
]
ButlerType = Annotated[
    str | None,
    typer.Option("--dataset-type", help="Dataset type of the images.", show_default=False, rich_help_panel=_BUTLER),
]
ButlerWhere = Annotated[
    str | None,
    typer.Option("--where", help="Butler query expression for data ids.", show_default=False, rich_help_panel=_BUTLER),
]
ButlerRun = Annotated[
    str | None,
    typer.Option(
        "--output-run",
        help="RUN collection to register the outputs in.",
        show_default=False,
        rich_help_panel=_BUTLER,
    ),
]


def butler_settings(**given: str | None) -> dict[str, str]:
    """Return the keys of ``survey: butler:`` given on the command line; a path is relative to the current folder."""
    settings = {key: value for key, value in given.items() if value is not None}
    if "repo" in settings and Path(settings["repo"]).expanduser().exists():
        settings["repo"] = str(Path(settings["repo"]).expanduser().absolute())
    return settings


def open_campaign(path: Path, butler: Mapping[str, str] | None = None) -> Campaign:
    """Open the campaign of a YAML file, with Butler settings from the command line."""
    from skygraft.campaign import Campaign

    return Campaign.from_yaml(path, butler=butler)
