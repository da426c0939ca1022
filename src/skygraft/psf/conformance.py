"""The contract that every PSF keeps, as one function for the tests of any PSF class."""

from __future__ import annotations

import pickle

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.psf.base import PSF, Box

__all__ = ["check_psf"]


def check_psf(psf: PSF, x: ArrayLike, y: ArrayLike) -> None:
    """Check a PSF against the contract of `PSF`, at the positions given.

    Parameters
    ----------
    psf : PSF
        The model.
    x, y : array_like, shape (N,)
        Positions in 0-based parent pixels where the model can be evaluated; a few suffice.

    Raises
    ------
    AssertionError
        Saying which part of the contract is broken.

    Notes
    -----
    Checked: odd shape; kernels of that shape, float64, finite, with light in them; a batch is bit for bit its single
    kernels, in any order; no positions give ``(0, ny, nx)``; neither evaluation nor writing into a result changes
    the model; a pickled copy is equal and gives the same bits; `flux_outside`, `valid_box`, `average_position` and
    `description` are of the right kind.
    """
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float)))
    _require(x.ndim == 1 and x.size > 0, "check_psf needs at least one position")
    ny, nx = psf.shape
    _require(ny % 2 == 1 and nx % 2 == 1, f"shape {psf.shape} has an even size; a kernel needs a middle pixel")

    kernels = psf.kernels(x, y)
    _require(isinstance(kernels, np.ndarray), f"kernels are a {type(kernels).__name__}, not an ndarray")
    _require(kernels.dtype == np.float64, f"kernels are {kernels.dtype}, not float64")
    _require(kernels.shape == (x.size, ny, nx), f"kernels have shape {kernels.shape}, not {(x.size, ny, nx)}")
    _require(bool(np.isfinite(kernels).all()), "kernels are not finite everywhere")
    _require(bool((kernels.sum(axis=(1, 2)) > 0).all()), "a kernel holds no light")

    shapes = psf.kernel_shapes(x, y)
    _require(shapes.shape == (x.size, 2), f"kernel_shapes gives shape {shapes.shape}, not {(x.size, 2)}")
    _require(
        bool((shapes % 2 == 1).all() and (shapes <= psf.shape).all()), "kernel_shapes are not odd and within shape"
    )
    for i, (rows, columns) in enumerate(shapes.tolist()):
        top, left = (ny - rows) // 2, (nx - columns) // 2
        inner = kernels[i, top : top + rows, left : left + columns]
        same = np.count_nonzero(kernels[i]) == np.count_nonzero(inner)
        _require(same, f"the kernel at ({x[i]}, {y[i]}) has light outside of its kernel_shapes")

    before = kernels.copy()
    for i in range(x.size):
        single = psf.kernels(x[i : i + 1], y[i : i + 1])
        _require_same(single[0], before[i], f"the kernel at ({x[i]}, {y[i]}) depends on the batch it is made in")
    _require_same(psf.kernels(x[::-1], y[::-1])[::-1], before, "kernels depend on the order of the positions")
    _require_same(kernels, before, "a later evaluation changed an array returned earlier")

    empty = psf.kernels(np.empty(0), np.empty(0))
    _require(empty.shape == (0, ny, nx), f"no positions give shape {empty.shape}, not {(0, ny, nx)}")
    _require(empty.dtype == np.float64, f"no positions give {empty.dtype}, not float64")

    if kernels.flags.writeable:
        kernels[...] = np.nan
        _require_same(psf.kernels(x, y), before, "writing into a result changes the model")

    outside = psf.flux_outside(x, y)
    _require(
        isinstance(outside, np.ndarray) and outside.dtype == np.float64 and outside.shape == x.shape,
        "flux_outside is not a float64 array with one value for each position",
    )
    _require(bool(np.isfinite(outside).all()), "flux_outside is not finite everywhere")
    _require(psf.flux_outside(np.empty(0), np.empty(0)).shape == (0,), "flux_outside of no positions is not empty")

    copy = pickle.loads(pickle.dumps(psf))
    _require(type(copy) is type(psf) and copy.shape == psf.shape, "a pickled copy is of another type or shape")
    _require(copy == psf and hash(copy) == hash(psf), "a pickled copy is not equal to the model")
    _require_same(copy.kernels(x, y), before, "a pickled copy gives other kernels")
    _require(copy.valid_box == psf.valid_box, "a pickled copy has another valid_box")
    _require(copy.average_position == psf.average_position, "a pickled copy has another average_position")
    for array in _arrays(copy):
        _require(not array.flags.writeable, "a pickled copy can be changed: one of its arrays is writeable")

    box = psf.valid_box
    _require(box is None or isinstance(box, Box), f"valid_box is a {type(box).__name__}")
    average = psf.average_position
    _require(
        average is None or (len(average) == 2 and bool(np.isfinite(average).all())),
        f"average_position is {average!r}, neither None nor a finite (x, y)",
    )
    _require(bool(psf.description) and "\n" not in psf.description, "description is not one line of text")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_same(actual: NDArray[np.float64], expected: NDArray[np.float64], message: str) -> None:
    if actual.shape != expected.shape or actual.tobytes() != expected.tobytes():
        raise AssertionError(message)


def _arrays(psf: PSF) -> list[NDArray[np.float64]]:
    """Collect the arrays that the model's public properties return."""
    values = (getattr(psf, name) for name in dir(type(psf)) if isinstance(getattr(type(psf), name), property))
    return [value for value in values if isinstance(value, np.ndarray)]
