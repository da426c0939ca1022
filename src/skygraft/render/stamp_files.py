"""Images of sources that are injected as they are: read from FITS, HDF5 and Zarr, and kept while they are in use.

How a file is named is in `skygraft.catalog.stamp_paths`. Of cubes one plane at a time is read, of many in one file
with the file opened once. What was read last stays in memory, as far as it fits into a fixed number of bytes, and is
found again by the file's size and time of last change.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.stamp_paths import BAND, StampAddress, identity_of, is_remote, parse_stamp
from skygraft.errors import CorruptFileError, InjectionError, MissingWcsError, SkygraftError
from skygraft.fitsfile.open import open_fits
from skygraft.wcs import local_jacobian, read_fits_wcs

__all__ = ["MOST_PIXELS", "ByteCache", "Stamp", "read_stamp", "read_stamps"]

MOST_PIXELS = 1 << 24
"""Largest stamp: 4096 by 4096 pixels."""
_LEAST_SUM = 1e-6
"""Smallest sum of the pixels, as a part of the sum of their absolute values, that can be scaled to a magnitude."""
_CACHED_BYTES = 256 << 20
_NONE = ("", "None", "nan", "--")
"""Text of empty cells."""
_WCS_KEY = re.compile(r"(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]|RADESYS|EQUINOX|LONPOLE|LATPOLE")
_THIRD_AXIS = re.compile(
    r"NAXIS[3-9]|WCSAXES|(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME)[3-9]|(?:CD|PC)(?:[3-9]_\d|\d_[3-9])"
)
_ON_SKY = re.compile(r"RA\b|RA--|DEC\b|DEC-|[GESH]?L(ON|AT)")
_GIVE_INDEX = "Give its number, from 0, in the column stamp_index"


@dataclass(frozen=True, eq=False)
class Stamp:
    """An image of a source.

    Parameters
    ----------
    pixels : ndarray of float, shape (ny, nx)
        As in the file.
    jacobian : ndarray, shape (2, 2), or None
        Arcsec per stamp pixel, rows (East, North), at its centre; None where the file has no celestial WCS.
    key : hashable
        What it was read from: file, its size and time, plane.
    total, absolute : float
        Sums of its pixels and of their absolute values.
    """

    pixels: NDArray[Any]
    jacobian: NDArray[np.float64] | None
    key: Hashable
    total: float
    absolute: float

    @property
    def image(self) -> NDArray[np.float64]:
        """Pixels normalised to a sum of one, shape (ny, nx)."""
        return self.pixels.astype(np.float64) / self.total

    def check_flux(self, path: str) -> None:
        """Raise unless it can be scaled to a magnitude.

        Raises
        ------
        InjectionError
            If the sum of its pixels is not positive, or nothing but rounding errors.
        """
        if not self.total > _LEAST_SUM * self.absolute:
            raise InjectionError(
                f"the stamp's pixels sum to {self.total:g}; a positive sum is needed to scale it to a magnitude",
                path=path,
                fix="Subtract the background, or take the flux from the pixels: stamp_flux stamp and stamp_zeropoint",
            )


class ByteCache[T]:
    """What was used last, as far as it fits into a number of bytes; safe between threads.

    Parameters
    ----------
    limit : int
        Bytes. One object that is larger is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._found: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes that are held."""
        return self._held

    def get(self, key: Hashable) -> T | None:
        """Return what is kept under a key, or None."""
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key][0]

    def put(self, key: Hashable, value: T, n_bytes: int) -> None:
        """Keep a value, and forget what was not used for longest."""
        with self._lock:
            if key in self._found or n_bytes > self._limit:
                return
            self._found[key] = value, n_bytes
            self._held += n_bytes
            while self._held > self._limit:
                _, (_, freed) = self._found.popitem(last=False)
                self._held -= freed

    def made(self, key: Hashable, make: Callable[[], T], n_bytes: Callable[[T], int]) -> T:
        """Return what is kept under a key, or make it and keep it."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value, n_bytes(value))
        return value


_stamps: ByteCache[Stamp] = ByteCache(_CACHED_BYTES)


def read_stamp(path: str | Path, index: int = -1) -> Stamp:
    """Read a stamp.

    Parameters
    ----------
    path : path-like
        As in the column ``stamp`` of a catalogue, absolute.
    index : int, optional
        Number of the plane in a cube, or of the image in a FITS file of several; -1 for the only one, or the first.

    Raises
    ------
    CorruptFileError
        If the file cannot be read.
    InjectionError
        If it holds no such image, or one with pixels that are not finite, or a WCS that cannot be used.
    """
    (found,) = read_stamps([str(path)], [index])
    if isinstance(found, Exception):
        raise found
    return found


