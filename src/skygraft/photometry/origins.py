"""The calibration aperture as recorded outside of the image, and the known defaults of instruments."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits

from skygraft.errors import ApertureConflictError, CorruptFileError, FormatError
from skygraft.fitsfile.open import open_fits
from skygraft.lazy import lazy_module
from skygraft.photometry.radius import NORMALISED_TOPHAT, field_name_candidate, parse_field_radius, parse_radius
from skygraft.photometry.reference import CandidateLevel, ReferenceCandidate
from skygraft.yaml_text import check_yaml

pq = lazy_module("pyarrow.parquet")
pa = lazy_module("pyarrow")

__all__ = [
    "aperture_correction_hints",
    "config_candidates",
    "default_candidate",
    "register_default",
    "schema_candidates",
]

SLOT = "slot_CalibFlux"

_RAW_TOPHAT = re.compile(r"(?<!Normalized)CompensatedTophatFlux_(\d+)(?:_instFlux)?$")
_ENDING = re.compile(r"_(?:inst[fF]lux|[fF]lux)$")
_SLOT_FLUX = re.compile(rf"^(?:{SLOT}|calib)_?(?P<kind>inst[fF]lux|[fF]lux)$")
_PARQUET_ALIAS = re.compile(rf"{SLOT}[\"'\s:,]+([A-Za-z]\w+)")
_CONFIG_SLOT = re.compile(r"""^\s*config(?:\.\w+|\[[^\]]*\])*\.slots\.calibFlux\s*=\s*['"](\w+)['"]""", re.M)
_CONFIG_RAW = re.compile(r"""^\s*config(?:\.\w+|\[[^\]]*\])*\.raw_calibflux_name\s*=\s*['"](\w+)['"]""", re.M)
_CONFIG_FGCM = re.compile(r"""^\s*config(?:\.\w+|\[[^\]]*\])*\.instFluxField\s*=\s*['"](\w+)['"]""", re.M)


def schema_candidates(path: str | os.PathLike[str], *, keep_unclear: bool = False) -> list[ReferenceCandidate]:
    """Collect what a source catalogue measured from the image says about its calibration flux.

    In order: the alias ``slot_CalibFlux`` (repeated ``ALIAS`` cards of a FITS catalogue, or the metadata of a Parquet
    one); the column of that name, where it equals, row for row, one flux with a radius in its name; the
    normalised compensated tophat; the only aperture radius of the table. Only headers are read, except to compare
    columns.

    The normalised tophat is that of the raw flux which its column's documentation names (``TDOC`` or ``TCOMM`` cards,
    Parquet descriptions), or of the only raw tophat of the table; where there is none, a default of the pipelines is
    taken for one.

    Parameters
    ----------
    path : path-like
        FITS or Parquet, by its first bytes.
    keep_unclear : bool
        Give, as candidates of kind ``"unclear"``, also what the catalogue says in a way that cannot be understood.

    Returns
    -------
    list of ReferenceCandidate
        Of level ``"schema"``; empty where the catalogue does not say.

    Raises
    ------
    CorruptFileError
        If the file is absent, empty or unreadable.
    FormatError
        If it is neither FITS nor Parquet.
    ApertureConflictError
        If two fluxes could be the one that calibrated, and nothing says which (and `keep_unclear` is False).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        found: list[ReferenceCandidate] | None = None
        if magic[:4] == b"PAR1":
            found = _parquet(path)
        elif magic == b"SIMPLE":
            found = _fits(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptFileError(
            f"the source catalogue cannot be read: {error}", path=path, fix="Fetch or make it again"
        ) from error
    except _TwoFluxesError as error:
        if not keep_unclear:
            raise ApertureConflictError(
                str(error), path=path, key="aperture", fix="Give the calibration aperture (aperture='12 pix')"
            ) from None
        return [_unclear(f"{error} in {path.name}")]
    if found is not None:
        return found if keep_unclear else [c for c in found if c.kind != "unclear"]
    if not magic:
        raise CorruptFileError("the source catalogue is empty", path=path, fix="Fetch or make it again")
    raise FormatError("a source catalogue in FITS or Parquet is needed; this is neither", path=path)


class _TwoFluxesError(Exception):
    """Two fluxes could be the one that calibrated the image."""


def _unclear(origin: str) -> ReferenceCandidate:
    return ReferenceCandidate("unclear", origin=origin, level="schema")


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Columns of a source catalogue, each with its documentation (empty where there is none)."""

    path: Path
    docs: Mapping[str, str]

    def tophat_radius(self, name: str) -> float | None:
        """Radius that the normalised tophat `name` (without its ending) was normalised to; None where nothing says."""
        texts = {text for column, text in self.docs.items() if text and _is_value_of(column, name)}
        documented = {radius: text for text in texts if (radius := parse_field_radius(text)) is not None}
        if len(documented) == 1:
            return next(iter(documented))
        raw = {float(m[1]): column for column in self.docs if (m := _RAW_TOPHAT.search(column))}
        if len(documented) > 1 or len(raw) > 1:
            between = list(documented.values()) or [raw[radius] for radius in sorted(raw)]
            raise _TwoFluxesError(
                f"{name} could be normalised to any of {', '.join(between)}, and its documentation "
                f"({'; '.join(sorted(texts)) or 'none'}) does not say to which"
            )
        return next(iter(raw)) if raw else None

    def named(self, name: str, origin: str) -> list[ReferenceCandidate]:
        """The candidate of the flux `name`, which the origin says is the one that calibrated."""
        if not NORMALISED_TOPHAT.search(name):
            candidate = field_name_candidate(name, origin, level="schema")
            return [_unclear(f"{origin}, which names no radius")] if candidate is None else [candidate]
        stem = _ENDING.sub("", name)
        radius = self.tophat_radius(stem)
        # Without a raw tophat it is the pipelines' default, which an instrument may have changed (LATISS: 35).
        level: CandidateLevel = "default" if radius is None else "schema"
        candidate = field_name_candidate(name, origin, level=level, tophat_radius=radius)
        return [] if candidate is None else [candidate]


