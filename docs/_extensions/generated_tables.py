"""Sphinx directives that write tables of the documentation from the code: one place for each fact.

``{catalogue-columns}``, ``{catalogue-dialects}``, ``{image-formats}``, ``{campaign-keys}``, ``{population-keys}`` and
``{commands}`` stand for the tables that the functions below return in Markdown.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args, get_origin

import typer
from docutils import nodes
from numpydoc.docscrape import FunctionDoc
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from skygraft.catalog.dialects import DIALECTS
from skygraft.catalog.schema import COLUMNS, ColumnSpec
from skygraft.cli import app
from skygraft.config.campaign import CampaignConfig, InjectionConfig
from skygraft.config.cluster_kinds import ClusterConfig
from skygraft.formats import format_names, get_format
from skygraft.generation.distributions import Distribution
from skygraft.generation.spec import PopulationSpec
from skygraft.injection import inject
from skygraft.recovery.table import REASONS, RECOVERY_COLUMNS

_GROUPS: dict[str, Sequence[str]] = {
    "Which source, and where": (
        *("injection_id", "ra", "dec", "source_type", "mag_<band>"),
        *("object_id", "group_id", "host_id"),
    ),
    "Motion": (
        *("pm_ra_cosdec", "pm_dec", "parallax", "rate_ra_cosdec", "rate_dec", "epoch_mjd"),
        *("bend_from_", "bend_to_"),
    ),
    "Time": (
        *(
            "visit",
            "mjd_from",
            "mjd_to",
            "light_curve",
            "variability",
            "light_curve_key",
            "light_curve_mjd",
            "time_delay",
        ),
        *("period", "phase", "amplitude", "duration", "rise_time", "decay_time"),
    ),
    "Profiles": (
        *("half_light_radius", "q", "pa", "n", "trunc", "moffat_beta", "spergel_nu", "inclination"),
        *("scale_h_over_r", "n_knots", "real_galaxy_catalog", "real_galaxy"),
    ),
    "Lensing": ("shear", "shear_pa", "magnification"),
    "`BulgeDisk`": ("bulge_fraction", "bulge_", "disk_"),
    "`Trail`": ("trail_", "mag_per_pixel"),
    "`Stamp`": ("stamp",),
    "How it is drawn": ("draw_size", "inject_into", "flags"),
}
"""Headings of the columns; a name stands for all that begin with it where it ends in ``_``, or is ``stamp``."""

_ANGLES = {"deg": "degrees", "rad": "radians"}

_MAGNITUDE = ColumnSpec(
    "mag_<band>", "float", "mag", "AB magnitude in each band; one column a band.", math.nan
)  # of a pattern of columns, which the schema has no entry for


def catalogue_columns() -> str:
    """Every column of a catalogue: unit, meaning, what is allowed, and what a missing value means."""
    left = {"mag_<band>": _MAGNITUDE, **COLUMNS}
    parts = []
    for heading, names in _GROUPS.items():
        specs = [left.pop(name) for wanted in names for name in list(left) if _stands_for(wanted, name)]
        rows = [(f"`{s.name}`", s.unit or "", _prose(s.doc), _allowed(s), _if_missing(s)) for s in specs]
        parts += [f"## {heading}", _table(("column", "unit", "meaning", "allowed", "if missing"), rows)]
    if left:
        raise ValueError(f"columns under no heading: {', '.join(left)}")
    return "\n\n".join(parts)


def _stands_for(wanted: str, name: str) -> bool:
    return name == wanted or (name.startswith(wanted) and (wanted.endswith("_") or wanted == "stamp"))


def _allowed(spec: ColumnSpec) -> str:
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices if choice)
    if spec.kind != "float" and not math.isfinite(spec.low):
        return {"int": "whole number", "str": "text", "bool": "true, false"}.get(spec.kind, "")
    low, high = max(spec.low, spec.least) if spec.low >= 0 else spec.low, min(spec.high, spec.sane)
    if not math.isfinite(spec.low) and math.isfinite(spec.sane):
        return f"within ±{spec.sane:g}"
    if math.isfinite(high):
        return f"{'above ' if spec.open_low and not spec.least else ''}{low:g} to {high:g}"
    return f"{'above' if spec.open_low and not spec.least else 'at least'} {low:g}" if math.isfinite(low) else "finite"


def _if_missing(spec: ColumnSpec) -> str:
    """What happens where the column is absent, or a row has no value."""
    if spec is _MAGNITUDE:
        return "not in this band: not drawn"
    if spec.name == "injection_id":
        return "the row's number"
    if spec.required or spec.name == "source_type":
        return "an error" if not spec.types else f"an error for {_types(spec)}"
    if isinstance(spec.default, float) and math.isnan(spec.default):
        return "none"
    if isinstance(spec.default, str):
        return "`science`" if spec.name == "inject_into" else "none"
    return str(spec.default).lower() if isinstance(spec.default, bool) else f"{spec.default:g}"


def _types(spec: ColumnSpec) -> str:
    return ", ".join(f"`{name}`" for name in spec.types)


def catalogue_dialects() -> str:
    """Every dialect of catalogues: how it is recognised, and what it is."""
    rows = [
        (f"`{name}`", _prose(d.looks_for), _prose(_first_sentence(type(d))), _ANGLES[d.positions])
        for name, d in DIALECTS.items()
    ]
    return _table(("`dialect`", "recognised by", "what it is", "positions in"), rows)


def image_formats() -> str:
    """Every image format: how it is recognised, and its reading options."""
    rows = []
    for name in format_names():
        form = get_format(name)
        options = ", ".join(f"`{field.name}`" for field in dataclasses.fields(form.Options)) or "none"
        rows.append((f"`{name}`", _prose(form.looked_for), options))
    return _table(("`format`", "recognised by", "reading options"), rows)


def campaign_keys() -> str:
    """Every key of a campaign's YAML file, section by section."""
    return "\n\n".join(_section(CampaignConfig, ""))


