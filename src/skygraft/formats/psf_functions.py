"""PSFs that a Python function makes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError, SkygraftError
from skygraft.formats.psf_target import PsfTarget
from skygraft.psf import PSF, Box, check_psf
from skygraft.psf.piff import kernels_one_by_one

__all__ = ["FunctionPSF", "call_psf_function", "find_function"]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class FunctionPSF(PSF):
    """A PSF whose kernels a function computes.

    Parameters
    ----------
    function : callable
        Takes positions x, y of shape (N,), 0-based parent pixels, and returns kernels (N, ny, nx), both sizes odd;
        picklable.
    name : str
        What people know it by.
    valid_box : Box, optional
        Where it holds; None for everywhere.
    """

    def __init__(
        self, function: Callable[[NDArray[np.float64], NDArray[np.float64]], Any], name: str, box: Box | None = None
    ) -> None:
        self._function, self._name, self._valid_box = function, name, box
        x, y = (0.0, 0.0) if box is None else box.center
        shape = self._call(np.array([x]), np.array([y])).shape
        self._shape = shape[1], shape[2]

    def _call(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        kernels = np.array(self._function(x, y), dtype=np.float64)
        if kernels.ndim != 3 or len(kernels) != len(x):
            raise PsfError(
                f"{self._name} returned an array of shape {kernels.shape} for {len(x)} positions, not (N, ny, nx)"
            )
        return kernels

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        return self._shape

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the kernels at N positions, one after the other.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        return kernels_one_by_one(lambda one, other: self._call(one, other)[0], self._shape, x, y)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self._shape
        return f"{self._name}, {nx} x {ny} pixels"


def find_function(name: Any, *, load: bool = True) -> Callable[..., Any]:
    """Return the function that ``module:function`` names.

    Parameters
    ----------
    name : str
        Module and function.
    load : bool, optional
        Whether to import it; if not, only the name is checked.

    Returns
    -------
    callable

    Raises
    ------
    ConfigError
        If it is no such name, or there is no such function.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"function is {name!r}; module and function are needed",
            key="psf.function",
            fix="Write for example my_package.psfs:psf_of",
        )
    if not load:
        return call_psf_function
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the function {name} cannot be imported ({error})",
            key="psf.function",
            fix="Install its package, or set PYTHONPATH where the images are made too",
        ) from error
    if not callable(found):
        raise ConfigError(f"{name} is no function but a {type(found).__name__}", key="psf.function")
    return found  # type: ignore[no-any-return]


def call_psf_function(function: Callable[..., Any], arguments: Mapping[str, Any], target: PsfTarget) -> PSF:
    """Make a PSF by a function, and check it.

    Parameters
    ----------
    function : callable
        Called with the image's identity, a dict with the known ones of ``instrument``, ``visit``, ``detector``,
        ``tract``, ``patch``, ``band``, ``name``, and with ``path`` and ``pixel_scale`` (arcsec); and with `arguments`.
        It returns a `PSF`, or a function of positions (x, y) that returns kernels; see `FunctionPSF`.
    arguments : mapping
        Keyword arguments for it.
    target : PsfTarget
        The image.

    Returns
    -------
    PSF

    Raises
    ------
    PsfError
        If the function fails, or what it returns breaks the contract of PSFs (`skygraft.psf.check_psf`).
    """
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
    image = target.data_id.as_dict() | {"pixel_scale": target.pixel_scale}
    if target.path is not None:
        image["path"] = str(target.path)
    box = target.box or Box(-0.5, 0.5, -0.5, 0.5)
    try:
        made = function(image, **arguments)
        psf = made if isinstance(made, PSF) else FunctionPSF(made, name, target.box) if callable(made) else None
        if psf is None:
            raise PsfError(f"it returned a {type(made).__name__}, neither a PSF nor a function of positions")
        at = np.array([0.5, 0.1, 0.83])
        check_psf(psf, box.x_min + at * (box.x_max - box.x_min), box.y_min + at * (box.y_max - box.y_min))
    except Exception as error:  # a function may raise anything
        reason = error.message if isinstance(error, SkygraftError) else f"{type(error).__name__}: {error}"
        raise PsfError(
            f"the PSF function {name} failed for {target.name}: {' '.join(reason.split())}",
            path=target.path,
            key="psf",
            fix="Correct it; skygraft.testing.check_psf says what a PSF must be",
        ) from error
    return psf