def _is_value_of(column: str, flux: str) -> bool:
    return column == flux or (column.startswith(flux) and _ENDING.fullmatch(column.removeprefix(flux)) is not None)


def _fits(path: Path) -> list[ReferenceCandidate]:
    normalised: list[ReferenceCandidate] = []
    with open_fits(path) as hdus:
        for hdu in hdus:
            header = hdu.header
            aliases = dict(
                str(card.value).split(":", 1)
                for card in header.cards
                if card.keyword == "ALIAS" and ":" in str(card.value)
            )
            columns = _Columns(path, _fits_docs(header))
            if SLOT in aliases:
                target = _follow(aliases)
                return columns.named(target, f"{SLOT} -> {target} in {path.name}")
            normalised = normalised or _normalised_column(columns)
    return normalised


def _fits_docs(header: fits.Header) -> dict[str, str]:
    """Each column's documentation: afw writes TDOC, astropy TCOMM; comments are cut off at the card's end."""
    columns = {card.keyword[5:]: str(card.value) for card in header.cards if card.keyword.startswith("TTYPE")}
    return {name: str(header.get(f"TDOC{n}", header.get(f"TCOMM{n}", ""))) for n, name in columns.items()}


def _follow(aliases: Mapping[str, str]) -> str:
    """Give the end of the chain of aliases that starts at the slot."""
    target, seen = aliases[SLOT], {SLOT}
    while target in aliases and target not in seen:
        seen.add(target)
        target = aliases[target]
    return target


def _parquet(path: Path) -> list[ReferenceCandidate]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = list(schema.names)
        metadata = b"\n".join((schema.metadata or {}).values()).decode(errors="replace")
        # Column names that merely begin with the slot's name are in pandas' metadata too.
        targets = sorted({t for t in _PARQUET_ALIAS.findall(metadata) if not t.startswith("slot_") and "Flux" in t})
        columns = _Columns(path, _parquet_docs(schema))
        if len(targets) > 1:
            raise _TwoFluxesError(f"{SLOT} is an alias of any of {', '.join(targets)}")
        if targets:
            return columns.named(targets[0], f"{SLOT} -> {targets[0]} in {path.name}")
        equal = _equal_column(file, names)
    if equal is not None:
        return columns.named(equal[1], f"{equal[0]} = {equal[1]} in {path.name}")
    if any(_SLOT_FLUX.match(name) for name in names):
        return []
    return _normalised_column(columns) or _only_radius(columns)


