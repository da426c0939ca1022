"""Write LSST-style calexps and their source catalogues with only astropy and starlink-pyast.

The layout is that of an afw exposure: image, mask and variance planes, then an archive of tables with the WCS (an AST
frame set as text), the PSF (PSFEx), the photometric calibration (a Chebyshev field) and the filter. The writer shares
no code with skygraft's reader, so that the demo is an independent test of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from starlink import Ast

__all__ = ["ChebyshevCalib", "PsfexModel", "ast_wcs_text", "write_calexp", "write_src"]

MASK_PLANES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA",
)  # fmt: skip


@dataclass(frozen=True)
class ChebyshevCalib:
    """A calibration over a detector, nJy per count: a sum of Chebyshev polynomials T_i(x') T_j(y').

    Parameters
    ----------
    coefficients : ndarray, shape (ny, nx)
        Coefficient of T_i(x') T_j(y') at [j, i], nJy/count; x' and y' go from -1 to 1 between the outer pixel edges.
    error : float
        Standard error of the mean calibration, nJy/count.
    """

    coefficients: NDArray[np.float64]
    error: float

    def evaluate(self, x: NDArray[Any], y: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return nJy per count at 0-based pixel positions of a detector of `shape` (ny, nx)."""
        ny, nx = shape
        u = 2 * (np.asarray(x, dtype=float) + 0.5) / nx - 1
        v = 2 * (np.asarray(y, dtype=float) + 0.5) / ny - 1
        return np.asarray(np.polynomial.chebyshev.chebval2d(u, v, self.coefficients.T))


@dataclass(frozen=True)
class PsfexModel:
    """A PSFEx model: oversampled components times the terms of a quadratic polynomial of position.

    Parameters
    ----------
    components : ndarray of float32, shape (6, n, n)
        Components of the terms 1, u, u2, v, uv, v2.
    step : float
        Pixels per sample.
    offset, scale : (float, float)
        u = (x - offset) / scale, per axis, in 0-based pixels.
    average : (float, float)
        Mean position of the stars that the model was fitted to.
    """

    components: NDArray[np.float32]
    step: float
    offset: tuple[float, float]
    scale: tuple[float, float]
    average: tuple[float, float]


def ast_wcs_text(header: fits.Header) -> str:
    """Convert a TAN-SIP header to AST's text dump of a frame set from 0-based pixels to ICRS radians."""
    cards = [str(card)[:80].ljust(80) for card in header.cards]
    read = Ast.FitsChan(cards)
    from_grid = read.read()
    # AST's base frame is the FITS grid, whose first pixel is 1: shift it to 0.
    mapping = Ast.CmpMap(Ast.ShiftMap([1.0, 1.0]), from_grid.getmapping(Ast.BASE, Ast.CURRENT), True).simplify()
    frames = Ast.FrameSet(Ast.Frame(2, "Domain=PIXELS"))
    frames.addframe(Ast.BASE, mapping, Ast.SkyFrame("System=ICRS"))
    sink: list[str] = []
    Ast.Channel(None, _Sink(sink), "Comment=0").write(frames)
    return "\n".join(sink) + "\n"


