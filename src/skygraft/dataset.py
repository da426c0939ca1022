"""Datasets of a Butler repository as plain data, and the provenance that files record.

Files written by a Butler name their dataset: ``lsst.images`` files in their JSON tree, FITS files in cards
``LSST BUTLER ...`` of the primary header. A copy with injected sources is another dataset, derived from that one.
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
"""Key of `Exposure.extra`: the `Lineage` to write into a file that will be a dataset of a Butler."""

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
        Values of the dimensions, including implied ones that are known.
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
        """Build a dataset from the mapping of `to_simple`, Butler's serialization of a reference."""
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
        """Return the dataset as JSON types, in the layout of Butler's ``SerializedDatasetRef``."""
        kind = {"name": self.type, "storageClass": self.storage_class, "dimensions": list(self.dimensions)}
        return {"id": self.id, "datasetType": kind, "dataId": {"dataId": dict(self.data_id)}, "run": self.run}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build a dataset from the text of `to_json`."""
        return cls.from_simple(parse_json(text))

    @property
    def place(self) -> tuple[int | str, ...]:
        """Values of the required dimensions, in order of their names: unique among datasets of one type and run."""
        return tuple(self.data_id[name] for name in sorted(self.dimensions))

    def to_json(self) -> str:
        """Return the dataset as JSON text; equal datasets give equal text."""
        return json.dumps(self.to_simple(), sort_keys=True, separators=(",", ":"))

    def derive(self, *, type: str, run: str, tag: str, key: str, storage_class: str | None = None) -> Dataset:
        """Return a new dataset with the same data id in another run, of another type.

        Parameters
        ----------
        type, run : str
            Its type and run.
        tag : str
            Name of its producer, which can be recognised from the id (`made_by`).
        key : str
            Key of its inputs: the id is a function of tag, type, run and key.
        storage_class : str, optional
            Its storage class, by default that of this dataset.

        Returns
        -------
        Dataset
        """
        raw = bytearray(_tag_bytes(tag) + hashlib.sha256(f"{type}\n{run}\n{key}".encode()).digest()[:8])
        raw[6] = raw[6] & 0x0F | 0x80  # UUID version 8: custom
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
    """Return the id in the text of `Dataset.to_json`; empty if there is no text."""
    return str(parse_json(text)["id"]) if text else ""


def _tag_bytes(tag: str) -> bytes:
    return hashlib.sha256(tag.encode()).digest()[:_TAG_BYTES]


def made_by(tag: str, id: uuid.UUID) -> bool:
    """Return whether an id was created by `Dataset.derive` with this tag.

    Parameters
    ----------
    tag : str
        As in `Dataset.derive`.
    id : uuid.UUID

    Returns
    -------
    bool
    """
    wanted = bytearray(_tag_bytes(tag))
    wanted[6] = wanted[6] & 0x0F | 0x80
    return id.bytes[:_TAG_BYTES] == bytes(wanted)


@dataclass(frozen=True)
class Lineage:
    """The dataset of a file, and the datasets that it was derived from.

    Parameters
    ----------
    dataset : Dataset
        Dataset of the file.
    inputs : tuple of Dataset
        Datasets that it was derived from.
    """

    dataset: Dataset
    inputs: tuple[Dataset, ...] = ()

    def butler_info(self) -> dict[str, Any]:
        """Return the entry ``butler_info`` for the JSON tree of an ``lsst.images`` file."""
        inputs = [one.to_simple() for one in self.inputs]
        return {"dataset": self.dataset.to_simple(), "provenance": {"inputs": inputs}}

    def cards(self, present: Iterable[str] = ()) -> dict[str, tuple[Any, str] | None]:
        """Return cards for the primary header, as Butler's formatters write them.

        Parameters
        ----------
        present : iterable of str
            Keywords in the header, from which those of another dataset's lineage are removed.

        Returns
        -------
        dict
            Value and comment by keyword; None for cards to remove.
        """
        cards: dict[str, tuple[Any, str] | None] = {
            key: None for key in present if key.upper().startswith(f"{_CARDS} ")
        }
        values: dict[str, Any] = dict(_identity(self.dataset))
        values |= {f"DATAID {name.upper()}": self.dataset.data_id[name] for name in self.dataset.dimensions}
        values["N_INPUTS"] = len(self.inputs)
        for number, one in enumerate(self.inputs):
            values |= {f"INPUT {number} {name}": value for name, value in _identity(one).items()}
        return cards | {f"{_CARDS} {key}": (value, "") for key, value in values.items()}


def _identity(dataset: Dataset) -> dict[str, str]:
    return {"ID": dataset.id, "RUN": dataset.run, "DATASETTYPE": dataset.type}
