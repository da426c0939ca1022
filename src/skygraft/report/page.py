"""The HTML page of a report, from its sections."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skygraft.printable import printable
from skygraft.report.blocks import Section
from skygraft.report.style import css_colours
from skygraft.wording import count

__all__ = ["render_page"]


def _shown(value: Any) -> Any:
    """Escape control characters, and what turns the direction of text around: names come from files."""
    return printable(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _environment() -> Environment:
    # Everything is escaped but what this package made: names, hosts and messages of errors come from outside.
    environment = Environment(
        loader=PackageLoader("skygraft.report"),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["count"] = count
    return environment


def _resource(name: str) -> str:
    return files("skygraft.report").joinpath("templates", name).read_text(encoding="utf-8")


def render_page(title: str, lead: str, sections: Sequence[Section], *, folder: str, version: str, footer: str) -> str:
    """Return the page as HTML that needs no other file.

    Parameters
    ----------
    title, lead : str
        Name of the campaign, and a sentence below it.
    sections : sequence of Section
        Its parts; those without blocks are left out.
    folder : str
        Where the figures' files are, relative to the page.
    version : str
        Of skygraft.
    footer : str

    Returns
    -------
    str
    """
    css = (
        _resource("page.css").replace("{{light}}", css_colours(dark=False)).replace("{{dark}}", css_colours(dark=True))
    )
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            lead=lead,
            sections=[section for section in sections if section.blocks],
            folder=folder,
            version=version,
            footer=footer,
            css=Markup(css),
            script=Markup(script),
            # The page runs this script and no other, and asks nobody for anything.
            script_hash=f"sha256-{digest}",
        )
    )
