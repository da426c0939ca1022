"""The sub-app ``skygraft catalog``: make, check, convert and show catalogues."""

from __future__ import annotations

import typer

from skygraft.cli import catalog_files, catalog_place
from skygraft.cli.catalog_generate import generate, show

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make, check, convert and show catalogues of sources.")

for _command in (generate, show):
    app.command()(_command)
catalog_files.register(app)
app.command("hosts")(catalog_place.hosts)
app.command("groups")(catalog_place.groups)
