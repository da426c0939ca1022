"""Products: tables measured on the images of a campaign, each in a folder of its own, with one file for each image.

The file of an image, its *part*, is the record of its measurement: it is written whole or not at all, and its metadata
say what was measured, from what, and how it went.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from skygraft.disk import atomic_path
from skygraft.errors import CampaignError, ConfigError
from skygraft.json_text import parse_json
from skygraft.records.files import Layout, digest

if TYPE_CHECKING:
    from skygraft.campaign.pairs import ImagePair
    from skygraft.records.plan_file import PlannedImage

__all__ = [
    "DamagedPartError",
    "PartHeader",
    "Product",
    "ProductLayout",
    "part_key",
    "read_part",
    "read_part_header",
    "settings_digest",
    "write_part",
]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = ("catalog", "images", "logs", "records", "sources", "truth")


@dataclass(frozen=True)
class Product:
    """A kind of measurement.

    Parameters
    ----------
    name : str
        Its folder beneath the campaign's output, such as ``recovery``.
    version : int
        Version of its content: what another version measured is measured again.
    measure : callable
        ``measure(pair, settings)`` measures one image, given as `skygraft.campaign.pairs.ImagePair`, by settings of
        JSON types, and returns a `pyarrow.Table`. A function of a module, since it is called in other processes.
    inputs : callable, optional
        ``inputs(image, settings)`` gives what else the measurement of an image depends on, such as sizes and times of
        further files, as JSON types: an image is measured again if they change.
    """

    name: str
    version: int
    measure: Callable[[ImagePair, Mapping[str, Any]], pa.Table]
    inputs: Callable[[PlannedImage, Mapping[str, Any]], Any] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _TAKEN:
            raise ConfigError(
                f"{self.name!r} cannot be the folder of a product",
                key="name",
                fix=f"Use lower-case letters, digits and underscores, and none of {', '.join(_TAKEN)}",
            )


@dataclass(frozen=True)
class ProductLayout:
    """Where the files of a product lie, beneath the campaign's output folder."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the product."""
        return self.root / self.name

    @property
    def order(self) -> Path:
        """What the workers are to do: settings and configuration."""
        return self.folder / "_parts" / "order.json"

    @property
    def images(self) -> Path:
        """The table of images: what was measured, and what failed."""
        return self.folder / "_images.parquet"

    @property
    def settings(self) -> Path:
        """The settings that the tables were made with; missing while tables are being replaced."""
        return self.folder / "_settings.json"

    @property
    def schema(self) -> Path:
        """The columns of all tables, as an empty Parquet file."""
        return self.folder / "_common_metadata"

    @property
    def checksums(self) -> Path:
        """The checksums of the tables."""
        return self.folder / ".checksums"

    @property
    def lock(self) -> Path:
        """The lock, held by the one process that makes the product."""
        return self.folder / ".lock"

    def part(self, tract: int, patch: int, stem: str) -> Path:
        """The measurement of one image."""
        return self._patch(self.folder / "_parts", tract, patch) / f"{stem}.arrow"

    def table(self, tract: int, patch: int) -> Path:
        """The table of one patch."""
        return self._patch(self.folder, tract, patch) / "part-0.parquet"

    def tables(self) -> list[Path]:
        """The tables of all patches that there are, sorted."""
        return sorted(self.folder.glob("tract=*/patch=*/part-0.parquet"))

    def checksum(self, tract: int, patch: int) -> Path:
        """The checksum of the table of one patch."""
        return self._patch(self.checksums, tract, patch).with_suffix(".sha256")

    def _patch(self, base: Path, tract: int, patch: int) -> Path:
        return Layout(self.root).patch_folder(base, tract, patch)


def settings_digest(product: Product, settings: Mapping[str, Any]) -> str:
    """Fingerprint of what is measured and how: name and version of the product, and the settings."""
    return digest([product.name, product.version, dict(settings)])


def part_key(settings: str, record: Mapping[str, Any], inputs: Any = None) -> str:
    """Fingerprint of what a measurement depends on: its settings, and the content and checksums of the image.

    Parameters
    ----------
    settings : str
        `settings_digest`.
    record : mapping
        Record of the image.
    inputs : object, optional
        What `Product.inputs` gives; nothing, and what is empty, does not count.
    """
    outputs = {name: output["sha256"] for name, output in record["outputs"].items()}
    return digest([settings, record["image"], record["key"], outputs, *([inputs] if inputs else [])])