def _parquet_docs(schema: Any) -> dict[str, str]:
    """Each column's documentation: of its field's metadata, or in the header that astropy (and the Butler) writes."""
    docs: dict[str, str] = {}
    header = (schema.metadata or {}).get(b"table_meta_yaml")
    if header is not None:
        # A header that is not what astropy writes documents nothing.
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            check_yaml(header.decode())
            for column in yaml.load(header, Loader=_HeaderLoader)["datatype"]:
                docs[str(column["name"])] = str(column.get("description") or "")
    for field in schema:
        own = {key.decode(errors="replace").lower(): value for key, value in (field.metadata or {}).items()}
        text = next((own[key] for key in ("description", "doc", "comment") if own.get(key)), b"")
        docs[field.name] = text.decode(errors="replace") or docs.get(field.name, "")
    return docs


class _HeaderLoader(yaml.SafeLoader):
    """Reads the header of an ECSV table, whose other tags (of units, times, ordered maps) do not matter here."""


_HeaderLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def _normalised_column(columns: _Columns) -> list[ReferenceCandidate]:
    """What the normalised compensated tophat says, where there is such a column."""
    kin = [n for n in columns.docs if n.startswith(("normCompTophatFlux", "base_NormalizedCompensatedTophatFlux"))]
    if not kin:
        return []
    # Its error and flag columns begin with the same name.
    name = next((n for n in kin if n.endswith("Flux")), kin[0])
    return columns.named(name, f"column {name} in {columns.path.name}")


def _only_radius(columns: _Columns) -> list[ReferenceCandidate]:
    by_radius: dict[float, str] = {}
    for name in columns.docs:
        radius = parse_field_radius(name)
        if radius is not None:
            by_radius.setdefault(radius, name)
    if len(by_radius) != 1:
        return []
    (name,) = by_radius.values()
    return columns.named(name, f"column {name} in {columns.path.name}")


def _equal_column(file: Any, names: list[str]) -> tuple[str, str] | None:
    """Give the slot's flux column and the one named flux that is equal to it in every row."""
    slot = next((name for name in names if _SLOT_FLUX.match(name)), None)
    if slot is None or not file.metadata.num_rows:
        return None
    found = _SLOT_FLUX.match(slot)
    ending = "" if found is None else found["kind"].lower()
    others = [
        n
        for n in names
        if n != slot
        and not n.startswith("slot_")
        and n.lower().endswith(ending)
        and field_name_candidate(n, "") is not None
    ]
    table = file.read(columns=[slot, *others])
    reference = table[slot].to_numpy()
    if not np.isfinite(reference).any():
        return None
    radii: dict[str, str] = {}
    for name in others:
        if np.array_equal(table[name].to_numpy(), reference, equal_nan=True):
            candidate = field_name_candidate(name, "")
            if candidate is not None:
                radii.setdefault(candidate.value, name)
    return (slot, next(iter(radii.values()))) if len(radii) == 1 else None


