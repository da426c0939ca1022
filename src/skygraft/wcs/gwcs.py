"""World coordinate systems stored as gwcs pipelines (https://gwcs.readthedocs.io), as JWST and Roman images have them.

A gwcs is a chain of astropy models between coordinate frames: the full distortion of a detector, which the FITS header
of the same image only approximates. It needs the extra ``skygraft[asdf]``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from skygraft.errors import ConfigError, SkygraftError, WcsError
from skygraft.wcs.base import CelestialWcs, FloatArray, to_vectors

__all__ = ["GwcsWcs", "open_asdf", "read_gwcs", "require_asdf"]

_KEY = "wcs"
_CONVERGED, _ROUND_TRIP = 1e-9, 1e-6
"""Pixels: steps of Newton's method at which it stops, and the largest error of an accepted inverse."""
_STEPS = 30
_INSTALL = "pip install 'skygraft[asdf]'"
_UPDATE = "Update the packages: pip install --upgrade gwcs asdf-astropy asdf"
_FIX = "Read the image with the software that wrote it, and check its WCS"


def require_asdf(what: str, path: str | os.PathLike[str] | None = None) -> None:
    """Raise unless the packages that read ASDF files and their WCS are installed.

    Parameters
    ----------
    what : str
        What needs them, for the error.
    path : path-like, optional
        The file, for the error.

    Raises
    ------
    ConfigError
        If one is missing; the error says how to install them.
    """
    missing = [name for name in ("asdf", "asdf_astropy", "gwcs") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} needs the Python packages asdf, asdf-astropy and gwcs, and {', '.join(missing)} is not installed",
            path=path,
            fix=f"Install them: {_INSTALL}",
        )


@contextlib.contextmanager
def open_asdf(
    source: str | os.PathLike[str] | bytes,
    what: str,
    *,
    path: str | os.PathLike[str] | None = None,
    hdu: int | str | None = None,
    fix: str | None = None,
    lazy: bool = True,
) -> Iterator[Any]:
    """Open an ASDF file for reading, with skygraft's errors instead of those of asdf and of the packages behind it.

    Parameters
    ----------
    source : path-like or bytes
        The file, or its content.
    what : str
        What is read from it, for errors: ``"the WCS in roman.meta"``.
    path, hdu : path-like, int or str, optional
        Where it is from, for errors; by default `source`.
    fix : str, optional
        What to do where it fails.
    lazy : bool, optional
        Whether parts of the tree are converted when they are asked for, which leaves those of packages that are not
        installed alone.

    Yields
    ------
    asdf.AsdfFile
        Closed afterwards.

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    WcsError
        If it cannot be opened, or what is done with it fails.
    """
    where = path if path is not None or isinstance(source, bytes) else source
    require_asdf(what, where)
    import asdf

    options: dict[str, Any] = {"lazy_load": True, "lazy_tree": True} if lazy else {"lazy_load": False}
    try:
        with warnings.catch_warnings():
            # Of extensions that are not installed: the rest of the tree is not converted.
            warnings.simplefilter("ignore")
            opened = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
            with asdf.open(opened, memmap=False, **options) as file:
                yield file
    except SkygraftError:
        raise
    except Exception as error:
        raise WcsError(f"{what} cannot be read: {_line(error)}", path=where, hdu=hdu, fix=fix or _FIX) from error


def read_gwcs(
    source: str | os.PathLike[str] | bytes,
    keys: Sequence[str],
    *,
    path: str | os.PathLike[str] | None = None,
    hdu: int | str | None = None,
    fix: str | None = None,
) -> GwcsWcs | None:
    """Read the gwcs in an ASDF file.

    Parameters
    ----------
    source : path-like or bytes
        The file, or its content.
    keys : sequence of str
        The way to it in the tree; the last key may be absent.
    path, hdu, fix
        As for `open_asdf`.

    Returns
    -------
    GwcsWcs or None
        None if there is none.

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    WcsError
        If the file cannot be read, or the gwcs not used.
    """
    *before, last = keys
    what = f"the WCS in {'.'.join(before)}" if hdu is None else f"the WCS in the {hdu} extension"
    with open_asdf(source, what, path=path, hdu=hdu, fix=fix or _UPDATE) as file:
        node = file
        for key in before:
            node = node[key]
        pipeline = node.get(last)
        where = path if path is not None or isinstance(source, bytes) else source
        return None if pipeline is None else GwcsWcs.of(pipeline, where)


