"""Where the calibration aperture is written down outside of the image, and what instruments are known to use."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from skygraft.errors import CorruptFileError, FormatError
from skygraft.photometry.radius import field_name_candidate, parse_field_radius, parse_radius
from skygraft.photometry.reference import ReferenceCandidate

__all__ = [
    "aperture_correction_hints",
    "config_candidates",
    "default_candidate",
    "register_default",
    "schema_candidates",
]

SLOT = "slot_CalibFlux"

_RAW_TOPHAT = re.compile(r"(?<!Normalized)CompensatedTophatFlux_(\d+)(?:_instFlux)?$")
_SLOT_FLUX = re.compile(rf"^(?:{SLOT}|calib)_?(?P<kind>inst[fF]lux|[fF]lux)$")
_PARQUET_ALIAS = re.compile(rf"{SLOT}[\"'\s:,]+([A-Za-z]\w+)")
_CONFIG_SLOT = re.compile(r"""^\s*config(?:\.\w+|\[[^\]]*\])*\.slots\.calibFlux\s*=\s*['"](\w+)['"]""", re.M)
_CONFIG_FGCM = re.compile(r"""^\s*config(?:\.\w+|\[[^\]]*\])*\.instFluxField\s*=\s*['"](\w+)['"]""", re.M)


def schema_candidates(path: str | os.PathLike[str]) -> list[ReferenceCandidate]:
    """Collect what a source catalogue measured from the image says about its calibration flux.

    In order: the alias ``slot_CalibFlux`` (repeated ``ALIAS`` cards of a FITS catalogue, or the metadata of a Parquet
    one); the column of that name, where it equals, row for row, one flux with a radius in its name; the
    normalised compensated tophat; the only aperture radius of the table. Only headers are read, except to compare
    columns.

    Parameters
    ----------
    path : path-like
        FITS or Parquet, by its first bytes.

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
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic[:4] == b"PAR1":
            return _parquet(path)
        if magic == b"SIMPLE":
            return _fits(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptFileError(
            f"the source catalogue cannot be read: {error}", path=path, fix="Fetch or make it again"
        ) from error
    if not magic:
        raise CorruptFileError("the source catalogue is empty", path=path, fix="Fetch or make it again")
    raise FormatError("a source catalogue in FITS or Parquet is needed; this is neither", path=path)


def _fits(path: Path) -> list[ReferenceCandidate]:
    with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
        for hdu in hdus:
            header = hdu.header
            aliases = dict(
                str(card.value).split(":", 1)
                for card in header.cards
                if card.keyword == "ALIAS" and ":" in str(card.value)
            )
            if SLOT in aliases:
                columns = [str(card.value) for card in header.cards if card.keyword.startswith("TTYPE")]
                return _slot(_follow(aliases), columns, path)
    return []


def _follow(aliases: Mapping[str, str]) -> str:
    """Give the end of the chain of aliases that starts at the slot."""
    target, seen = aliases[SLOT], {SLOT}
    while target in aliases and target not in seen:
        seen.add(target)
        target = aliases[target]
    return target


def _slot(target: str, columns: Iterable[str], path: Path) -> list[ReferenceCandidate]:
    candidate = field_name_candidate(
        target, f"{SLOT} -> {target} in {path.name}", level="schema", tophat_radius=_tophat_radius(columns)
    )
    return [] if candidate is None else [candidate]


def _tophat_radius(columns: Iterable[str]) -> float | None:
    """Give the raw radius of the compensated tophat, where the columns tell of exactly one."""
    radii = {float(m[1]) for name in columns if (m := _RAW_TOPHAT.search(name))}
    return radii.pop() if len(radii) == 1 else None


def _parquet(path: Path) -> list[ReferenceCandidate]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = list(schema.names)
        metadata = b"\n".join((schema.metadata or {}).values()).decode(errors="replace")
        # Column names that merely begin with the slot's name are in pandas' metadata too.
        targets = {t for t in _PARQUET_ALIAS.findall(metadata) if not t.startswith("slot_") and "Flux" in t}
        if len(targets) == 1:
            return _slot(targets.pop(), names, path)
        equal = _equal_column(file, names)
    if equal is not None:
        return _named(equal[1], names, path, f"{equal[0]} = {equal[1]} in {path.name}")
    if any(_SLOT_FLUX.match(name) for name in names):
        return []
    for name in names:
        if name.startswith(("normCompTophatFlux", "base_NormalizedCompensatedTophatFlux")):
            return _named(name, names, path)
    return _only_radius(names, path)


def _named(name: str, names: list[str], path: Path, origin: str = "") -> list[ReferenceCandidate]:
    origin = origin or f"column {name} in {path.name}"
    candidate = field_name_candidate(name, origin, level="schema", tophat_radius=_tophat_radius(names))
    return [] if candidate is None else [candidate]


def _only_radius(names: list[str], path: Path) -> list[ReferenceCandidate]:
    by_radius: dict[float, str] = {}
    for name in names:
        radius = parse_field_radius(name)
        if radius is not None:
            by_radius.setdefault(radius, name)
    if len(by_radius) != 1:
        return []
    return _named(next(iter(by_radius.values())), names, path)


def _equal_column(file: pq.ParquetFile, names: list[str]) -> tuple[str, str] | None:
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

    Raises
    ------
    CorruptFileError
        If the file is absent or unreadable.
    """
    path = Path(path)
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise CorruptFileError(f"the configuration cannot be read: {error}", path=path) from error
    found = []
    # A later line of a configuration overrides an earlier one.
    if slots := _CONFIG_SLOT.findall(text):
        origin = f"slots.calibFlux = {slots[-1]} in {path.name}"
        found.append(field_name_candidate(slots[-1], origin, level="schema"))
    if fields := _CONFIG_FGCM.findall(text):
        origin = f"FGCM instFluxField = {fields[-1]} in {path.name}"
        found.append(field_name_candidate(fields[-1], origin, level="fgcm"))
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
    """Give the registered default of an instrument or survey; None where there is none.

    The instruments' defaults are those of the LSST pipelines: ask for them only for images that these made.
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
