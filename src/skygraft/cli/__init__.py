"""The command line. Commands import their modules only when they run, so that ``skygraft --help`` is fast."""

from __future__ import annotations

from typing import Annotated

import typer

from skygraft.cli import campaigns, catalog, demo, images, psf
from skygraft.cli.common import state

__all__ = ["app", "main"]

app = typer.Typer(
    name="skygraft",
    help="Graft fake stars and galaxies into survey images, with fluxes that mean what the calibration says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [cyan]skygraft demo[/]: it simulates a small survey and injects into it, in a minute.",
)


def _version(value: bool) -> None:
    if value:
        import skygraft

        typer.echo(f"skygraft {skygraft.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version
    state.debug = debug


for _module in (demo, images, campaigns):
    _module.register(app)
app.add_typer(catalog.app, name="catalog", rich_help_panel="Catalogues")
app.add_typer(psf.app, name="psf", rich_help_panel="Images")


def main() -> None:
    """Run the command line."""
    app()