class GwcsWcs(CelestialWcs):
    """The celestial WCS of a gwcs pipeline, from parent pixels (those of the array) to ICRS.

    Parameters
    ----------
    content : bytes
        An ASDF file without binary blocks that holds the pipeline under the key ``wcs``; see `GwcsWcs.of`.
    path : path-like, optional
        The image, for errors.

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    WcsError
        If it is no pipeline from two pixel axes to two celestial axes, or needs software that is not installed.

    Notes
    -----
    The pipeline's bounding box is not applied: sources beyond the edges of an image are placed too. Positions are
    inverted by Newton's method on the forward transform, from the pipeline's own inverse where it has one: inverse
    polynomials of distortions are only good to some hundredths of a pixel. Where that does not converge to 1e-6 pixel,
    the result is NaN.
    """

    def __init__(self, content: bytes, path: str | os.PathLike[str] | None = None) -> None:
        require_asdf("a WCS of gwcs", path)
        self._content = bytes(content)
        self._path = None if path is None else os.fspath(path)
        self._pipeline = _checked(_read(self._content, path), path)

    @classmethod
    def of(cls, pipeline: Any, path: str | os.PathLike[str] | None = None) -> GwcsWcs:
        """Build the WCS of a `gwcs.wcs.WCS`.

        Parameters
        ----------
        pipeline : gwcs.wcs.WCS
            The pipeline; it is stored as ASDF text.
        path : path-like, optional
            The image, for errors.

        Returns
        -------
        GwcsWcs

        Raises
        ------
        ConfigError, WcsError
        """
        require_asdf("a WCS of gwcs", path)
        import asdf

        _checked(pipeline, path)
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asdf.AsdfFile({_KEY: pipeline}).write_to(buffer, all_array_storage="inline")
        except Exception as error:
            raise WcsError(f"the gwcs pipeline cannot be stored: {_line(error)}", path=path, fix=_FIX) from error
        return cls(buffer.getvalue(), path)

    @cached_property
    def _transform(self) -> tuple[Any, bool, bool]:
        """Forward model, whether it works with units, and whether latitude comes first."""
        model = self._pipeline.forward_transform
        order = tuple(self._pipeline.output_frame.axes_order)
        return model, bool(getattr(model, "uses_quantity", False)), order == (1, 0)

    @cached_property
    def _inverse_model(self) -> Any:
        try:
            return self._pipeline.backward_transform
        except Exception:
            return None

    @cached_property
    def _to_icrs(self) -> Any:
        """The frame of the sky, None for ICRS."""
        frame = self._pipeline.output_frame.reference_frame
        return None if frame.name == "icrs" else frame

    @cached_property
    def _start(self) -> tuple[float, float]:
        """A pixel in the middle of the image, as far as the pipeline says."""
        try:
            box = self._pipeline.bounding_box
            (x0, x1), (y0, y1) = box if isinstance(box, tuple) else tuple(box.bounding_box(order="F"))
            return (_plain(x0) + _plain(x1)) / 2, (_plain(y0) + _plain(y1)) / 2
        except Exception:
            shape = getattr(self._pipeline, "pixel_shape", None)
            return (0.0, 0.0) if shape is None else (shape[0] / 2, shape[1] / 2)

    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        model, with_units, swapped = self._transform
        # Models read a length-one axis as a model set; nothing is evaluated for no positions at all.
        if not x.size:
            return np.empty_like(x), np.empty_like(x)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, second = model(*((x * u.pix, y * u.pix) if with_units else (x, y)))
        lon, lat = (_degrees(v) for v in ((second, first) if swapped else (first, second)))
        good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90)
        lon, lat = np.where(good, lon, np.nan), np.where(good, lat, np.nan)
        if self._to_icrs is None:
            return lon, lat
        return _converted(lon, lat, self._to_icrs, "icrs")

    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        ok = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        ra, dec = np.where(ok, ra, np.nan), np.where(ok, dec, np.nan)
        target = to_vectors(ra, dec)
        x, y = self._first_guess(ra, dec)
        open_ = np.flatnonzero(ok)
        with np.errstate(all="ignore"):
            for _ in range(_STEPS):
                dx, dy = self._newton_step(x[open_], y[open_], target[open_])
                x[open_] += dx
                y[open_] += dy
                open_ = open_[np.isfinite(dx) & np.isfinite(dy) & (np.hypot(dx, dy) > _CONVERGED)]
                if not len(open_):
                    break
            # Check the distance too: at the antipode the steps vanish although the position is wrong.
            dx, dy = self._newton_step(x, y, target)
            near = np.einsum("ni,ni->n", to_vectors(*self._forward(x, y)), target) > 0
            good = near & (np.hypot(dx, dy) < _ROUND_TRIP)
        return np.where(good, x, np.nan), np.where(good, y, np.nan)

    def _first_guess(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pixels from the pipeline's own inverse; where it has none, from a linear map around the image's middle."""
        model, with_units, swapped = self._inverse_model, self._transform[1], self._transform[2]
        x0, y0 = self._start
        x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
        if model is not None and ra.size:
            lon, lat = (ra, dec) if self._to_icrs is None else _converted(ra, dec, "icrs", self._to_icrs)
            world = (lat, lon) if swapped else (lon, lat)
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = model(*((v * u.deg for v in world) if with_units else world))
                x, y = (np.array(np.broadcast_to(_plain(v), ra.shape), dtype=np.float64) for v in found)
            except Exception:  # a model without an inverse says so when it is evaluated
                self.__dict__["_inverse_model"] = None
        lost = ~(np.isfinite(x) & np.isfinite(y))
        x[lost], y[lost] = x0, y0
        return x, y

    def __reduce__(self) -> tuple[Any, ...]:
        return (GwcsWcs, (self._content, self._path))

    def __eq__(self, other: object) -> bool:
        return self._content == other._content if isinstance(other, GwcsWcs) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._content)

    def __repr__(self) -> str:
        frames = " -> ".join(str(name) for name in self._pipeline.available_frames)
        return f"<GwcsWcs {frames}, {hashlib.blake2b(self._content, digest_size=4).hexdigest()}>"


def _read(content: bytes, path: str | os.PathLike[str] | None) -> Any:
    with open_asdf(content, "the gwcs pipeline", path=path, lazy=False) as file:
        return file[_KEY]


def _checked(pipeline: Any, path: str | os.PathLike[str] | None) -> Any:
    """Return a pipeline that ends on the sky; anything else is an error."""
    import gwcs
    from gwcs import coordinate_frames

    if not isinstance(pipeline, gwcs.WCS):
        tag = getattr(pipeline, "_tag", None)
        what = f"it is tagged {tag}" if tag else f"it is a {type(pipeline).__name__}"
        raise WcsError(
            f"the WCS cannot be read by the installed gwcs {gwcs.__version__}: {what}",
            path=path,
            fix=_UPDATE,
        )
    frame = pipeline.output_frame
    if not isinstance(frame, coordinate_frames.CelestialFrame):
        raise WcsError(
            f"the WCS ends in the frame {getattr(frame, 'name', frame)!r}, which has more than celestial axes: this is "
            "no direct image",
            path=path,
            fix="Give an image, not a spectrum",
        )
    try:
        model = pipeline.forward_transform
        n_inputs, n_outputs = model.n_inputs, model.n_outputs
        if (n_inputs, n_outputs) != (2, 2):
            raise WcsError(f"the WCS maps {n_inputs} axes to {n_outputs}, not two to two", path=path, fix=_FIX)
    except SkygraftError:
        raise
    except Exception as error:
        raise WcsError(f"the gwcs pipeline cannot be used: {_line(error)}", path=path, fix=_FIX) from error
    return pipeline


def _degrees(values: Any) -> FloatArray:
    plain = values.to_value(u.deg) if isinstance(values, u.Quantity) else values
    return np.asarray(plain, dtype=np.float64)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, u.Quantity) else value


def _converted(lon: FloatArray, lat: FloatArray, before: Any, after: Any) -> tuple[FloatArray, FloatArray]:
    good = np.isfinite(lon) & np.isfinite(lat)
    sky = SkyCoord(np.where(good, lon, 0.0), np.where(good, lat, 0.0), unit="deg", frame=before).transform_to(after)
    new = sky.represent_as("unitspherical")
    return (
        np.where(good, new.lon.degree, np.nan),
        np.where(good, new.lat.degree, np.nan),
    )


def _line(error: Exception) -> str:
    """First line of an error's text, short enough for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
