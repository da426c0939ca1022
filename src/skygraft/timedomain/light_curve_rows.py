"""Light curves in a campaign: what they add to each row of the catalogue, and which are stored beside a partition.

A row gets the key of its curve, which is made from the curve's values: an image is made again if a curve of one of its
sources changes. A row without magnitudes of its own gets the curve's first and last time as its window, so that images
at other times do not have it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import numpy_array, one_array
from skygraft.catalog.flags import Flag
from skygraft.catalog.schema import bands_of, strings, values
from skygraft.errors import CatalogError
from skygraft.timedomain.ephemerides import ephemerides_of_file
from skygraft.timedomain.ephemeris_curves import joined_curves
from skygraft.timedomain.light_curves import KEY_COLUMN, LightCurves

__all__ = ["BESIDE", "LightCurveRows", "unknown_curves"]

BESIDE = "light_curves.parquet"
"""Name of the table beside a partition."""

_EDGE = 1e-6
"""Days: windows are this much wider than the curve, more than times are rounded."""
_LISTED = 5
_ARRAYS = ("ids", "starts", "mjd", "flux", "keys")


def unknown_curves(ids: NDArray[np.int64], names: NDArray[np.str_], path: str = "") -> CatalogError:
    """Make the error for rows whose light curve is not in the table.

    Parameters
    ----------
    ids : ndarray of int64, shape (N,)
        Their injection ids, N >= 1.
    names : ndarray of str, shape (N,)
        What they have in the column `light_curve`.
    path : str
        The table's file.

    Returns
    -------
    CatalogError
    """
    listed = ", ".join(f"{str(name)!r} (injection_id {i})" for i, name in list(zip(ids, names, strict=True))[:_LISTED])
    return CatalogError(
        f"the table of light curves does not have those of {ids.size} sources: {listed}"
        + (", ..." if ids.size > _LISTED else ""),
        path=path or None,
        row=f"injection_id {ids[0]}",
        key="light_curve",
        fix="Add these light curves to the table, or correct the column; or keep the rows undrawn with on_bad='flag' "
        "(in a campaign, catalog: {on_bad: flag})",
    )


@dataclass(frozen=True)
class LightCurveRows:
    """The step of a campaign's preparation that gives rows their light curves.

    See `skygraft.catalog.partition.Preparation`.

    It is small: processes share the curves through files in a folder, which they map into memory.

    Parameters
    ----------
    path : Path or None
        The table; None if there are the ephemerides' magnitudes only.
    folder : Path
        Where the curves are kept while the catalogue is partitioned, seen by all processes.
    on_bad : {"raise", "flag"}
        Whether rows whose light curve is not in the table are an error, or are flagged.
    ephemerides : Path or None
        Table of ephemerides whose magnitudes are light curves too, of the pieces of its objects.
    """

    path: Path | None
    folder: Path
    on_bad: Literal["raise", "flag"] = "raise"
    ephemerides: Path | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the tables' files."""
        digests = []
        for path in (self.path, self.ephemerides):
            if path is None:
                continue
            if not path.is_file():
                raise CatalogError("there is no such file", path=path, key="light_curves", fix="Check the path")
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("path", "folder", "on_bad", "ephemerides", "digest")}

    @property
    def curves(self) -> LightCurves:
        """The light curves, memory-mapped; the first use reads the table."""
        folder = self.folder / f"light_curves-{self.digest[:16]}"
        if not folder.is_dir():
            _store(self._read(), folder)
        return _opened(str(folder))

    def _read(self) -> LightCurves:
        own = None if self.ephemerides is None else ephemerides_of_file(self.ephemerides).light_curves()
        given = None if self.path is None else LightCurves.read(self.path)
        if own is not None and given is not None:
            return joined_curves(given, own)
        found = own if given is None else given
        assert found is not None
        return found

    def rows(self, chunk: QTable) -> QTable:
        """Rows with the key of each one's curve (-1 for none), and the window in which it is seen.

        Parameters
        ----------
        chunk : QTable
            Canonical rows.

        Returns
        -------
        QTable
            With the columns ``light_curve_key``, ``mjd_from`` and ``mjd_to``.

        Raises
        ------
        CatalogError
            If there is no column ``light_curve``, or a curve is not in the table and `on_bad` is ``raise``.
        """
        if "light_curve" not in chunk.colnames:
            raise CatalogError(
                "there is a table of light curves, and the catalogue has no column light_curve",
                path=self.path,
                key="light_curve",
                fix="Add the id of each source's light curve, or remove catalog.light_curves",
            )
        out, curves = chunk.copy(copy_data=False), self.curves
        names = strings(chunk, "light_curve")
        rows = np.flatnonzero(names != "")
        curve = curves.find(names[rows])
        if (unknown := curve < 0).any():
            ids = values(chunk, "injection_id")[rows[unknown]]
            if self.on_bad == "raise":
                raise unknown_curves(ids, names[rows[unknown]], str(self.path or ""))
            flags = values(chunk, "flags").copy()
            flags[rows[unknown]] |= int(Flag.NO_LIGHT_CURVE)
            out["flags"] = flags
            rows, curve = rows[~unknown], curve[~unknown]
        keys = np.full(len(chunk), -1, dtype=np.int64)
        keys[rows] = curves.keys[curve]
        out[KEY_COLUMN] = keys
        begin, end = (values(chunk, name).copy() for name in ("mjd_from", "mjd_to"))
        bare = np.all([np.isnan(values(chunk, f"mag_{band}")[rows]) for band in bands_of(chunk)], axis=0)
        # A window that has both ends is as narrow as it needs to be, and the way of a piece depends on it.
        bare = bare & ~(np.isfinite(begin[rows]) & np.isfinite(end[rows]))
        rows, curve = rows[bare], curve[bare]
        first, last = curves.support(curve)
        shift = values(chunk, "time_delay")[rows] + np.nan_to_num(values(chunk, "light_curve_mjd")[rows], nan=0.0)
        begin[rows] = np.fmax(begin[rows], first + shift - _EDGE)
        end[rows] = np.fmin(end[rows], last + shift + _EDGE)
        out["mjd_from"], out["mjd_to"] = begin * u.d, end * u.d
        return out

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """Yield nothing: a table of light curves has no sources of its own."""
        del ids, like
        yield from ()

    def beside(self, partition: pa.Table) -> dict[str, pa.Table]:
        """The curves of a partition's rows, by the name of their file; none where no row has one."""
        keys = numpy_array(one_array(partition.column(KEY_COLUMN)))
        keys = np.unique(keys[keys >= 0])
        if not keys.size:
            return {}
        return {BESIDE: self.curves.stored(self.curves.find_keys(keys))}


def _store(curves: LightCurves, folder: Path) -> None:
    """Write light curves as arrays that can be mapped into memory; the folder appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".light_curves-", dir=folder.parent))
    try:
        for name in _ARRAYS:
            np.save(half / f"{name}.npy", getattr(curves, name))
        (half / "bands.json").write_text(json.dumps(curves.bands))
        half.rename(folder)
    except OSError:
        shutil.rmtree(half, ignore_errors=True)
        if not folder.is_dir():  # else another process was faster
            raise


@functools.lru_cache(maxsize=2)
def _opened(folder: str) -> LightCurves:
    arrays = {name: np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return LightCurves(bands=tuple(json.loads(Path(folder, "bands.json").read_text())), **arrays)
