"""Datasets of a Butler repository as plain data: what a file says that it is, and what it was made from.

Files that a Butler writes name the dataset that they hold: ``lsst.images`` files in their JSON tree, FITS files in
cards ``LSST BUTLER ...`` of the primary header. A copy with injected sources is another dataset, derived from that one.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from skygraft.json_text import parse_json

__all__ = ["LINEAGE", "Dataset", "Lineage", "dataset_id", "made_by"]

LINEAGE = "lineage"
"""Key of `Exposure.extra`: the `Lineage` to write into the file, where the output is to be a dataset of a Butler."""

_CARDS = "LSST BUTLER"
_TAG_BYTES = 8


@dataclass(frozen=True)
class Dataset:
    """A dataset of a Butler repository.

    Parameters
    ----------
    id : str
        Its UUID.
    type : str
        Name of its dataset type.
    storage_class : str
        Name of the storage class of that type.
    dimensions : tuple of str
        The type's required dimensions.
    data_id : mapping of str to int or str
        Values of the dimensions, implied ones included where they are known.
    run : str
        The run collection that it is in.
    """

    id: str
    type: str
    storage_class: str
    dimensions: tuple[str, ...]
    data_id: Mapping[str, int | str]
    run: str

    @classmethod
    def from_simple(cls, content: Mapping[str, Any]) -> Self:
        """The dataset of a mapping such as `to_simple` gives, which is how Butler serializes a reference."""
        kind = content["datasetType"]
        return cls(
            id=str(content["id"]),
            type=kind["name"],
            storage_class=kind["storageClass"],
            dimensions=tuple(kind["dimensions"]),
            data_id=dict(content["dataId"]["dataId"]),
            run=content["run"],
        )

    def to_simple(self) -> dict[str, Any]:
        """The dataset as JSON types, in the layout of Butler's ``SerializedDatasetRef``."""
        kind = {"name": self.type, "storageClass": self.storage_class, "dimensions": list(self.dimensions)}
        return {"id": self.id, "datasetType": kind, "dataId": {"dataId": dict(self.data_id)}, "run": self.run}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The dataset of a text that `to_json` gave."""
        return cls.from_simple(parse_json(text))

    @property
    def place(self) -> tuple[int | str, ...]:
        """Values of the required dimensions, in order of their names: what tells it from others of its type and run."""
        return tuple(self.data_id[name] for name in sorted(self.dimensions))

    def to_json(self) -> str:
        """The dataset as JSON; equal datasets give equal text."""
        return json.dumps(self.to_simple(), sort_keys=True, separators=(",", ":"))

    def derive(self, *, type: str, run: str, tag: str, key: str, storage_class: str | None = None) -> Dataset:
        """A dataset of the same data id in another run, of another type.

        Parameters
        ----------
        type, run : str
            Its type and run.
        tag : str
            What made it: datasets of one tag are recognised by their ids (`made_by`).
        key : str
            What it was made from: of one tag, type and key there is one id.
        storage_class : str, optional
            Its storage class, by default this dataset's.
        """
        raw = bytearray(_tag_bytes(tag) + hashlib.sha256(f"{type}\n{run}\n{key}".encode()).digest()[:8])
        raw[6] = raw[6] & 0x0F | 0x80  # version 8: of one's own making
        raw[8] = raw[8] & 0x3F | 0x80
        return Dataset(
            id=str(uuid.UUID(bytes=bytes(raw))),
            type=type,
            storage_class=storage_class or self.storage_class,
            dimensions=self.dimensions,
            data_id=self.data_id,
            run=run,
        )


def dataset_id(text: str | None) -> str:
    """The id in what `Dataset.to_json` gave; empty where there is no text."""
    return str(parse_json(text)["id"]) if text else ""


def _tag_bytes(tag: str) -> bytes:
    return hashlib.sha256(tag.encode()).digest()[:_TAG_BYTES]


def made_by(tag: str, id: uuid.UUID) -> bool:
    """Whether an id is one that `Dataset.derive` gave for a tag."""
    wanted = bytearray(_tag_bytes(tag))
    wanted[6] = wanted[6] & 0x0F | 0x80
    return id.bytes[:_TAG_BYTES] == bytes(wanted)


@dataclass(frozen=True)
class Lineage:
    """What a file is, and what it was made from.

    Parameters
    ----------
    dataset : Dataset
        What it is.
    inputs : tuple of Dataset
        What it was made from.
    """

    dataset: Dataset
    inputs: tuple[Dataset, ...] = ()

    def butler_info(self) -> dict[str, Any]:
        """The lineage as ``lsst.images`` files have it in their JSON tree, under ``butler_info``."""
        inputs = [one.to_simple() for one in self.inputs]
        return {"dataset": self.dataset.to_simple(), "provenance": {"inputs": inputs}}

    def cards(self, present: Iterable[str] = ()) -> dict[str, tuple[Any, str] | None]:
        """Cards of a primary header that say it, as Butler's formatters write them.

        Parameters
        ----------
        present : iterable of str
            Keywords that the header has; those of another dataset's lineage are to be removed.

        Returns
        -------
        dict
            Keyword to value and comment; None for those to be removed.
        """
        cards: dict[str, tuple[Any, str] | None] = {
            key: None for key in present if key.upper().startswith(f"{_CARDS} ")
        }
        said: dict[str, Any] = dict(_named(self.dataset))
        said |= {f"DATAID {name.upper()}": self.dataset.data_id[name] for name in self.dataset.dimensions}
        said["N_INPUTS"] = len(self.inputs)
        for number, one in enumerate(self.inputs):
            said |= {f"INPUT {number} {name}": value for name, value in _named(one).items()}
        return cards | {f"{_CARDS} {key}": (value, "") for key, value in said.items()}


def _named(dataset: Dataset) -> dict[str, str]:
    return {"ID": dataset.id, "RUN": dataset.run, "DATASETTYPE": dataset.type}
