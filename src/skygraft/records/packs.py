"""Packs: the records and truth tables of a patch's images in one Parquet file, so that a campaign has few files.

While images are made, each has a record and a truth table in files of its own, which its worker writes without asking
anybody. Ten million images would leave twenty million of them; when the tables are made, those of a patch are copied
into its pack and removed (`skygraft.tables.packing`). Whoever reads a record or a truth table asks this module by the
name of the single file, which counts where it exists; otherwise the pack does, unless the image was reopened.

The footer of a pack lists what is in it, with the sizes and times of the files, so that nothing else is read to find
out which images are done. Row groups are small: a damaged page costs the records of some images, not those of a patch.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.disk import FileIdentity, NamedTogether, atomic_path
from skygraft.errors import CampaignError
from skygraft.place_names import STUBS_KIND, as_kind, is_copy
from skygraft.places import bring, outputs_of
from skygraft.records.file_checksums import note_checksum
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, sha256_file

__all__ = [
    "PACK_NAME",
    "REOPENED_SUFFIX",
    "DamagedPackError",
    "PackIndex",
    "PackWriter",
    "PatchFiles",
    "file_exists",
    "file_names",
    "files_there",
    "pack_of",
    "packed_files",
    "read_file",
    "read_index",
    "remove_record",
    "sha256_of",
    "single_names",
    "stat_file",
    "stat_packed",
]

PACK_NAME = "part-0.parquet"
"""Of the pack, in the folder of the single files; a data set of Parquet files, as the tables are."""

REOPENED_SUFFIX = ".reopened"
"""Of an empty file that says that the pack's record of an image does not count any more."""

_IMAGES_A_GROUP = 16
_BYTES_A_GROUP = 8 << 20
"""A row group is closed at whichever of these is reached first: it is what is read to get at one record."""

_INDEX = b"skygraft"
_COLUMNS = {RECORD_SUFFIX: "record", TRUTH_SUFFIX: "truth"}
_SCHEMA = pa.schema([("stem", pa.string()), ("image_id", pa.string()), ("record", pa.string()), ("truth", pa.binary())])
_COMPRESSION = {"stem": "none", "image_id": "none", "record": "zstd", "truth": "none"}
"""Truth tables are compressed already, and of a few names nothing would be left but what zstd takes to begin."""
_BUFFER = 1 << 20
"""Bytes that are written to the file at a time; page by page takes as long as all else."""


class DamagedPackError(OSError):
    """The part of a pack that has a file cannot be read: its images can be made again at any time."""


@dataclass(frozen=True)
class PackIndex:
    """What the footer of a pack says.

    Parameters
    ----------
    image_ids : dict of str to str
        Image id by stem.
    files : dict of str to sequence of int
        Of each file that was packed, by name: size, time of last change, inode and time of its change, as `_packed_row`
        gives them. If the pack was changed since it was written, its own time stands in for theirs: what is read from
        it then has to be compared with checksums, as with any changed file.
    groups : dict of str to int
        Row group by stem.
    changed : bool
        Whether the pack was changed since it was written.
    """

    image_ids: Mapping[str, str]
    files: Mapping[str, Sequence[int]]
    groups: Mapping[str, int]
    changed: bool


_NOTHING = PackIndex({}, {}, {}, changed=False)


def _packed_row(state: FileIdentity) -> list[int]:
    """What a pack says of a file."""
    return [state.n_bytes, state.mtime_ns, state.inode, state.ctime_ns]


def _state_of(row: Sequence[int]) -> FileIdentity:
    """The identity of a file that is packed; the file system that it was on is not known."""
    n_bytes, mtime_ns, inode, ctime_ns = row
    return FileIdentity(n_bytes, mtime_ns, ctime_ns, inode)


def _identity(status: os.stat_result) -> FileIdentity:
    """The identity of a single file, as a pack will have it."""
    return FileIdentity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def pack_of(path: Path) -> Path:
    """The pack that a single file goes into."""
    return path.with_name(PACK_NAME)


def read_index(pack: str | Path) -> PackIndex:
    """Read the footer of a pack; an empty index if there is no pack, or if its footer is damaged.

    Raises
    ------
    CampaignError
        If the pack is there and cannot be opened.
    """
    try:
        status = os.stat(pack)  # noqa: PTH116
        return _read_index(str(pack), _identity(status))
    except (FileNotFoundError, NotADirectoryError):
        return _NOTHING
    except OSError as error:
        raise CampaignError(
            f"the packed records cannot be read ({error.strerror or error})",
            path=pack,
            fix="Check permissions, and run again",
        ) from error