class _Sink:
    """Collects the lines that an AST channel writes."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def astsink(self, line: str) -> None:
        self.lines.append(line)


def write_calexp(
    path: Path,
    *,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    wcs_header: fits.Header,
    psf: PsfexModel,
    calib: ChebyshevCalib,
    band: str,
    physical_filter: str,
    visit_cards: Mapping[str, Any],
) -> None:
    """Write one calexp.

    Parameters
    ----------
    path : Path
        Output file; replaced if it exists.
    image, variance, mask : ndarray, shape (ny, nx)
        Counts, counts squared, and bits numbered as in `MASK_PLANES`.
    wcs_header : Header
        FITS TAN-SIP cards, written to the planes and, as AST text, to the archive.
    psf, calib
        PSF and photometric calibration.
    band, physical_filter : str
        Names for the filter label.
    visit_cards : mapping
        Cards of the primary header: EXPTIME, DATE-AVG, INSTRUMENT, ...
    """
    archive = _Archive()
    ny, nx = image.shape
    ids = {
        "FILTER": archive.add("FilterLabel", "lsst.afw.image", [_filter_label(band, physical_filter)]),
        "PSF": archive.add("PsfexPsf", "lsst.meas.extensions.psfex", _psfex_tables(psf)),
        "SKYWCS": archive.add("SkyWcs", "lsst.afw.geom", [_sky_wcs(ast_wcs_text(wcs_header))]),
    }
    field = archive.add("ChebyshevBoundedField", "lsst.afw.math", [_chebyshev(calib, nx, ny)])
    ids["PHOTOCALIB"] = archive.add("PhotoCalib", "", [_photo_calib(calib, field)])

    primary = fits.PrimaryHDU()
    primary.header["HIERARCH EXPINFO_V"] = 2
    primary.header["AR_HDU"] = (5, "HDU (1-indexed) with the archive index")
    for name, number in ids.items():
        comment = f"archive id of {name}"
        primary.header[f"{name}_ID" if len(name) < 6 else f"HIERARCH {name}_ID"] = (number, comment)
        primary.header[f"HIERARCH ARCHIVE_ID_{name}"] = (number, comment)
    for key, value in visit_cards.items():
        primary.header[key if len(key) <= 8 else f"HIERARCH {key}"] = value

    hdus: list[Any] = [primary]
    for name, plane, unit in (("IMAGE", image, "adu"), ("MASK", mask, ""), ("VARIANCE", variance, "adu**2")):
        header = fits.Header()
        header.extend(wcs_header.copy(strip=True), update=True)
        header["LTV1"], header["LTV2"] = 0.0, 0.0
        header["BUNIT"], header["INHERIT"], header["EXTTYPE"] = unit, True, name
        if name == "MASK":
            for bit, plane_name in enumerate(MASK_PLANES):
                header[f"{'' if len(plane_name) < 6 else 'HIERARCH '}MP_{plane_name}"] = bit
        for axis, kind in ((1, "Column"), (2, "Row")):
            header[f"CTYPE{axis}A"] = ("LINEAR", "Type of projection")
            header[f"CRPIX{axis}A"] = (1.0, f"{kind} of the reference pixel")
            header[f"CRVAL{axis}A"] = (0.0, f"{kind} in the parent image")
            header[f"CUNIT{axis}A"] = "PIXEL"
        hdus.append(fits.ImageHDU(plane, header, name=name))
    fits.HDUList([*hdus, *archive.hdus()]).writeto(path, overwrite=True)


def write_src(
    path: Path,
    *,
    columns: Mapping[str, NDArray[Any]],
    radius: float,
) -> None:
    """Write the source catalogue of a calexp, whose schema records the calibration aperture.

    Parameters
    ----------
    path : Path
        Output file; replaced if it exists.
    columns : mapping of str to ndarray, shape (N,)
        ``id``, ``coord_ra`` and ``coord_dec`` in radians, and measurements.
    radius : float
        Radius of the calibration aperture, pixels: ``slot_CalibFlux`` points to the flux with this radius.
    """
    field = f"base_CircularApertureFlux_{int(radius)}_{round(radius % 1 * 10)}"
    formats = {"i": "K", "f": "D", "b": "L"}
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format=formats[values.dtype.kind], array=values,
                        unit="rad" if name.startswith("coord_") else None)
            for name, values in columns.items()
        ]
    )  # fmt: skip
    for alias in (f"slot_ApFlux:{field}", f"slot_CalibFlux:{field}", "slot_Centroid:base_SdssCentroid"):
        table.header.append(fits.Card("ALIAS", alias))
    table.header.append(fits.Card("HIERARCH base_CircularApertureFlux_radii", radius))
    table.header["HIERARCH AFW_TABLE_VERSION"] = 3
    table.header["AFW_TYPE"] = "SOURCE"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


# One table of the archive: its columns and its flags.
type _Table = tuple[list[fits.Column], Mapping[str, bool]]


class _Archive:
    """The archive: tables with the exposure's components, and their index."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int, str, str]] = []
        self.tables: list[tuple[str, _Table]] = []
        self.last_id = 0

    def add(self, name: str, module: str, tables: Sequence[_Table]) -> int:
        """Store an object, as one row in each of its tables, and return its id."""
        self.last_id += 1
        for number, table in enumerate(tables):
            self.tables.append((name, table))
            self.rows.append((self.last_id, len(self.tables), number, 0, 1, name, module))
        return self.last_id

    def hdus(self) -> list[fits.BinTableHDU]:
        names = ("id", "cat.archive", "cat.persistable", "row0", "nrows", "name", "module")
        index = fits.BinTableHDU.from_columns(
            [
                fits.Column(name=name, format="64A" if i > 4 else "J", array=[row[i] for row in self.rows])
                for i, name in enumerate(names)
            ]
        )
        index.header["EXTTYPE"] = index.header["EXTNAME"] = "ARCHIVE_INDEX"
        index.header["AR_CATN"] = (0, "number of this catalog in the archive")
        index.header["AR_NCAT"] = (len(self.tables) + 1, "number of catalogs in the archive")
        index.header["HIERARCH AFW_TABLE_VERSION"] = 3
        hdus = [index]
        for number, (name, (columns, flags)) in enumerate(self.tables, start=1):
            hdu = fits.BinTableHDU.from_columns([*_flag_column(flags), *columns])
            for i, flag in enumerate(flags, start=1):
                hdu.header["FLAGCOL"] = 1
                hdu.header[f"TFLAG{i}"] = flag
            hdu.header["EXTTYPE"] = "ARCHIVE_DATA"
            hdu.header["AR_CATN"] = number
            hdu.header["AR_NAME"] = hdu.header["EXTNAME"] = name
            hdu.header["EXTVER"] = 1 + sum(previous == name for previous, _ in self.tables[: number - 1])
            hdu.header["HIERARCH AFW_TABLE_VERSION"] = 3
            hdus.append(hdu)
        return hdus