def config_candidates(path: str | os.PathLike[str]) -> list[ReferenceCandidate]:
    """Collect what an LSST pipeline configuration file says: ``slots.calibFlux`` and FGCM's ``instFluxField``.

    The file is read as text and never executed.

    Parameters
    ----------
    path : path-like
        The configuration, a Python file of assignments.

    Returns
    -------
    list of ReferenceCandidate
        What the file names, the slot first.

    Raises
    ------
    CorruptFileError
        If the file is absent or unreadable.
    ApertureConflictError
        If the flux is a normalised tophat, and two raw ones are named.

    Examples
    --------
    For an image whose own files do not say which flux it was calibrated to, beside the configuration that did it:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     config = Path(folder) / "calibrate.py"
    ...     _ = config.write_text("config.measurement.slots.calibFlux='base_CircularApertureFlux_12_0'")
    ...     [candidate] = config_candidates(config)
    >>> candidate.value  # read_exposure(..., aperture=candidate)
    '12 pix'
    """
    path = Path(path)
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise CorruptFileError(f"the configuration cannot be read: {error}", path=path) from error
    raw = {radius: name for name in _CONFIG_RAW.findall(text) if (radius := parse_field_radius(name)) is not None}
    found = []
    places: tuple[tuple[list[str], str, CandidateLevel], ...] = (
        (_CONFIG_SLOT.findall(text), "slots.calibFlux", "schema"),
        (_CONFIG_FGCM.findall(text), "FGCM instFluxField", "fgcm"),
    )
    # A later line of a configuration overrides an earlier one.
    for names, what, level in places:
        if not names:
            continue
        if NORMALISED_TOPHAT.search(names[-1]) and len(raw) > 1:
            raise ApertureConflictError(
                f"{names[-1]} could be normalised to any of {', '.join(raw[r] for r in sorted(raw))}",
                path=path,
                key="raw_calibflux_name",
                fix="Give the calibration aperture (aperture='12 pix')",
            )
        radius = next(iter(raw)) if len(raw) == 1 else None
        origin = f"{what} = {names[-1]} in {path.name}"
        found.append(field_name_candidate(names[-1], origin, level=level, tophat_radius=radius))
    return [candidate for candidate in found if candidate is not None]


def aperture_correction_hints(keys: Iterable[str], origin: str) -> list[ReferenceCandidate]:
    """Collect hints from the keys of an aperture-correction map, such as ``base_CompensatedTophatFlux_12_instFlux``.

    Such a map says which fluxes were corrected, not which one calibrated the image: a hint never decides.

    Parameters
    ----------
    keys : iterable of str
        Names of the map's entries.
    origin : str
        Where the map is.

    Returns
    -------
    list of ReferenceCandidate
        Of level ``"hint"``, one for each radius.
    """
    found: dict[float, ReferenceCandidate] = {}
    for key in sorted(keys):
        radius = parse_field_radius(key)
        if radius is not None and radius not in found:
            found[radius] = ReferenceCandidate("aperture", radius, origin=f"{key} in {origin}", level="hint")
    return [found[radius] for radius in sorted(found)]


_DEFAULTS: dict[str, ReferenceCandidate] = {}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def register_default(name: str, setting: Any, *, origin: str | None = None) -> None:
    """Say what an instrument's or survey's fluxes are the flux of where the images do not say it themselves.

    Parameters
    ----------
    name : str
        Instrument or survey; case, spaces and punctuation do not matter.
    setting : Any
        As for `parse_radius`.
    origin : str, optional
        Who says so; ``"registered default of <name>"`` when absent.

    Raises
    ------
    ConfigError
        If the setting cannot be read.
    """
    origin = origin or f"registered default of {name}"
    candidate = parse_radius(setting, origin=origin)
    _DEFAULTS[_plain(name)] = dataclasses.replace(candidate, origin=origin, level="default")


def default_candidate(name: str | None) -> ReferenceCandidate | None:
    """Look up the registered default of an instrument or survey.

    The instruments' defaults are those of the LSST pipelines: ask for them only for images that these made.

    Parameters
    ----------
    name : str or None
        Of the instrument or survey, in any spelling.

    Returns
    -------
    ReferenceCandidate or None
        None where there is no default.
    """
    return _DEFAULTS.get(_plain(name)) if name else None


for _names, _setting in (
    (("HSC", "Hyper Suprime-Cam", "LSSTCam", "LSSTComCam", "LSSTComCamSim", "LSSTCam-imSim"), "12 pix"),
    (("LATISS",), "35 pix"),
    (("MegaPrime", "MegaCam"), "12 pix"),
):
    for _name in _names:
        register_default(_name, _setting, origin=f"default of the LSST pipelines for {_name}")
for _name in ("Legacy Surveys", "legacysurvey", "DECaLS", "BASS", "MzLS"):
    register_default(_name, "psf_model", origin="default of the Legacy Surveys (zeropoints from PSF fits, DR8 on)")
