"""What the commands share: one message for an error, JSON for machines, a bar for whoever waits."""

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
    "ButlerCollections",
    "ButlerRepo",
    "ButlerRun",
    "ButlerType",
    "ButlerWhere",
    "Config",
    "Json",
    "butler_settings",
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


@dataclass
class _State:
    debug: bool = False


_NO_LIMIT = 100_000
"""Width of what is not a terminal, in characters: a path that is cut is of no use to the next program."""

state = _State()
"""What was asked for before the command's name."""


def out_console() -> Any:
    """Where results go."""
    from skygraft.printable import console

    piped = not sys.stdout.isatty()
    return console(file=sys.stdout, highlight=False, soft_wrap=piped, width=_NO_LIMIT if piped else None)


def print_table(console: Any, table: Any) -> None:
    """Print a table: no wider than a terminal, but whole, a row a line, where the output is piped."""
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(table, soft_wrap=False)
    for line in captured.get().splitlines():
        echo(line.rstrip())


def err_console() -> Any:
    """Where errors and progress go, so that results can be piped."""
    from skygraft.printable import console

    return console(file=sys.stderr, highlight=False, stderr=True)


def echo(text: str, *, err: bool = False) -> None:
    """Print text; what came from files and a terminal would obey is written out."""
    typer.echo(printable(text, lines=True), err=err)


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print one message; the exit to raise."""
    typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
    echo(message, err=True)
    return typer.Exit(code)


# How the library's arguments are called here: its errors name the former.
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
    "format=": "--format",
    "allow_pickle=": "--allow-pickle",
}
# Options of formats that have none of their own.
_FORMAT_OPTIONS = re.compile(
    r"\b(pixel_area|zeropoint_key|zeropoint|unit|exposure_time|mjd|ccdname|root|dq|weight|rms|variance|mask)="
)


def _parameter(option: str) -> str:
    return option.removeprefix("--").removeprefix("no-").replace("-", "_")


def finite(value: float | None) -> float | None:
    """Refuse an option's ``nan`` and ``inf``, which no range of numbers keeps out.

    Parameters
    ----------
    value : float or None
        What was given.

    Raises
    ------
    typer.BadParameter
        If it is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not finite; a number is needed")
    return value


def in_options(message: str, parameters: Collection[str]) -> str:
    """The message, with the option to use where it names an argument of the library that the command has one for."""
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
    """Turn the errors that people can do something about into one message and exit code 1."""

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
            raise fail("interrupted; nothing that was finished is lost: run it again to go on", code=code) from None

    return wrapped


def emit_json(content: Any) -> None:
    """Print JSON; not-a-number becomes null."""
    from skygraft.records.files import plain

    typer.echo(json_text(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)))


def show_rows(rows: list[tuple[str, str]], title: str = "") -> None:
    """Print labels and texts in two columns."""
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
    """A bar on standard error where that is a terminal; yields what moves it on."""
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
    """A bar as `progress_bar`; yields what is told how much is done, and of how much."""
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
        help="Folder or name of the repository that has the images, instead of what the campaign says.",
        show_default=False,
        rich_help_panel=_BUTLER,
    ),
]
ButlerCollections = Annotated[
    str | None,
    typer.Option(
        "--collections", help="Its collections to search, with commas.", show_default=False, rich_help_panel=_BUTLER
    ),
]
ButlerType = Annotated[
    str | None,
    typer.Option("--dataset-type", help="Dataset type of the images.", show_default=False, rich_help_panel=_BUTLER),
]
ButlerWhere = Annotated[
    str | None,
    typer.Option(
        "--where", help="Butler's expression that selects data ids.", show_default=False, rich_help_panel=_BUTLER
    ),
]
ButlerRun = Annotated[
    str | None,
    typer.Option(
        "--output-run",
        help="Run collection that the outputs are registered in.",
        show_default=False,
        rich_help_panel=_BUTLER,
    ),
]


def butler_settings(**given: str | None) -> dict[str, str]:
    """Keys of ``survey: butler:`` that the command line gives; a repository's path is relative to where one is."""
    settings = {key: value for key, value in given.items() if value is not None}
    if "repo" in settings and Path(settings["repo"]).expanduser().exists():
        settings["repo"] = str(Path(settings["repo"]).expanduser().absolute())
    return settings


def open_campaign(path: Path, butler: Mapping[str, str] | None = None) -> Campaign:
    """The campaign of a YAML file, with what the command line says of a Butler repository."""
    from skygraft.campaign import Campaign

    return Campaign.from_yaml(path, butler=butler)