@functools.lru_cache(maxsize=64)
def _read_index(pack: str, state: FileIdentity) -> PackIndex:
    try:
        metadata = pq.read_metadata(pack).metadata or {}
        content = orjson.loads(metadata.get(_INDEX, b"{}"))
        table = content["images"]
        if hashlib.sha256(orjson.dumps(table)).hexdigest() != content["sha256"]:
            return _NOTHING
        index = _index_of(table)
        if content["written_ns"] == state.mtime_ns:
            return index
        files = {name: [n_bytes, *_packed_row(state)[1:]] for name, (n_bytes, *_) in index.files.items()}
        return replace(index, files=files, changed=True)
    except (pa.ArrowException, ValueError, KeyError, TypeError):
        return _NOTHING  # as with a damaged record: its images count as not done
    except OSError as error:
        if _is_damage(error):
            return _NOTHING
        raise


def _index_of(table: Mapping[str, Sequence[Any]]) -> PackIndex:
    """The index of a pack that was not changed since, from what its footer says of the images."""
    files: dict[str, Sequence[int]] = {}
    for suffix, column in _COLUMNS.items():
        files.update(zip([stem + suffix for stem in table["stem"]], table[column], strict=True))
    image_ids = dict(zip(table["stem"], table["image_id"], strict=True))
    return PackIndex(image_ids, files, dict(zip(table["stem"], table["group"], strict=True)), changed=False)


def _is_damage(error: OSError) -> bool:
    """True for what Parquet says of damaged files, unlike what a file system says of files that it cannot read."""
    return error.errno in (None, errno.EISDIR)


def packed_files(folder: str | Path) -> Mapping[str, Sequence[int]]:
    """The files that only the pack of a folder has, as `PackIndex.files`. Reopened images do not count.

    Raises
    ------
    CampaignError
        As `read_index`.
    """
    return _packed_files(folder, single_names(folder))


def file_names(folder: str | Path) -> frozenset[str]:
    """Names of all files of a folder, single or packed.

    Raises
    ------
    CampaignError
        As `read_index`.
    """
    names = single_names(folder)
    return names.union(_packed_files(folder, names))


def files_there(folder: str | Path, names: Sequence[str]) -> list[bool]:
    """Whether files are in a folder, single or packed; its pack is opened only where the folder does not tell.

    Raises
    ------
    CampaignError
        As `read_index`.
    """
    listed = single_names(folder)
    found = [name in listed for name in names]
    if PACK_NAME in listed and any(
        not there and not _is_void(name, listed) for name, there in zip(names, found, strict=True)
    ):
        packed = _packed_files(folder, listed)
        found = [there or name in packed for name, there in zip(names, found, strict=True)]
    return found


def _is_void(name: str, listed: frozenset[str]) -> bool:
    """True for a file that the pack does not have any more, because its image was reopened."""
    stems = (name.removesuffix(suffix) for suffix in _COLUMNS if name.endswith(suffix))
    return any(stem + REOPENED_SUFFIX in listed for stem in stems)


def _packed_files(folder: str | Path, names: frozenset[str]) -> Mapping[str, Sequence[int]]:
    if PACK_NAME not in names:
        return {}
    index = read_index(f"{folder}/{PACK_NAME}")
    if len(names) == 1:
        return index.files
    reopened = {name.removesuffix(REOPENED_SUFFIX) for name in names if name.endswith(REOPENED_SUFFIX)}
    void = names.union(stem + suffix for stem in reopened for suffix in _COLUMNS)
    return {name: state for name, state in index.files.items() if name not in void}


def single_names(folder: str | Path) -> frozenset[str]:
    """Names of the files of a folder, as listed; none if there is no folder."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  (three times as quick as a Path)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _stem_of(path: Path) -> tuple[str, str] | None:
    """Stem and suffix of a file that may be in a pack."""
    for suffix in _COLUMNS:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix), suffix
    return None


def _packed(path: Path) -> tuple[str, str, PackIndex] | None:
    """Where the pack has a file: its stem, its column and the pack's index; None if it is not there or void."""
    if (found := _stem_of(path)) is None:
        return None
    stem, suffix = found
    index = read_index(pack_of(path))
    if stem not in index.groups or path.with_name(stem + REOPENED_SUFFIX).exists():
        return None
    return stem, _COLUMNS[suffix], index


