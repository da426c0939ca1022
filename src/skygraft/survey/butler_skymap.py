"""Read the sky map that a Butler repository defines, without the LSST stack.

The repository stores it twice: as a record of the dimension ``skymap`` with a hash of all parameters, and as a pickle
of the stack's object. The pickle is not executed: the parameters are parsed from the configuration text inside it, and
compared with the hash to make sure that they are complete.
"""

from __future__ import annotations

import ast
import hashlib
import math
import pickletools
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skygraft.errors import ConfigError, SkyMapError
from skygraft.skymap import RingsSkyMap, get_skymap
from skygraft.survey.butler import butler_errors, open_butler

__all__ = ["RingsDefinition", "as_skymap", "read_definition", "read_skymap"]

_KEY = "skymap"
_ASSIGNMENT = re.compile(r"^config\.(?P<key>[\w.'\[\]\"]+?)\s*=\s*(?P<value>.+)$", re.MULTILINE)
_CLASSES = ("DiscreteSkyMap", "DodecaSkyMap", "EquatSkyMap", "HealpixSkyMap", "RingsSkyMap")


@dataclass(frozen=True)
class RingsDefinition:
    """The configuration of a rings sky map in ``lsst.skymap``, with the defaults of its classes.

    Parameters
    ----------
    num_rings : int
        Number of rings between the caps.
    ra_start : float
        Right ascension of each ring's first tract, degrees.
    pixel_scale : float
        Arcsec per pixel.
    tract_overlap : float
        Degrees.
    projection : str
        FITS code of the projection.
    rotation : float
        Degrees.
    builder : {"legacy", "cells"}
        How tracts are divided into patches.
    patch_inner : (int, int)
        Size of a patch without border, pixels; for the builder "legacy".
    patch_border : int
        Width of the border, pixels; for the builder "legacy".
    cell_inner : (int, int)
        Size of a cell, pixels; for the builder "cells", as are the following.
    cell_border : int
        Overlap of a cell with its neighbours, pixels.
    cells_per_patch, cells_in_border : int
        Number of cells of a patch along each axis, and in its border.
    version : int
        Version of the numbering of tracts.
    """

    num_rings: int
    ra_start: float = 0.0
    pixel_scale: float = 0.333
    tract_overlap: float = 1.0
    projection: str = "STG"
    rotation: float = 0.0
    builder: str = "legacy"
    patch_inner: tuple[int, int] = (4000, 4000)
    patch_border: int = 100
    cell_inner: tuple[int, int] = (150, 150)
    cell_border: int = 50
    cells_per_patch: int = 20
    cells_in_border: int = 1
    version: int = 1

    def sha1(self) -> bytes:
        """Return the hash that ``lsst.skymap`` computes for it and the dimension record contains."""
        whole = (self.tract_overlap, self.pixel_scale, self.projection.encode("ascii"), self.rotation)
        if self.builder == "cells":
            cells = (*self.cell_inner, self.cell_border, self.cells_per_patch, self.cells_in_border)
            packed = struct.pack("<iiiiidd3sd", *cells, *whole)
        else:
            packed = struct.pack("<iiidd3sd", *self.patch_inner, self.patch_border, *whole)
        rings = struct.pack("<id", self.num_rings, self.ra_start)
        return hashlib.sha1(b"RingsSkyMap" + packed + rings, usedforsecurity=False).digest()

    def skymap(self, name: str) -> RingsSkyMap:
        """Build the sky map.

        Parameters
        ----------
        name : str
            Name of the map.

        Raises
        ------
        SkyMapError
            If it has a projection, rotation or version that is not supported.
        """
        if self.projection != "TAN" or self.rotation != 0:
            raise SkyMapError(
                f"the sky map {name!r} has the projection {self.projection} turned by {self.rotation:g} degrees; "
                "TAN, not turned, is supported",
                key=_KEY,
            )
        cells = self.builder == "cells"
        inner = [n * self.cells_per_patch for n in self.cell_inner] if cells else list(self.patch_inner)
        return RingsSkyMap.from_dict(
            {
                "kind": "rings",
                "name": name,
                "version": self.version,
                "num_rings": self.num_rings,
                "pixel_scale": self.pixel_scale,
                "patch_inner": inner,
                # The area that coadds cover: the cells of the border extend further by their own border.
                "patch_border": self.cells_in_border * self.cell_inner[0] if cells else self.patch_border,
                "tract_overlap": self.tract_overlap,
                "ra_start": self.ra_start,
            }
        )