def read_stamps(paths: Sequence[str], indices: Sequence[int]) -> list[Stamp | Exception]:
    """Read some stamps, each file opened once; what cannot be read is the error instead.

    Parameters
    ----------
    paths, indices : sequence of str and of int, length N
        As in `read_stamp`.

    Returns
    -------
    list, length N
    """
    found: dict[tuple[str, int], Stamp | Exception] = {}
    wanted: OrderedDict[StampAddress, list[tuple[str, int]]] = OrderedDict()
    for item in dict.fromkeys(zip(paths, indices, strict=True)):
        try:
            wanted.setdefault(_address(item[0]), []).append(item)
        except SkygraftError as error:
            found[item] = error
    for address, items in wanted.items():
        found |= _read_file(address, items)
    return [found[item] for item in zip(paths, indices, strict=True)]


def _address(path: str) -> StampAddress:
    if path.strip() in _NONE:
        raise InjectionError(
            "a Stamp needs the path of its image in the column stamp, or stamp_<band>",
            key="stamp",
            fix="Give the path; a row without a magnitude in a band needs none there",
        )
    if is_remote(path):
        raise InjectionError("a stamp cannot be read over the network", path=path, fix="Copy it to a disk")
    if BAND in path:
        raise InjectionError(f"the band of the image, which {BAND} stands for, is not known", path=path, key="band")
    return parse_stamp(path.strip())


def _read_file(address: StampAddress, items: list[tuple[str, int]]) -> dict[tuple[str, int], Stamp | Exception]:
    """Read the stamps that are in one file (one HDU, one array)."""
    found: dict[tuple[str, int], Stamp | Exception] = {}
    try:
        identity = identity_of(address)
        left = []
        for item in items:
            kept = _stamps.get((address, item[1], identity))
            if kept is None:
                left.append(item)
            else:
                found[item] = kept
        if not left:
            return found
        with _opened(address) as planes:
            for item in left:
                key = address, item[1], identity
                try:
                    stamp = _checked(address, key, *planes(item[1]))
                except (SkygraftError, *_LIBRARY_ERRORS) as error:
                    found[item] = _reason(address, error)
                    continue
                _stamps.put(key, stamp, stamp.pixels.nbytes + 1000)
                found[item] = stamp
    except (SkygraftError, *_LIBRARY_ERRORS) as error:
        reason = _reason(address, error)
        return dict.fromkeys(items, reason) | found
    return found


_LIBRARY_ERRORS = (OSError, TypeError, ValueError, LookupError, RuntimeError, AttributeError, MemoryError)
"""What h5py, zarr and astropy raise for damaged files."""


def _reason(address: StampAddress, error: Exception) -> SkygraftError:
    if isinstance(error, SkygraftError):
        return error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    made = CorruptFileError(
        f"the stamp cannot be read ({text})", path=address.path, fix="Check the catalogue's stamp column, and the file"
    )
    made.__cause__ = error
    return made


type _Planes = Callable[[int], tuple[NDArray[Any], Mapping[str, Any] | None]]
"""Gives the pixels of a plane, and the cards of its WCS."""


