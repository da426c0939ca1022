"""Write images in the format and layout of the files that they were read from."""

from __future__ import annotations

import os
from pathlib import Path

from skygraft.errors import FormatError, OutputError
from skygraft.exposure import CUT_FROM, Exposure
from skygraft.formats.available import get_format
from skygraft.formats.base import FILES, StrPath, check_unchanged, refuse_overwrite
from skygraft.formats.recognise import recognise_format
from skygraft.place_names import STUBS_KIND, as_kind, is_copy

__all__ = ["write_exposure"]


def write_exposure(
    exposure: Exposure,
    path: StrPath,
    *,
    like: StrPath | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write an exposure in the format and layout of the file that it was read from.

    All pixels and HDUs that injection did not change are copied unchanged.

    Parameters
    ----------
    exposure : Exposure
        An exposure from `read_exposure`, with changed planes.
    path : path-like
        The image file to write; companion files (weights, masks) are named after it.
    like : path-like, optional
        The file whose layout is followed, by default ``exposure.path``.
    format : str, optional
        Its format, by default ``exposure.format``.
    overwrite : bool
        Replace an output that exists. The input is never overwritten.

    Returns
    -------
    tuple of Path
        All files written, the image first. Each appears under its name when it is complete, the image last.

    Raises
    ------
    OutputExistsError
        If an output exists and `overwrite` is false, or is the input.
    OutputError
        If the output cannot be written, or there is no file whose layout to follow.
    FormatError
        If the files that the exposure was read from have been deleted or changed, or the exposure is a cut-out.
    """
    if CUT_FROM in exposure.extra:
        box, (ny, nx) = exposure.extra[CUT_FROM], exposure.shape
        raise FormatError(
            f"the exposure is a cut-out of {nx} x {ny} pixels from {box.x_max - box.x_min:g} x "
            f"{box.y_max - box.y_min:g}, and files are written in the layout of a whole image",
            path=path,
            fix="Write it with exposure.to_ccddata().write(path), or inject into the whole image",
        )
    like = exposure.path if like is None else like
    if like is None:
        raise OutputError(
            "the exposure was not read from a file, so there is no file to follow", path=path, fix="Give like="
        )
    stamps = exposure.extra.get(FILES, {})
    if is_copy(like) and as_kind(like, STUBS_KIND) == Path(like):
        raise FormatError(
            "the exposure was opened to read parts of it, and an output copies the whole image",
            path=like,
            fix="Read it with skygraft.read_exposure",
        )
    refuse_overwrite(path, [os.fspath(like), *stamps], overwrite=overwrite)
    if exposure.path is not None and Path(like) == Path(exposure.path):
        check_unchanged(stamps)
    name = format if format is not None else exposure.format
    fmt = recognise_format(like) if name in (None, "auto") else get_format(str(name))
    folder = Path(path).parent
    if not folder.is_dir():
        raise OutputError(f"there is no directory {os.fspath(folder)!r}", path=path, fix="Make it first")
    return fmt.write(exposure, path, like=like, overwrite=overwrite)