def file_exists(path: Path) -> bool:
    """Whether a record or a truth table is there, single or packed, or something else is in its place."""
    return os.path.lexists(path) or _packed(path) is not None


def stat_file(path: Path) -> FileIdentity:
    """The identity of a file, but for its file system: of a packed one, as it was when it had a file of its own.

    Raises
    ------
    FileNotFoundError
        If it is neither single nor packed.
    OSError, CampaignError
        If it cannot be looked up.
    """
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        if (found := _packed(path)) is None:
            if not is_copy(path):
                raise
            return _identity(as_kind(path, STUBS_KIND).stat())  # published, and not kept here
        return _state_of(found[2].files[path.name])


def stat_packed(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Sizes in bytes and times of last change in ns of many packed files; -1 for those that are not packed.

    Parameters
    ----------
    paths : sequence of str
        The names that they had as single files, which are not there. Each folder is listed once.

    Raises
    ------
    CampaignError
        As `read_index`.
    """
    listed = functools.lru_cache(maxsize=256)(single_names)
    packed = functools.lru_cache(maxsize=256)(packed_files)
    found = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        state = (-1, -1) if _is_void(name, listed(folder)) else packed(folder).get(name, (-1, -1))
        found.append((state[0], state[1]))
    return found


def read_file(path: Path) -> bytes:
    """The content of a file, byte for byte as it was written, single or packed.

    Raises
    ------
    FileNotFoundError
        If it is neither.
    DamagedPackError
        If it is packed, and that part of the pack is damaged.
    OSError, CampaignError
        If it cannot be read.
    """
    for _ in range(2):  # a pack may be replaced between a look at its index and reading it
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if (found := _packed(path)) is None:
                raise
        stem, column, index = found
        pack = pack_of(path)
        try:
            return _read_group(str(pack), _identity(pack.stat()), index.groups[stem], column)[stem]
        except (pa.ArrowException, ValueError, LookupError):
            continue
        except OSError as error:
            if not _is_damage(error) and not isinstance(error, FileNotFoundError):
                raise
    raise DamagedPackError(errno.EIO, "its part of the pack is damaged", str(pack_of(path)))


class PatchFiles:
    """The records and truth tables of a patch, single or packed, of a folder that is listed once.

    What was there when it was listed is found by one look at each file. A file that has gone into the pack meanwhile is
    found there, and one that has come meanwhile may not be seen.

    Parameters
    ----------
    folder : str
        The folder of the patch, beneath `skygraft.records.files.Layout.records`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # Of outputs in a store, files that are published may not be kept here.
        self._by_name = is_copy(f"{folder}/{PACK_NAME}")
        self.names: frozenset[str] = frozenset() if self._by_name else single_names(folder)

    @functools.cached_property
    def packed(self) -> Mapping[str, Sequence[int]]:
        """The files that only the pack has, as `packed_files` gives them."""
        return _packed_files(self.folder, self.names)

    def stat_single(self, name: str) -> FileIdentity:
        """The identity of a single file, as `stat_file` gives it; raises what `os.stat` raises."""
        return _identity(os.stat(f"{self.folder}/{name}"))  # noqa: PTH116

    def stat(self, name: str) -> FileIdentity | None:
        """The identity of a file, as `stat_file` gives it; None where there is none."""
        if name in self.names:
            with contextlib.suppress(FileNotFoundError):
                return self.stat_single(name)
        elif not self._by_name:
            return None if (row := self.packed.get(name)) is None else _state_of(row)
        try:
            return stat_file(Path(self.folder, name))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> tuple[bytes, FileIdentity]:
        """The content of a file and its identity before it was read; errors as of `read_file`."""
        path = f"{self.folder}/{name}"
        if name in self.names:
            with contextlib.suppress(FileNotFoundError):
                return _read_single(path)
        elif not self._by_name:
            if (row := self.packed.get(name)) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return read_file(Path(path)), _state_of(row)
        state = stat_file(Path(path))
        return read_file(Path(path)), state


def _read_single(path: str) -> tuple[bytes, FileIdentity]:
    # A third of the time of a file object.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = _identity(os.fstat(descriptor))
        content = os.read(descriptor, state.n_bytes + 1)
        if len(content) != state.n_bytes or not content:
            while piece := os.read(descriptor, 1 << 20):
                content += piece
        return content, state
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, single or packed; raises as `read_file`."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        if is_copy(path) and _packed(path) is None:
            return sha256_file(bring(path))
        return hashlib.sha256(read_file(path)).hexdigest()


@functools.lru_cache(maxsize=8)
def _read_group(pack: str, state: FileIdentity, group: int, column: str) -> dict[str, bytes]:
    """One column of a row group, by stem; raises what Arrow raises. Few are kept: images are read in order."""
    del state  # tells one version of the pack from another; its inode alone may come again
    with pq.ParquetFile(pack, page_checksum_verification=True) as file:
        table = file.read_row_group(group, columns=["stem", column], use_threads=False)
    values = table.column(column).cast(pa.binary()).to_pylist()
    return dict(zip(table.column("stem").to_pylist(), values, strict=True))


def remove_record(path: Path) -> None:
    """Remove the record of an image, single and packed: the image is then not done.

    Raises
    ------
    OSError, OutputError
        If it cannot be removed.
    """
    outputs = outputs_of(path)
    # First: were the single record gone and this not written, the older one in the pack would count again.
    if (found := _packed(path)) is not None:
        reopened = path.with_name(found[0] + REOPENED_SUFFIX)
        with atomic_path(reopened) as temporary:
            temporary.touch()
        if outputs is not None:
            outputs.publish(reopened)
    if outputs is not None:
        outputs.remove(path)
    path.unlink(missing_ok=True)


class PackWriter:
    """Writes a pack; use it in a ``with`` statement. The file appears when all that it is written with gets its names.

    Parameters
    ----------
    pack : Path
        The file.
    checksum : Path
        The file for its checksum; see `skygraft.records.files.Layout.checksum`.
    together : NamedTogether
        The files that it gets its name with.

    Raises
    ------
    OutputError
        If it cannot be written; what was there before stays.
    """

    def __init__(self, pack: Path, checksum: Path, together: NamedTogether) -> None:
        self._pack, self._checksum, self._together = pack, checksum, together
        self._rows: list[tuple[bytes, bytes, bytes, bytes]] = []
        self._n_bytes = 0
        self._group = 0
        self._images: dict[str, list[Any]] = {name: [] for name in ("stem", "image_id", "record", "truth", "group")}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(self._together.path(self._pack, self._note_checksum))
            stack.push(functools.partial(self._finish, temporary))
            sink = stack.enter_context(pa.output_stream(str(temporary), buffer_size=_BUFFER))
            self._writer = stack.enter_context(
                pq.ParquetWriter(
                    sink,
                    _SCHEMA,
                    compression=_COMPRESSION,
                    use_dictionary=False,
                    write_statistics=False,
                    write_page_checksum=True,
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._flush()
            # Of whole seconds, which every file system keeps: by it a pack that was changed later is recognised.
            self._written_ns = int(time.time()) * 10**9
            index = {
                "images": self._images,
                "sha256": hashlib.sha256(orjson.dumps(self._images)).hexdigest(),
                "written_ns": self._written_ns,
            }
            self._writer.add_key_value_metadata({_INDEX: orjson.dumps(index)})

    def add(self, stem: str, image_id: str, files: Mapping[str, tuple[bytes, FileIdentity]]) -> None:
        """Add an image.

        Parameters
        ----------
        stem, image_id : str
            The image.
        files : dict of str to (bytes, FileIdentity)
            Content and state of its record and its truth table, by suffix.
        """
        (record, record_state), (truth, truth_state) = (files[suffix] for suffix in _COLUMNS)
        self._rows.append((stem.encode(), image_id.encode(), record, truth))
        row = (stem, image_id, _packed_row(record_state), _packed_row(truth_state), self._group)
        for column, value in zip(self._images.values(), row, strict=True):
            column.append(value)
        self._n_bytes += len(record) + len(truth)
        if len(self._rows) >= _IMAGES_A_GROUP or self._n_bytes >= _BYTES_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            arrays = [
                _texts(values, kind) for values, kind in zip(zip(*self._rows, strict=True), _SCHEMA.types, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), row_group_size=len(self._rows))
            self._group += 1
        self._rows, self._n_bytes = [], 0

    def _finish(self, temporary: Path, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            os.utime(temporary, ns=(self._written_ns, self._written_ns))

    def _note_checksum(self, temporary: Path) -> None:
        note_checksum(temporary, self._checksum, sync=False)  # without it the pack is written again

    @property
    def index(self) -> PackIndex:
        """What `read_index` gives of the pack."""
        return _index_of(self._images)


def _texts(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """An array of texts; `pyarrow.array` would import pandas for it, which takes a second in every process."""
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int64).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)