@contextmanager
def _opened(address: StampAddress) -> Iterator[_Planes]:
    if address.kind == "hdf5":
        import h5py

        # Without locks: shared file systems often have none, and nothing is written.
        with h5py.File(address.path, "r", locking=False) as file:
            dataset, attributes = _dataset(address, file)
            yield lambda index: (_plane(address, dataset, index), attributes)
    elif address.kind == "zarr":
        import zarr

        try:
            array: Any = zarr.open(str(address.path), path=address.part, mode="r")
        except (FileNotFoundError, KeyError) as error:
            raise _no_such(address, "array") from error
        if not hasattr(array, "shape"):
            inside = ", ".join(sorted(name for name, _ in array.arrays())[:10]) or "none"
            raise InjectionError(
                f"{address.part or 'the store'} is a group, with the arrays {inside}",
                path=address.path,
                fix="Name the array: store.zarr/array",
            )
        attributes = dict(array.attrs)

        def plane(index: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
            _check_chunks(address, array, index)
            return _plane(address, array, index), attributes

        yield plane
    else:
        with open_fits(address.path, memmap=False) as hdus:
            yield lambda index: _fits_plane(address, hdus, index)


def _no_such(address: StampAddress, kind: str, there: Sequence[str] = ()) -> InjectionError:
    has = f"; there are {', '.join(there[:10])}" if there else ""
    return InjectionError(
        f"there is no {kind} {address.part!r}{has}", path=address.path, fix="Correct the catalogue's stamp column"
    )


def _dataset(address: StampAddress, file: Any) -> tuple[Any, dict[str, Any]]:
    import h5py

    there: list[str] = []

    def note(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset) and thing.ndim >= 2:
            there.append(name)

    if address.part in file and isinstance(file[address.part], h5py.Dataset):
        dataset = file[address.part]
    else:
        file.visititems(note)
        if address.part or len(there) != 1:
            raise _no_such(address, "dataset", there)
        dataset = file[there[0]]
    plain = {key: value.decode() if isinstance(value, bytes) else value for key, value in dataset.attrs.items()}
    return dataset, plain


def _plane(address: StampAddress, array: Any, index: int) -> NDArray[Any]:
    """Read one plane of an array with sections, without the others."""
    shape = tuple(int(n) for n in array.shape)
    _check_shape(address, shape)
    if (kind := getattr(array, "dtype", None)) is not None:
        _check_type(address, kind)  # before reading: text of any length takes any memory
    if len(shape) == 2:
        if index > 0:
            raise _out_of_range(address, index, 1)
        return np.asarray(array[:, :])
    lead = shape[:-2]
    n = int(np.prod(lead))
    if index < 0 and n > 1:
        raise InjectionError(
            f"the array has {n} planes of {shape[-1]} x {shape[-2]} pixels, and the row says none of them",
            path=address.path,
            key="stamp_index",
            fix=_GIVE_INDEX,
        )
    if index >= n:
        raise _out_of_range(address, index, n)
    return np.asarray(array[(*np.unravel_index(max(index, 0), lead), slice(None), slice(None))])


def _out_of_range(address: StampAddress, index: int, n: int) -> InjectionError:
    return InjectionError(
        f"stamp_index is {index}, and there {'is one stamp' if n == 1 else f'are {n} stamps'}: 0"
        + (f" to {n - 1}" if n > 1 else ""),
        path=address.path,
        key="stamp_index",
        fix="Correct it; the first stamp is 0",
    )


def _check_shape(address: StampAddress, shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or len(shape[:-2]) - shape[:-2].count(1) > 1 or 0 in shape:
        raise InjectionError(
            f"the array has the shape {shape}; a stamp has two axes, and several of one size three",
            path=address.path,
            fix="Name an image, or a cube of images",
        )
    if shape[-1] * shape[-2] > MOST_PIXELS:
        raise InjectionError(
            f"the stamp has {shape[-1]} x {shape[-2]} pixels; {MOST_PIXELS:,} in all are the most that is drawn",
            path=address.path,
            fix="Cut out the part with light",
        )


def _fits_plane(address: StampAddress, hdus: Any, index: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
    """Read a plane: of the HDU that is named; else of the first cube, if an index is given; else the first image."""
    images = [hdu for hdu in hdus if getattr(hdu, "is_image", False) and len(hdu.shape) >= 2]
    flat = [hdu for hdu in images if set(hdu.shape[:-2]) <= {1}]
    if address.part:
        hdu, plane = _named(address, hdus), index
    elif not images:
        raise InjectionError(
            "no HDU holds a two-dimensional image", path=address.path, fix="Give a FITS image as stamp"
        )
    elif index >= 0 and len(flat) < len(images):
        hdu, plane = next(hdu for hdu in images if hdu not in flat), index
    elif index >= 0:
        if index >= len(flat):
            raise _out_of_range(address, index, len(flat))
        hdu, plane = flat[index], -1
    else:
        hdu, plane = (flat or images)[0], -1
    return _plane(address, _Section(hdu), plane), hdu.header


class _Section:
    """The pixels of an image HDU, of which only those are read that are asked for."""

    def __init__(self, hdu: Any) -> None:
        self._hdu, self.shape = hdu, hdu.shape

    def __getitem__(self, which: Any) -> Any:
        return self._hdu.section[which]


def _named(address: StampAddress, hdus: Any) -> Any:
    name, _, version = (part.strip() for part in address.part.partition(","))
    which: Any = int(name) if name.isdigit() else (name, int(version)) if version.isdigit() else name
    try:
        hdu = hdus[which]
    except (KeyError, IndexError):
        raise _no_such(address, "HDU", [hdu.name or str(i) for i, hdu in enumerate(hdus)]) from None
    if not getattr(hdu, "is_image", False) or len(hdu.shape) < 2:
        raise InjectionError(f"the HDU {address.part!r} holds no image", path=address.path, fix="Name another one")
    return hdu


def _check_type(address: StampAddress, kind: np.dtype[Any]) -> None:
    if kind.kind not in "fiub":
        raise InjectionError(f"the pixels are of type {kind}; numbers are needed", path=address.path)


def _check_chunks(address: StampAddress, array: Any, index: int) -> None:
    """Refuse chunks of a plane that are shorter than their header says: Blosc reads on in what follows in memory."""
    if array.shards is not None or not array.compressors or "blosc" not in type(array.compressors[-1]).__name__.lower():
        return
    if array.ndim < 2 or 0 in array.shape or max(index, 0) >= np.prod(array.shape[:-2]):
        return  # there is no such plane
    lead = np.unravel_index(max(index, 0), array.shape[:-2]) if array.ndim > 2 else ()
    ranges = [range(int(i) // n, int(i) // n + 1) for i, n in zip(lead, array.chunks, strict=False)]
    ranges += [range(-(-s // n)) for s, n in zip(array.shape[-2:], array.chunks[-2:], strict=True)]
    for place in itertools.product(*ranges):
        path = address.path / array.path / array.metadata.encode_chunk_key(place)
        if not path.is_file():
            continue  # a chunk of nothing but the fill value
        with path.open("rb") as file:
            head = file.read(16)
        if len(head) < 16 or int.from_bytes(head[12:], "little") != path.stat().st_size:
            raise CorruptFileError(
                f"the chunk {path.name} of {array.path!r} has {path.stat().st_size} bytes, and its header says "
                f"{int.from_bytes(head[12:], 'little')}",
                path=address.path,
                fix="Copy the store again",
            )


def _checked(address: StampAddress, key: Hashable, pixels: NDArray[Any], cards: Mapping[str, Any] | None) -> Stamp:
    _check_type(address, pixels.dtype)
    single = pixels.dtype.kind == "f" and pixels.dtype.itemsize <= 4
    pixels = np.ascontiguousarray(pixels, dtype=np.float32 if single else np.float64)
    pixels.setflags(write=False)
    total, absolute = float(pixels.sum(dtype=np.float64)), float(np.abs(pixels).sum(dtype=np.float64))
    if not np.isfinite(absolute):
        bad = int(np.count_nonzero(~np.isfinite(pixels)))
        raise InjectionError(
            f"{bad} of the stamp's {pixels.size} pixels are not finite",
            path=address.path,
            fix="Replace blank pixels by zero and subtract the background",
        )
    if absolute == 0:
        raise InjectionError("the stamp's pixels are all zero", path=address.path, fix="Give an image with light")
    return Stamp(pixels, _jacobian(address, pixels.shape, cards or {}), key, total, absolute)


def _jacobian(address: StampAddress, shape: tuple[int, ...], cards: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Jacobian at the stamp's centre, of the WCS in its header or attributes; None where there is none."""
    from astropy.io import fits

    if address.kind == "fits":
        header = cards.copy()  # type: ignore[attr-defined]
        for name in [name for name in header if _THIRD_AXIS.fullmatch(name)]:
            del header[name]
        header["NAXIS"] = 2
    else:
        header = fits.Header({name: cards[name] for name in cards if _WCS_KEY.fullmatch(name)})
        if "CTYPE1" not in header and "pixel_scale" in cards:
            scale = float(cards["pixel_scale"])
            square = np.diag([-scale, scale])
            _check_jacobian(address, square)
            return square
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, shape[1], shape[0]
    for name in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        # A stamp needs a scale and an orientation, but no position on the sky.
        header.setdefault(name, 0.0)
    try:
        wcs = read_fits_wcs(header, path=address.path)
    except MissingWcsError:
        half = [
            f"{name} = {header[name]!r}" for name in ("CTYPE1", "CTYPE2") if _ON_SKY.match(str(header.get(name, "")))
        ]
        if half:
            raise InjectionError(
                f"the stamp's WCS is not whole: it has {' and '.join(half)}",
                path=address.path,
                fix="Write CTYPE1 and CTYPE2 of the two axes of the sky, or neither",
            ) from None
        return None
    ny, nx = shape
    jacobian: NDArray[np.float64] = local_jacobian(wcs, np.array([(nx - 1) / 2.0]), np.array([(ny - 1) / 2.0]))[0]
    _check_jacobian(address, jacobian)
    return jacobian


def _check_jacobian(address: StampAddress, jacobian: NDArray[np.float64]) -> None:
    size = float(np.abs(jacobian).max())
    if not (np.isfinite(size) and abs(np.linalg.det(jacobian)) > 1e-9 * size**2):
        raise InjectionError(
            "the stamp's WCS maps its pixels to a line, or to nothing",
            path=address.path,
            fix="Correct its CD or PC matrix and CDELT, or use stamp_alignment pixel",
        )
