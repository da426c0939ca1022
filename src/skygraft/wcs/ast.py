"""World coordinate systems stored as AST frame sets (Berry et al. 2016, Astronomy & Computing 15, 33).

The LSST pipelines and lsst.images store astrometry in this form: any chain of mappings, which a FITS header can only
approximate.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import MissingWcsError, WcsError
from skygraft.lazy import lazy_module
from skygraft.wcs.ast_dump import ast_errors, read_dump
from skygraft.wcs.ast_mapping import read_mapping
from skygraft.wcs.base import CelestialWcs, FloatArray, to_vectors

Ast = lazy_module("starlink.Ast")

__all__ = ["AstWcs"]

# "<stream version> SkyWcs <has a FITS approximation> <dump>", as lsst.afw writes it.
_SKYWCS_PREFIX = re.compile(r"\s*(?P<version>\d+)\s+SkyWcs\s+(?P<approximation>[01])\s+")
# AST's own inverse is used if its round trip closes within this (pixels): inside an image it is what the survey's
# pipelines used. Far outside, its polynomials are off by hundreds of pixels, and the inverse is solved iteratively.
_TRUSTED = 0.1
_BAD = -1e300


class AstWcs(CelestialWcs):
    """The world coordinate system of an AST frame set, from parent pixels to ICRS.

    Parameters
    ----------
    text : str
        AST's native dump of a FrameSet: base frame 0-based parent pixels, current frame a SkyFrame.
    path : path-like, optional
        The file, for errors.

    Raises
    ------
    WcsError
        If the text is not such a frame set.

    Notes
    -----
    An inverse polynomial in the frame set is used unchanged, because the survey's own positions were computed with it,
    except where it is off by more than 0.1 pixel (outside the image). There the forward mapping is inverted by Newton's
    method; the result is NaN if that does not converge.
    """

    def __init__(self, text: str, path: str | None = None) -> None:
        self._text = text.strip()
        self._path = path
        self._frames = _read(text, path)
        # AST's error status is global to the process.
        self._lock = threading.Lock()
        with ast_errors("the AST frame set cannot be used", path):
            self._swapped = int(self._frames.getframe(self._frames.Current).LonAxis) == 2

    @classmethod
    def from_skywcs(cls, record: str | bytes | NDArray[np.uint8], path: str | None = None) -> AstWcs:
        """Build the WCS from a ``SkyWcs`` record of an LSST exposure's archive.

        Parameters
        ----------
        record : str, bytes or ndarray of uint8
            Value of the record's column ``wcs``: ``"1 SkyWcs <0 or 1> "`` followed by the dump.
        path : str, optional
            The file, for errors.

        Raises
        ------
        WcsError
            If the record has another layout, or its WCS cannot be used.
        """
        if isinstance(record, np.ndarray):
            record = record.astype(np.uint8).tobytes()
        if not isinstance(record, (str, bytes)):
            raise WcsError(f"not a SkyWcs record: it is {record!r}, not text", path=path, fix="Copy the file again")
        text = record if isinstance(record, str) else record.decode("ascii", errors="replace")
        prefix = _SKYWCS_PREFIX.match(text)
        if prefix is None or prefix["version"] != "1":
            raise WcsError(
                f"not a SkyWcs record of version 1: it begins {text[:40]!r}",
                path=path,
                fix="Read the image with the pipelines that wrote it, and write it again with a current version",
            )
        return cls(text[prefix.end() :], path)

    @classmethod
    def from_mapping(cls, text: str, path: str | None = None) -> AstWcs:
        """Build the WCS from an AST mapping of 0-based parent pixels to ICRS longitude and latitude in radians.

        Parameters
        ----------
        text : str
            AST's native dump of the mapping, as stored by ``lsst.images``.
        path : str, optional
            The file, for errors.

        Raises
        ------
        WcsError
            If it cannot be read, or is not a mapping from two axes to two axes.
        """
        mapping = read_mapping(text, path)
        lines: list[str] = []
        with ast_errors("AST cannot use the mapping as a WCS", path):
            frames = Ast.FrameSet(Ast.Frame(2, "Domain=PIXELS"))
            frames.addframe(Ast.BASE, mapping, Ast.SkyFrame("System=ICRS"))
            Ast.Channel(None, _Lines(lines)).write(frames)
        return cls("\n".join(lines), path)

    @property
    def text(self) -> str:
        """AST's native dump."""
        return self._text

    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        ra, dec = self.pixel_to_world_radians(x, y)
        return np.degrees(ra), np.degrees(dec)

    def pixel_to_world_radians(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ICRS (ra, dec) in radians as AST computes them; see `CelestialWcs.pixel_to_world_radians`."""
        first, second = self._tran(np.stack([x, y]), forward=True)
        return (second, first) if self._swapped else (first, second)

    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        ok = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        sky = np.radians(np.where(ok, [ra, dec], np.nan))
        x, y = self._tran(sky[::-1] if self._swapped else sky, forward=False)
        target = to_vectors(ra, dec)
        with np.errstate(all="ignore"):
            miss = np.hypot(*self._newton_step(x, y, target))
            astray = np.flatnonzero(ok & ~(miss <= _TRUSTED))
            if len(astray):
                x[astray], y[astray] = self._solve(x[astray], y[astray], target[astray])
        return x, y

    def _solve(self, x: FloatArray, y: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Invert the forward mapping by Newton's method from a rough start; NaN where it does not converge."""
        for _ in range(20):
            dx, dy = self._newton_step(x, y, target)
            x, y = x + dx, y + dy
            if not (np.hypot(dx, dy) > 1e-7).any():
                break
        # Check the distance too: at the antipode the steps vanish although the position is wrong.
        dx, dy = self._newton_step(x, y, target)
        near = np.einsum("ni,ni->n", to_vectors(*self._forward(x, y)), target) > 0
        good = near & (np.hypot(dx, dy) < 1e-5)
        return np.where(good, x, np.nan), np.where(good, y, np.nan)

    def _tran(self, points: FloatArray, *, forward: bool) -> FloatArray:
        with self._lock, np.errstate(all="ignore"), ast_errors("AST cannot evaluate the WCS", self._path):
            result = np.array(self._frames.tran(np.ascontiguousarray(points), forward), dtype=np.float64)
        result[:, ~(np.isfinite(result) & (result > _BAD)).all(axis=0)] = np.nan
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return (AstWcs, (self._text, self._path))

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, AstWcs) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        kinds = sorted(set(re.findall(r"Begin (\w+Map)\b", self._text)) - {"CmpMap"})
        return f"<AstWcs {', '.join(kinds)}>"


