"""The sub-app ``skygraft catalog``: make, check, convert and show catalogues."""

from __future__ import annotations

import typer

from skygraft.cli import catalog_place

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make, check, convert and show catalogues of sources.")

app.command("hosts")(catalog_place.hosts)
app.command("groups")(catalog_place.groups)