_FIELDS = {
    "numRings": "num_rings",
    "raStart": "ra_start",
    "pixelScale": "pixel_scale",
    "tractOverlap": "tract_overlap",
    "projection": "projection",
    "rotation": "rotation",
    "tractBuilder.name": "builder",
    "tractBuilder[legacy].patchInnerDimensions": "patch_inner",
    "tractBuilder[legacy].patchBorder": "patch_border",
    "tractBuilder[cells].cellInnerDimensions": "cell_inner",
    "tractBuilder[cells].cellBorder": "cell_border",
    "tractBuilder[cells].numCellsPerPatchInner": "cells_per_patch",
    "tractBuilder[cells].numCellsInPatchBorder": "cells_in_border",
    # Older configurations, without builders.
    "patchInnerDimensions": "patch_inner",
    "patchBorder": "patch_border",
}
_NAMED = {
    "hsc_rings_v1": RingsDefinition(120, pixel_scale=0.168, tract_overlap=1 / 60, projection="TAN"),
    "lsst_cells_v1": RingsDefinition(
        120, pixel_scale=0.2, tract_overlap=1 / 60, projection="TAN", builder="cells", cell_border=50
    ),
    "lsst_cells_v2": RingsDefinition(
        120, pixel_scale=0.2, tract_overlap=1 / 60, projection="TAN", builder="cells", cell_border=0
    ),
}
"""Sky maps that are recognised by their hash, if a repository has only the record."""


def read_definition(content: bytes) -> RingsDefinition:
    """Parse the definition in the pickle of a sky map, without executing any of it.

    Raises
    ------
    SkyMapError
        If it is not a pickle, or not of a rings sky map.
    """
    config: str | None = None
    texts: list[str] = []
    numbers: list[int] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escape sequences in a damaged pickle
            operations = list(pickletools.genops(content))
        for opcode, value, _ in operations:
            if isinstance(value, bytes | str):
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                texts.append(text)
                if "config.numRings" in text:
                    config, numbers = text, []
            elif isinstance(value, int) and opcode.name in ("BININT", "BININT1", "BININT2", "INT", "LONG1"):
                numbers.append(value)
    except (ValueError, IndexError, UnicodeDecodeError, struct.error) as error:
        raise SkyMapError(f"the sky map is not a pickle that can be read ({error})", key=_KEY) from error
    if config is None:
        kind = next((name for name in _CLASSES if any(text.split(" ")[-1] == name for text in texts)), None)
        what = f"of the class {kind}" if kind else "of no class that is known"
        raise SkyMapError(f"the sky map is {what}; RingsSkyMap can be read", key=_KEY)
    found: dict[str, Any] = {}
    for match in _ASSIGNMENT.finditer(config):
        name = _FIELDS.get(re.sub(r"[\"']", "", match["key"]))
        if name is None:
            continue
        found[name] = _value(name, match["key"], match["value"])
    # The last item of the pickle is the version; in old ones it is missing, and means 0.
    version = numbers[-1] if numbers else 0
    if "num_rings" not in found:
        raise SkyMapError("the sky map's configuration is not whole: it has no number of rings", key=_KEY)
    return RingsDefinition(**found, version=version)


def _value(name: str, key: str, text: str) -> Any:
    """Parse a value for a field of `RingsDefinition`, as the field's type."""
    try:
        # A backslash occurs in no valid value, and an escape sequence might warn.
        value = None if "\\" in text else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    whole = [v for v in (value if isinstance(value, list | tuple) else [value]) if type(v) is int and abs(v) < 2**31]
    match name:
        case "patch_inner" | "cell_inner":
            good = isinstance(value, list | tuple) and len(value) == len(whole) == 2
        case "projection" | "builder":
            good = isinstance(value, str) and value.isascii()
        case "pixel_scale" | "tract_overlap" | "ra_start" | "rotation":
            good = isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
        case _:
            good = value is not None and [value] == whole
    if not good:
        raise SkyMapError(f"the sky map's {key} is {text[:80]!r}", key=_KEY)
    return tuple(value) if isinstance(value, list | tuple) else value


