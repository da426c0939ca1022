"""Sky maps: the division of the sky into tracts and patches."""

from skygraft.skymap.base import Patch, PixelBox, SkyMap, Tract
from skygraft.skymap.explicit import ExplicitSkyMap
from skygraft.skymap.healpix import HealpixSkyMap, HealpixTract
from skygraft.skymap.registry import get_skymap
from skygraft.skymap.rings import RingsSkyMap

__all__ = [
    "ExplicitSkyMap",
    "HealpixSkyMap",
    "HealpixTract",
    "Patch",
    "PixelBox",
    "RingsSkyMap",
    "SkyMap",
    "Tract",
    "get_skymap",
]