class _Lines:
    """Collects the lines that an AST channel writes."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def astsink(self, line: str) -> None:
        self._lines.append(line)


def _read(text: str, path: str | None) -> Any:
    """Read a FrameSet and set its current frame to ICRS; a wrong frame, which would shift every source, is an error."""
    frames = read_dump(text, "the WCS", path)
    with ast_errors("the AST frame set cannot be used", path):
        return _checked(frames, path)


def _checked(frames: Any, path: str | None) -> Any:
    fix = "Read the image with the pipelines that wrote it, and check its WCS"
    if not isinstance(frames, Ast.FrameSet) or (frames.Nin, frames.Nout) != (2, 2):
        kind = type(frames).__name__
        raise WcsError(f"the AST dump of the WCS is a {kind}, not a FrameSet of two by two axes", path=path, fix=fix)
    base, current = frames.getframe(frames.Base), frames.getframe(frames.Current)
    if not isinstance(current, Ast.SkyFrame):
        raise MissingWcsError(
            f"the AST frame set ends in a frame of domain {current.Domain!r}, not on the sky",
            path=path,
            fix="Use an image whose astrometry has been solved",
        )
    if str(base.Domain).upper() == "GRID":
        raise WcsError(
            "the AST frame set begins with 1-based GRID pixels; 0-based parent pixels (PIXELS) are needed",
            path=path,
            fix="Add a frame PIXELS, one less than GRID, and make it the base frame",
        )
    if str(current.System) != "ICRS":
        # Setting this attribute of a frame set makes AST add the conversion to the mapping.
        frames.System = "ICRS"
    if not (int(frames.TranForward) and int(frames.TranInverse)):
        raise WcsError("the AST frame set does not map in both directions", path=path, fix=fix)
    return frames
