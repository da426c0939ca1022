"""Mappings between two pixel frames, stored as AST dumps: TransformPoint2ToPoint2 of the LSST pipelines."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import WcsError
from skygraft.lazy import lazy_module
from skygraft.wcs.ast_dump import ast_errors, read_dump

Ast = lazy_module("starlink.Ast")

__all__ = ["AstMapping", "read_mapping"]

_PREFIX = re.compile(r"(?P<version>\d+) TransformPoint2ToPoint2 ")
_BAD = -1e300
"""AST's bad value is the lowest double; values near it are not positions."""


def read_mapping(text: str, path: str | None = None) -> Any:
    """Read an AST mapping from two axes to two axes.

    Parameters
    ----------
    text : str
        AST's native dump.
    path : str, optional
        The file, for errors.

    Raises
    ------
    WcsError
        If the dump cannot be read, or contains another object.
    """
    mapping = read_dump(text, "a mapping", path)
    with ast_errors("the AST mapping cannot be used", path):
        fits = isinstance(mapping, Ast.Mapping) and (mapping.Nin, mapping.Nout) == (2, 2)
    if not fits:
        kind = type(mapping).__name__
        raise WcsError(f"the AST dump of a mapping is a {kind}, not a mapping of two by two axes", path=path)
    return mapping


class AstMapping:
    """A mapping of two-dimensional positions.

    Parameters
    ----------
    text : str
        AST's native dump of a mapping.
    inverted : bool, optional
        Use the inverse of the mapping.

    Raises
    ------
    WcsError
        If the dump cannot be read, or the mapping is not two-dimensional or not defined in that direction.
    """

    def __init__(self, text: str, *, inverted: bool = False) -> None:
        mapping = read_mapping(text)
        with ast_errors("the AST mapping cannot be used"):
            defined = int(mapping.TranInverse if inverted else mapping.TranForward)
        if not defined:
            raise WcsError(f"the transform has no {'inverse' if inverted else 'forward direction'}")
        self._text, self._inverted, self._mapping = text, inverted, mapping
        self._lock = threading.Lock()  # AST objects are not thread-safe

    @classmethod
    def from_record(cls, record: NDArray[np.uint8], *, inverted: bool = False) -> AstMapping:
        """Build the mapping from the column ``bytes`` of a ``TransformPoint2ToPoint2`` record.

        Parameters
        ----------
        record : ndarray of uint8
            Value of the column.
        inverted : bool, optional
            Use the inverse of the mapping.

        Raises
        ------
        WcsError
            If the record has another layout, or the mapping cannot be used.
        """
        text = np.asarray(record, dtype=np.uint8).tobytes().decode("ascii", errors="replace")
        prefix = _PREFIX.match(text)
        if prefix is None or prefix["version"] != "1":
            raise WcsError(f"not a TransformPoint2ToPoint2 record of version 1: it begins {text[:40]!r}")
        return cls(text[prefix.end() :], inverted=inverted)

    def __call__(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map positions x and y, each shape (N,); NaN where the mapping is undefined."""
        points = np.ascontiguousarray(np.stack([x, y]), dtype=np.float64)
        with self._lock, np.errstate(all="ignore"), ast_errors("AST cannot evaluate the transform"):
            mapped = np.array(self._mapping.tran(points, not self._inverted), dtype=np.float64)
        mapped[:, ~(np.isfinite(mapped) & (mapped > _BAD)).all(axis=0)] = np.nan
        return mapped[0], mapped[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._text, self._inverted)

    def __eq__(self, other: object) -> bool:
        return (
            (self._text, self._inverted) == (other._text, other._inverted)
            if isinstance(other, AstMapping)
            else NotImplemented
        )

    def __hash__(self) -> int:
        return hash((self._text, self._inverted))


def _restore(text: str, inverted: bool) -> AstMapping:
    return AstMapping(text, inverted=inverted)