def _flag_column(flags: Mapping[str, bool]) -> list[fits.Column]:
    if not flags:
        return []
    return [fits.Column(name="flags", format=f"{len(flags)}X", array=np.array([list(flags.values())]))]


def _column(name: str, kind: str, value: Any) -> fits.Column:
    array = np.asarray(value).ravel()
    return fits.Column(name=name, format=f"{array.size}{kind}", array=array[np.newaxis] if array.size > 1 else array)


def _filter_label(band: str, physical: str) -> _Table:
    columns = [
        fits.Column(name="band", format="32A", array=[band]),
        fits.Column(name="physical", format="32A", array=[physical]),
    ]
    return columns, {"band_exists": True, "physical_exists": True}


def _sky_wcs(text: str) -> _Table:
    content = np.frombuffer(f"1 SkyWcs 0 {text}".encode(), dtype=np.uint8)
    holder = np.empty(1, dtype=object)
    holder[0] = content
    return [fits.Column(name="wcs", format="QB()", array=holder)], {}


def _chebyshev(calib: ChebyshevCalib, nx: int, ny: int) -> _Table:
    order_x = calib.coefficients.shape[1] - 1
    boxes = {"bbox_min_x": 0, "bbox_min_y": 0, "bbox_max_x": nx - 1, "bbox_max_y": ny - 1}
    return [
        _column("order_x", "J", order_x),
        *(_column(name, "J", value) for name, value in boxes.items()),
        _column("coefficients", "D", calib.coefficients),
    ], {}


def _photo_calib(calib: ChebyshevCalib, field: int) -> _Table:
    # The mean of the field follows from the integral of T_n over -1..1: 2/(1-n^2) for even n, zero for odd n.
    ny, nx = calib.coefficients.shape
    mean_t = [0.0 if n % 2 else 1 / (1 - n * n) for n in range(max(nx, ny))]
    mean = float(np.array(mean_t[:ny]) @ calib.coefficients @ np.array(mean_t[:nx]))
    return [
        _column("calibrationMean", "D", mean),
        _column("calibrationErr", "D", calib.error),
        _column("field", "J", field),
        _column("version", "J", 1),
    ], {"isConstant": False}


def _psfex_tables(psf: PsfexModel) -> list[_Table]:
    n_components, ny, nx = psf.components.shape
    sizes = {"ndim": 2, "ngroup": 1, "ncoeff": n_components, "_size_size": 3,
             "_comp_size": psf.components.size, "_context_size": 2}  # fmt: skip
    first = [
        *(_column(name, "J", value) for name, value in sizes.items()),
        _column("averagePosition_x", "D", psf.average[0]),
        _column("averagePosition_y", "D", psf.average[1]),
        _column("_pixstep", "E", psf.step),
    ]
    second = [
        _column("group", "J", [0, 0]),
        _column("degree", "J", 2),
        _column("basis", "D", np.zeros(n_components)),
        _column("coeff", "D", np.zeros(n_components)),
        _column("_size", "J", [nx, ny, n_components]),
        _column("_comp", "E", psf.components),
        _column("_context_first", "D", psf.offset),
        _column("_context_second", "D", psf.scale),
    ]
    return [(first, {}), (second, {})]
