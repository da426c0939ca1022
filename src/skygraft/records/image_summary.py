"""The outcome of one image, as a task reports it to the driver, and the driver appends it to the ledger."""

from __future__ import annotations

import functools
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, cast

__all__ = ["ImageStatus", "ImageSummary"]

type ImageStatus = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class ImageSummary:
    """The outcome of one image; about a kilobyte.

    Parameters
    ----------
    image_id : str
        The image.
    status : {"done", "skipped", "failed"}
        ``skipped`` if it was done already, from the same inputs.
    tract, patch : int
        Its home patch.
    band : str
        Its band; empty where unknown.
    key : str
        Content key of its record.
    n_sources : int
        Number of sources drawn.
    n_bytes : int
        Bytes written.
    wall_seconds, cpu_seconds : float
        Time that it took.
    stages : dict of str to float
        Wall time of each stage, seconds.
    closure_mag : float or None
        Median over its isolated stars of measured minus requested magnitude; None where not measured.
    inputs : dict of str to [int, int]
        Each file that was read, relative to the survey's root: size in bytes and time of last change in ns.
    outputs : dict of str to int
        Each file that was written, relative to the campaign's output folder: size in bytes.
    output_times : list of int
        Time of last change of each of these, in their order, ns; 0 for one that was changed after the record was
        written. Empty if unknown.
    catalog, settings : str
        Fingerprints of the catalogue rows and of the settings that it was made from.
    code : int
        `skygraft.records.image_record.PIXEL_VERSION` of the code that made it.
    error, message, where : str
        For a failure: class of the error, its message, and the line of code.
    may_pass : bool
        For a failure: whether it may succeed when tried again.
    quarantined : bool
        For a failure: whether it kills the workers that take it; runs leave it out unless asked to retry.
    host : str
        Where it ran.
    dataset : str
        Id of the dataset of a Butler repository that it was made from; empty if from none.
    """

    image_id: str
    status: ImageStatus
    tract: int = -1
    patch: int = -1
    band: str = ""
    key: str = ""
    n_sources: int = 0
    n_bytes: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    closure_mag: float | None = None
    inputs: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    output_times: list[int] = field(default_factory=list)
    catalog: str = ""
    settings: str = ""
    code: int = 0
    error: str = ""
    message: str = ""
    where: str = ""
    may_pass: bool = False
    quarantined: bool = False
    host: str = ""
    dataset: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types, without the fields that have their default."""
        values, kind = vars(self), cast(Any, type(self))
        return {name: values[name] for name, default in _defaults(kind) if values[name] != default}


@functools.cache
def _defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Names of the fields, and their defaults."""
    return tuple(
        (field.name, field.default if field.default_factory is MISSING else field.default_factory())
        for field in fields(kind)
    )