def population_keys() -> str:
    """Every key of a population's YAML file, section by section."""
    return "\n\n".join(_section(PopulationSpec, "", "population"))


def _section(model: type[BaseModel], prefix: str, kind: str = "key") -> Iterable[str]:
    docs = _injection_docs() if model is InjectionConfig else _attribute_docs(model)
    rows, inner = [], []
    for name, field in model.model_fields.items():
        part = _model_of(field.annotation)
        said = _prose(docs.get(name, ""))
        if part is not None and issubclass(part, ClusterConfig):
            rows.append((f"`{name}`", "", f"{said} See [profiles](deploy/profiles.md)."))
        elif part is not None and not issubclass(part, Distribution):
            inner.append((name, part))
            rows.append((f"`{name}`", "", f"{said} See [{prefix}{name}](#{_anchor(prefix + name, kind)}).".strip()))
        else:
            rows.append((f"`{name}`", _default(field), said or _choices(field.annotation)))
    level = "##" if kind == "key" else "###"
    heading = f"{level} `{prefix.rstrip('.')}`" if prefix else f"{level} The file"
    intro = _prose(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0])
    yield f"({_anchor(prefix.rstrip('.'), kind) or ('the-file' if kind == 'key' else f'{kind}-file')})=\n{heading}"
    yield intro
    yield _table(("key", "default", "meaning"), rows)
    for name, part in inner:
        yield from _section(part, f"{prefix}{name}.", kind)


def recovery_columns() -> str:
    """Every column of the recovery table, of those that all settings have."""
    rows = [(f"`{c.name}`", c.unit, c.meaning) for c in RECOVERY_COLUMNS]
    return _table(("column", "unit", "meaning"), rows)


def recovery_reasons() -> str:
    """Every reason why a fake was not found."""
    return _table(("`reason`", "meaning"), [(f"`{name}`" if name else "empty", text) for name, text in REASONS.items()])


def _all_commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and commands, also of groups of commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _all_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def commands() -> str:
    """Every command of `skygraft` with its arguments and options."""
    root = typer.main.get_command(app)
    parts = []
    for name, command in _all_commands(root):
        text, *examples = re.split(r"^Examples?: *", inspect.cleandoc(command.help or ""), flags=re.M)
        parts += [f"## skygraft {name}", *(_prose(paragraph) for paragraph in text.split("\n\n"))]
        parts += [f"```text\n{inspect.cleandoc(example).strip()}\n```" for example in examples]
        rows = []
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                shown = f"`{(parameter.metavar or parameter.name or '').upper()}`"
            else:
                shown = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            rows.append((shown, _prose(getattr(parameter, "help", None) or "")))
        parts.append(_table(("argument or option", "meaning"), rows))
    return "\n\n".join(parts)


def _anchor(name: str, kind: str = "key") -> str:
    return f"{kind}-{name.replace('.', '-')}" if name else ""


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also inside ``Annotated`` and ``| None``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_of(argument) for argument in get_args(annotation) if get_origin(annotation) is not Literal)
    return next((model for model in found if model is not None), None)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.default_factory() if field.default_factory else field.default
    if default is None or default is PydanticUndefined or default in ("", {}, ()):
        return ""
    if str(default) == ".":
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _choices(annotation: Any) -> str:
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return " or ".join(f"`{value}`" for value in values)


def _attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    docs: dict[str, str] = {}
    for owner in reversed(model.__mro__):  # fields may be those of a model that this one extends
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
            docs |= {name: " ".join(lines) for (of, name), lines in found.items() if of == owner.__name__}
    return docs


def _injection_docs() -> dict[str, str]:
    """What `inject` says of its settings: the campaign's keys are the same."""
    entries = FunctionDoc(inject)["Parameters"]
    return {entry.name: f"{_types_in_braces(entry.type)}{' '.join(entry.desc)}" for entry in entries}


def _types_in_braces(text: str) -> str:
    found = re.search(r"\{(.*?)\}", text)
    return " or ".join(f"`{value.strip().strip(chr(34))}`" for value in found[1].split(",")) + ". " if found else ""


def _first_sentence(thing: type) -> str:
    text = inspect.cleandoc(thing.__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())


def _prose(text: str) -> str:
    """A docstring's text in Markdown: code in single backticks, what Markdown would take for markup escaped."""
    parts = " ".join(text.replace("``", "`").split()).split("`")
    return "`".join(re.sub(r"([*_<])", r"\\\1", part) if k % 2 == 0 else part for k, part in enumerate(parts))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class GeneratedTable(SphinxDirective):
    """A directive that stands for the Markdown that a function returns."""

    table: ClassVar[Callable[[], str]]

    def run(self) -> list[nodes.Node]:
        """The table's nodes."""
        return self.parse_text_to_nodes(type(self).table(), allow_section_headings=True)


TABLES: dict[str, Callable[[], str]] = {
    "catalogue-columns": catalogue_columns,
    "catalogue-dialects": catalogue_dialects,
    "image-formats": image_formats,
    "campaign-keys": campaign_keys,
    "commands": commands,
    "population-keys": population_keys,
    "recovery-columns": recovery_columns,
    "recovery-reasons": recovery_reasons,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for name, function in TABLES.items():
        app.add_directive(name, type(name, (GeneratedTable,), {"table": staticmethod(function)}))
    return {"parallel_read_safe": True}
