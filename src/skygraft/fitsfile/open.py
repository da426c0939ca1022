"""Open FITS files, with errors that name what is damaged and where.

astropy opens a truncated file without complaint, and fails or pads with zeros much later. Here the size of every HDU
is computed from its header (FITS standard 4.0, section 4.4.1) and compared with the file before anything is read.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import mmap
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from skygraft.errors import CorruptFileError, SkygraftError
from skygraft.fitsfile.packed import foreign_packing, packing_of, unpack, unpacked_head
from skygraft.fitsfile.structure import BLOCK, CARD, COPY_AGAIN, read_structure

__all__ = [
    "CONVERSIONS",
    "HduSpan",
    "RawFits",
    "fits_errors",
    "is_fits",
    "map_fits",
    "open_fits",
    "scan_fits",
]

CONVERSIONS = (KeyError, IndexError, TypeError, ValueError, OverflowError, ZeroDivisionError)
"""Exceptions that Python and numpy raise when a number, column or row is missing from a damaged file."""


@dataclass(frozen=True)
class HduSpan:
    """Byte positions of one HDU in a file.

    Parameters
    ----------
    index : int
        Number of the HDU, 0 for the primary one.
    start : int
        First byte of the header.
    data_start : int
        First byte of the data.
    data_size : int
        Bytes of data, without padding.
    end : int
        First byte after the HDU and its padding (or the end of the file, if the last padding is missing).
    """

    index: int
    start: int
    data_start: int
    data_size: int
    end: int


@dataclass(frozen=True)
class RawFits:
    """The bytes of a FITS file and the positions of its HDUs.

    Parameters
    ----------
    path : Path
        The file.
    buffer : memoryview
        Its bytes, decompressed if the file was compressed as a whole.
    spans : tuple of HduSpan
        The HDUs, in order.
    packed : bool
        Whether the file was compressed as a whole.
    """

    path: Path
    buffer: memoryview
    spans: tuple[HduSpan, ...]
    packed: bool

    def header_cards(self, index: int) -> list[bytes]:
        """Return the 80-byte cards of the header of one HDU, without END."""
        span = self.spans[index]
        raw = bytes(self.buffer[span.start : span.data_start])
        cards = [raw[i : i + CARD] for i in range(0, len(raw), CARD)]
        return cards[: _end_card(cards)]


def _end_card(cards: list[bytes]) -> int:
    for i, card in enumerate(cards):
        if card[:8] == b"END     ":
            return i
    return len(cards)


def scan_fits(buffer: memoryview, path: str | os.PathLike[str]) -> tuple[HduSpan, ...]:
    """Find the HDUs of a FITS file, and check that the file contains each of them completely.

    Parameters
    ----------
    buffer : memoryview
        The bytes of the (uncompressed) file.
    path : path-like
        Name of the file, for errors.

    Returns
    -------
    tuple of HduSpan
        Bytes after the last HDU that are not an extension ("special records") belong to no HDU.

    Raises
    ------
    CorruptFileError
        If the file is empty, is not FITS, ends inside a header or inside data, or has contradictory headers (see
        `read_structure`).
    """
    size = len(buffer)
    if size == 0:
        raise CorruptFileError("the file is empty", path=path, fix=COPY_AGAIN)
    if bytes(buffer[:9]) != b"SIMPLE  =":
        packed = foreign_packing(buffer)
        if packed is not None:
            raise CorruptFileError(f"the file is {packed[0]}", path=path, fix=f"Decompress it first ({packed[1]})")
        raise CorruptFileError(
            f"this is not a FITS file: it starts with {bytes(buffer[:9])!r}, not with 'SIMPLE  ='",
            path=path,
            fix="Give a FITS file, or name the format that it is in",
        )
    spans: list[HduSpan] = []
    start = 0
    while start < size:
        head = bytes(buffer[start : start + 8])
        if spans and head != b"XTENSION"[: len(head)]:
            _refuse_lost(buffer, start, path, len(spans))
            break
        data_start, data_size = read_structure(buffer, start, path, len(spans), first=not spans)
        end = min(data_start + -(-data_size // BLOCK) * BLOCK, size)
        spans.append(HduSpan(len(spans), start, data_start, data_size, end))
        start = end
    return tuple(spans)


def _refuse_lost(buffer: memoryview, start: int, path: str | os.PathLike[str], hdu: int) -> None:
    """Raise if an HDU begins after the end of the last one: a wrong size in a header would make it invisible."""
    for place in range(start + BLOCK, len(buffer), BLOCK):
        if bytes(buffer[place : place + 10]) == b"XTENSION= ":
            raise CorruptFileError(
                f"the next HDU should begin at byte {start}, and there is none; one begins at byte {place}",
                path=path,
                hdu=hdu,
                fix=COPY_AGAIN,
            )


def is_fits(path: str | os.PathLike[str]) -> bool:
    """Return whether a file starts like a FITS file, compressed or not; False if it cannot be read."""
    return unpacked_head(path, 9) == b"SIMPLE  ="


def _first_beyond(error: BaseException) -> str:
    """Name of the package that raised an error: the first one that skygraft's innermost frame called into."""
    package, trace = "skygraft", error.__traceback__
    beyond = True
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0]
        if name == "skygraft":
            package, beyond = name, True
        elif beyond:
            package, beyond = name, False
        trace = trace.tb_next
    return package