@dataclass(frozen=True)
class PartHeader:
    """The metadata of a part."""

    image_id: str
    key: str  # `part_key`; empty if the record of the image could not be read
    settings: str  # `settings_digest`
    error: str = ""  # class of the error, if the measurement failed
    message: str = ""  # what it says
    n_rows: int = 0  # of the table
    seconds: float = 0.0  # processor time of the measurement


_HEADER = tuple(field.name for field in fields(PartHeader))


class DamagedPartError(CampaignError):
    """A part that is missing, or not as it was written; its image is measured again."""


def write_part(path: Path, table: pa.Table, header: PartHeader) -> None:
    """Write the measurement of an image as an Arrow file, atomically, with a checksum of its content.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    metadata = {name: str(getattr(header, name)) for name in _HEADER}
    # In one piece, without dictionaries: equal tables give equal files.
    plain = table.replace_schema_metadata().combine_chunks()
    for i, field in enumerate(plain.schema):
        if pa.types.is_dictionary(field.type):
            kind = field.type.value_type
            plain = plain.set_column(i, field.with_type(kind), plain.column(i).cast(kind))
    # The checksum is of what a reader gets, whose memory is laid out as the file is.
    content = _ipc(plain.replace_schema_metadata(metadata))
    metadata["checksum"] = _content_digest(_read_ipc(content))
    with atomic_path(path) as temporary:
        temporary.write_bytes(_ipc(plain.replace_schema_metadata(metadata)))


def _ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _read_ipc(content: bytes | pa.Buffer) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(content)) as file:
        return file.read_all()


def _content_digest(table: pa.Table) -> str:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"checksum"}
    sha = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for field in table.schema:
        sha.update(repr([field.name, str(field.type), sorted((field.metadata or {}).items())]).encode())
    for batch in table.to_batches():
        sha.update(f"{batch.num_rows};".encode())
        for column in batch.columns:
            for buffer in column.buffers():
                sha.update(f"{-1 if buffer is None else buffer.size};".encode())
                sha.update(b"" if buffer is None else memoryview(buffer))
    return sha.hexdigest()


def _header(metadata: Mapping[bytes, bytes] | None) -> PartHeader:
    values = ((metadata or {})[name.encode()].decode() for name in _HEADER)
    image_id, key, settings, error, message, n_rows, seconds = values
    return PartHeader(image_id, key, settings, error, message, int(n_rows), float(seconds))


def read_part_header(path: Path) -> PartHeader | None:
    """Read the metadata of a part; None where there is none, or they cannot be read."""
    try:
        with pa.OSFile(str(path)) as handle, pa.ipc.open_file(handle) as file:
            return _header(file.schema.metadata)
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return None


def read_part(path: Path) -> tuple[pa.Table, PartHeader]:
    """Read the measurement of an image, and check that it is as it was written.

    Returns
    -------
    table : pyarrow.Table
        Without metadata other than those of its fields.
    header : PartHeader

    Raises
    ------
    DamagedPartError
        If it is missing, cannot be read, or has another content than was written.
    """
    fix = "Run the command again: the image is measured again"
    try:
        table = _read_ipc(path.read_bytes())
        header, checksum = _header(table.schema.metadata), table.schema.metadata.get(b"checksum", b"").decode()
        same = _content_digest(table) == checksum
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedPartError(f"the measurement cannot be read ({error})", path=path, fix=fix) from error
    if not same:
        raise DamagedPartError("the measurement is not what was written", path=path, fix=fix)
    return table.replace_schema_metadata(), header


def read_settings(layout: ProductLayout) -> dict[str, Any]:
    """Read the settings that the tables of a product were made with.

    Raises
    ------
    CampaignError
        If there are no tables, or they are not complete.
    """
    command = f"skygraft {_COMMANDS.get(layout.name, layout.name)}"
    try:
        content: dict[str, Any] = parse_json(layout.settings.read_bytes())
    except FileNotFoundError:
        partly = "its tables are not complete: what makes them was interrupted, or has not ended"
        what = partly if layout.folder.is_dir() else "there is none"
        raise CampaignError(
            f"no table of {layout.name} to read: {what}", path=layout.folder, fix=f"Make it first: {command}"
        ) from None
    except (OSError, ValueError) as error:
        what = f"the settings of {layout.name} cannot be read ({error})"
        raise CampaignError(what, path=layout.settings, fix=f"Remove it, and run again: {command}") from error
    return content


_COMMANDS = {
    "recovery": "recover", "verification": "verify", "apertures": "aperture", "consistency": "check-consistency"
}  # fmt: skip
