"""What an image is in a search for transients, science image or template, and which sources are meant for it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.exposure import COADD_INPUTS, COADD_NOISE, DIFFERENCE, Exposure

__all__ = ["Role", "image_role", "meant_for"]

type Role = Literal["auto", "science", "template"]


def image_role(exposure: Exposure, role: Role = "auto") -> Literal["science", "template", "difference"]:
    """Find what an image is in a search for transients.

    Parameters
    ----------
    exposure : Exposure
        The image.
    role : {"auto", "science", "template"}
        What it is said to be; ``auto`` takes a coadd for a template, and every other image for a science image.

    Returns
    -------
    {"science", "template", "difference"}
        A difference image that records how it was made is one, whatever `role` says.

    Raises
    ------
    ConfigError
        If `role` is something else.
    """
    if role not in get_args(Role.__value__):
        raise ConfigError(f"role is {role!r}; auto, science or template is needed", key="role")
    if exposure.extra.get(DIFFERENCE) is not None:
        return "difference"
    if role != "auto":
        return role
    data_id = exposure.data_id
    coadd = exposure.extra.get(COADD_INPUTS) or COADD_NOISE in exposure.extra
    return "template" if coadd or (data_id.visit is None and data_id.tract is not None) else "science"


def meant_for(into: NDArray[np.str_], role: Literal["science", "template", "difference"]) -> NDArray[np.bool_]:
    """Tell which sources are meant for an image.

    Parameters
    ----------
    into : ndarray of str, shape (N,)
        The catalogue's `inject_into`: empty, ``science``, ``template`` or ``both``.
    role : {"science", "template", "difference"}
        The image's, from `image_role`.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    if role == "difference":
        return np.ones(into.shape, dtype=np.bool_)
    return np.isin(into, ("", "both", role))