def read_skymap(repo: str, name: str | None = None) -> str | dict[str, Any]:
    """Read the sky map that a repository defines.

    Parameters
    ----------
    repo : str
        The repository.
    name : str, optional
        The sky map's name there; it may be left out where there is one only.

    Returns
    -------
    str or dict
        Argument for `get_skymap`: the name of a known sky map, otherwise the parameters.

    Raises
    ------
    ConfigError
        If there is no such repository, or no such sky map in it.
    SkyMapError
        If its definition cannot be read, or does not match the hash in the repository.
    """
    with open_butler(repo) as butler, butler_errors(repo, "the sky map cannot be read", key=_KEY):
        records = {record.name: record for record in butler.query_dimension_records("skymap", explain=False)}
        if name is None and len(records) == 1:
            name = next(iter(records))
        if name is None or name not in records:
            raise ConfigError(
                "the repository has several sky maps" if name is None else f"the repository has no sky map {name!r}",
                path=repo,
                key=_KEY,
                fix=f"It has: {', '.join(sorted(records)) or 'none'}",
            )
        wanted = bytes(records[name].hash)
        known = next((one for one, definition in _NAMED.items() if definition.sha1() == wanted), None)
        if known is not None:
            return known
        content = _pickle(butler, name)
    if content is None:
        raise SkyMapError(
            f"the repository has only the hash of the sky map {name!r}, and it is none of {', '.join(_NAMED)}",
            path=repo,
            key=_KEY,
            fix="Give its parameters: skymap: {kind: rings, num_rings: ..., pixel_scale: ..., ...}",
        )
    with butler_errors(repo, "the sky map cannot be read", SkyMapError, _KEY):
        definition = read_definition(content)
    if definition.sha1() != wanted:
        raise SkyMapError(
            f"the sky map {name!r} has something else than is read of it ({definition}): its hash is another",
            path=repo,
            key=_KEY,
            fix="Give its parameters: skymap: {kind: rings, num_rings: ..., pixel_scale: ..., ...}",
        )
    return definition.skymap(name).to_dict()


def _pickle(butler: Any, name: str) -> bytes | None:
    """Return the bytes of the sky map's pickle, or None if there is none."""
    from lsst.daf.butler import MissingDatasetTypeError

    try:
        found = butler.query_datasets(
            "skyMap", collections="*", find_first=False, explain=False, where="skymap = which", bind={"which": name}
        )
    except MissingDatasetTypeError:
        return None
    for uris in butler.get_many_uris(found, allow_missing=True).values():
        if uris.primaryURI is not None:
            return bytes(uris.primaryURI.read())
    return None


def as_skymap(spec: Mapping[str, Any], repo: str | None) -> str | dict[str, Any]:
    """Read the sky map that a configuration ``{kind: butler, name, repo}`` names.

    Parameters
    ----------
    spec : mapping
        The configuration.
    repo : str or None
        Default repository.

    Returns
    -------
    str or dict
        Argument for `get_skymap`.

    Raises
    ------
    ConfigError, SkyMapError
        As `read_skymap`, and if a key is unknown.
    """
    unknown = sorted(str(key) for key in spec if key not in ("kind", "name", "repo"))
    if unknown:
        raise SkyMapError(f"a sky map of a Butler has no parameter {unknown[0]!r}", key=_KEY, fix="Known: name, repo")
    name = spec.get("name")
    if not isinstance(name, str | None):
        raise SkyMapError(f"the sky map's name is {name!r}; a text is needed", key=_KEY)
    where = repo or spec.get("repo")
    if where is None:
        raise SkyMapError("a sky map of a Butler needs its repository", key=_KEY, fix="Add repo: to skymap")
    skymap = read_skymap(str(where), name)
    get_skymap(skymap)
    return skymap