@contextlib.contextmanager
def fits_errors(path: str | os.PathLike[str], *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Context in which exceptions that astropy raises for a damaged file become errors that name the file.

    astropy parses cards when they are accessed and assumes complete headers, so damage can surface anywhere. Other
    exceptions pass unchanged.

    Parameters
    ----------
    path : path-like
        The file.
    also : tuple of exception classes
        Further exceptions to convert, where bytes of the file are parsed directly: `CONVERSIONS`.

    Raises
    ------
    CorruptFileError
    """
    try:
        yield
    except (SkygraftError, MemoryError):
        raise
    except fits.VerifyError as error:
        raise CorruptFileError(
            f"a header card is not FITS ({str(error).split(', fix it')[0].rstrip('.')})",
            path=path,
            fix="Correct the card, such as one with NaN for a number, or remove it",
        ) from error
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise CorruptFileError(f"a compressed tile is damaged ({error})", path=path, fix=COPY_AGAIN) from error
    except RecursionError as error:
        raise CorruptFileError("its parts refer to each other in a circle", path=path, fix=COPY_AGAIN) from error
    except Exception as error:
        by_astropy = _first_beyond(error) == "astropy"
        if not by_astropy and not isinstance(error, also):
            raise
        what = "astropy cannot read the file" if by_astropy else "a header or a table of the file is damaged"
        reason = str(error).strip().strip('"').rstrip(".") or type(error).__name__
        raise CorruptFileError(f"{what} ({reason})", path=path, fix=COPY_AGAIN) from error


class _LastUnpacked(threading.local):
    """The bytes of the last file that was decompressed, and its identity."""

    identity: tuple[Any, ...] | None = None
    content: bytes = b""


_LAST = _LastUnpacked()
_MOST_KEPT = 1 << 26
"""Largest decompressed file that is kept, in bytes: reading one image opens its file several times."""


def _unpacked(stream: IO[bytes], packing: str, path: Path) -> memoryview:
    """Return the decompressed bytes of a file; those of the last one are kept for the next call."""
    status = os.fstat(stream.fileno())
    identity = (os.fspath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity == _LAST.identity:
        return memoryview(_LAST.content)
    content = unpack(stream, packing, path)
    if len(content) <= _MOST_KEPT:
        _LAST.identity, _LAST.content = identity, content
    return memoryview(content)


@contextlib.contextmanager
def map_fits(path: str | os.PathLike[str]) -> Iterator[RawFits]:
    """Map the bytes of a FITS file into memory, and check them with `scan_fits`.

    Parameters
    ----------
    path : path-like
        A FITS file, plain, tile-compressed, or compressed as a whole (gzip, bzip2, xz, Zstandard); a file compressed as
        a whole is decompressed into memory.

    Yields
    ------
    RawFits

    Raises
    ------
    CorruptFileError
        If the file is missing, unreadable, empty, not FITS or truncated.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(path.open("rb"))
            size = os.fstat(stream.fileno()).st_size
            packing = packing_of(stream.read(6))
            stream.seek(0)
            if packing is not None:
                buffer = _unpacked(stream, packing, path)
            elif size == 0:
                buffer = memoryview(b"")
            else:
                # Never closed explicitly: arrays that view the map may outlive this context.
                buffer = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise CorruptFileError("there is no such file", path=path, fix="Check the name") from error
        except IsADirectoryError as error:
            raise CorruptFileError("this is a directory", path=path, fix="Give the name of one file") from error
        except OSError as error:
            if isinstance(error, CorruptFileError):
                raise
            raise CorruptFileError(
                f"the file cannot be read ({error.strerror or error})", path=path, fix="Check its permissions"
            ) from error
        with fits_errors(path):
            yield RawFits(path, buffer, scan_fits(buffer, path), packing is not None)


@contextlib.contextmanager
def open_fits(path: str | os.PathLike[str], *, memmap: bool = True, decompress: bool = True) -> Iterator[fits.HDUList]:
    """Open a FITS file with astropy after `scan_fits` has checked that it is complete.

    Parameters
    ----------
    path : path-like
        A FITS file, plain, tile-compressed, or compressed as a whole (gzip, bzip2, xz, Zstandard).
    memmap : bool
        Memory-map uncompressed data, which are then read when they are used.
    decompress : bool
        Present tile-compressed images as images; otherwise as the binary tables that store them.

    Yields
    ------
    astropy.io.fits.HDUList
        astropy's warnings about non-standard cards are silenced while the file is open.

    Raises
    ------
    CorruptFileError
        If the file is missing, unreadable, empty, not FITS or truncated, or a compressed tile is damaged.
    """
    with map_fits(path) as raw, warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.filterwarnings("ignore", category=AstropyUserWarning, module=r"astropy\.io\.fits")
        source: Any = io.BytesIO(raw.buffer) if raw.packed else os.fspath(raw.path)
        # None, not True: with True astropy refuses to map scaled images; by default it reads them into memory.
        options = {} if raw.packed else {"memmap": None if memmap else False}
        with fits_errors(path):
            hdus = fits.open(source, mode="readonly", disable_image_compression=not decompress, **options)
            with hdus:
                yield hdus
