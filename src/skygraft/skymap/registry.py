"""Look up sky maps by name, or build them from the mapping in a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from skygraft.errors import SkyMapError
from skygraft.skymap.base import SkyMap
from skygraft.skymap.explicit import ExplicitSkyMap
from skygraft.skymap.healpix import HealpixSkyMap
from skygraft.skymap.options import nearest
from skygraft.skymap.rings import HSC_RINGS_V1, LSST_CELLS_V1, LSST_CELLS_V2, RingsSkyMap

__all__ = ["get_skymap"]

_NAMED: dict[str, SkyMap] = {one.name: one for one in (HSC_RINGS_V1, LSST_CELLS_V1, LSST_CELLS_V2)}
_KINDS: dict[str, Callable[[Mapping[str, Any]], SkyMap]] = {
    "rings": RingsSkyMap.from_dict,
    "healpix": HealpixSkyMap.from_dict,
    "explicit": ExplicitSkyMap.from_dict,
}


def get_skymap(spec: str | Mapping[str, Any] | SkyMap) -> SkyMap:
    """Return a sky map by its name, or build one from a mapping of parameters.

    Parameters
    ----------
    spec : str or mapping
        ``"hsc_rings_v1"``, ``"lsst_cells_v1"``, ``"lsst_cells_v2"``, or one of

        * ``{"kind": "rings", "num_rings", "pixel_scale", "patch_inner", "patch_border", "tract_overlap", "ra_start"}``
          (arcsec per pixel; pixels; pixels; degrees; degrees),
        * ``{"kind": "healpix", "nside", "patch_nside", "pixel_scale", "patch_border"}``,
        * ``{"kind": "explicit", "tracts": [{"ra", "dec", "pixel_scale", "size", "patches", "border"}, ...]}``
          (degrees; arcsec per pixel; pixels, number of patches, each one number or [x, y]; pixels).

        A sky map is returned unchanged.

    Returns
    -------
    SkyMap

    Raises
    ------
    SkyMapError
        If no map has that name or kind, or a parameter is unknown, missing or out of range.
    """
    if isinstance(spec, SkyMap):
        return spec
    if isinstance(spec, str):
        if spec not in _NAMED:
            fix = f"{nearest(spec, _NAMED)}; or give a mapping with kind: {', '.join(_KINDS)}"
            raise SkyMapError(f"there is no sky map {spec!r}", fix=fix)
        return _NAMED[spec]
    if not isinstance(spec, Mapping):
        raise SkyMapError(f"a sky map is given by a name or a mapping, not by {spec!r}")
    kind = spec.get("kind")
    if kind is None:
        raise SkyMapError("the sky map has no kind", key="kind", fix=nearest("", _KINDS))
    if kind not in _KINDS:
        raise SkyMapError(f"there is no sky map of kind {kind!r}", key="kind", fix=nearest(kind, _KINDS))
    return _KINDS[kind](spec)
