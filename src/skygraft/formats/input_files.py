"""Files that images are read from and written to: their identities, and what is never overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import CorruptFileError, FormatError, OutputExistsError

__all__ = ["check_unchanged", "identify_files", "refuse_overwrite"]

type StrPath = str | os.PathLike[str]


def identify_files(paths: Iterable[StrPath]) -> dict[str, FileIdentity]:
    """Identities of files, by path; taken *before* a file is read, so that a later change is noticed.

    Raises
    ------
    CorruptFileError
        If a file does not exist, is a directory, or is empty.
    """
    identities: dict[str, FileIdentity] = {}
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise CorruptFileError(
                f"the file cannot be opened ({error.strerror or error})",
                path=path,
                fix="Check the path and permissions",
            ) from error
        if stat.S_ISDIR(status.st_mode):
            raise CorruptFileError("this is a directory", path=path, fix="Give a file in it")
        if status.st_size == 0:
            raise CorruptFileError("the file is empty (0 bytes)", path=path, fix="Fetch or make the file again")
        identities[os.fspath(path)] = FileIdentity.of_status(status)
    return identities


def check_unchanged(identities: Mapping[str, FileIdentity]) -> None:
    """Check that files have not changed since they were read.

    Parameters
    ----------
    identities : mapping of str to FileIdentity
        Their identities when they were read.

    Raises
    ------
    FormatError
        If one was deleted or changed.
    """
    for path, before in identities.items():
        try:
            now = FileIdentity.of(path)
        except OSError as error:
            raise FormatError(
                "the file that this exposure was read from is gone, and the output copies parts of it",
                path=path,
                fix="Put it back, or give another file with like=",
            ) from error
        if not now.same_content(before):
            raise FormatError(
                f"the file that this exposure was read from has changed since ({before.n_bytes} bytes then, "
                f"{now.n_bytes} now)",
                path=path,
                fix="Read it again, and inject again",
            )


def refuse_overwrite(path: StrPath, inputs: Iterable[StrPath], *, overwrite: bool) -> None:
    """Check that an output may be written.

    Parameters
    ----------
    path : path-like
        The output.
    inputs : iterable of path-like
        Files that are never overwritten.
    overwrite : bool
        Whether any other existing file may be replaced.

    Raises
    ------
    OutputExistsError
        If the output is one of the inputs, or exists and `overwrite` is false.
    """
    target = Path(path)
    if not (target.exists() or target.is_symlink()):
        return
    if target.exists() and not target.is_file():
        # With enough permissions, renaming onto a device such as /dev/null would replace the device.
        what = "a directory" if target.is_dir() else "no ordinary file"
        raise OutputExistsError(f"the output is {what}", path=path, fix="Give the name of a file")
    for source in inputs:
        # The input may have other names: links, relative paths, case-insensitive file systems.
        if Path(source).exists() and target.exists() and target.samefile(source):
            raise OutputExistsError(
                "the output is the input itself, which is never overwritten",
                path=path,
                fix="Give another output path",
            )
    if not overwrite:
        raise OutputExistsError(
            "the output exists already", path=path, fix="Give another path, or overwrite=True to replace it"
        )
