"""Where the files of a campaign's output lie, and how JSON is written and fingerprinted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import CampaignError
from skygraft.place_names import is_copy
from skygraft.places.outputs import Outputs, outputs_of
from skygraft.records.lock import is_locked, locked

__all__ = [
    "BUTLER_TRUTH_SUFFIX",
    "RECORD_SUFFIX",
    "TRUTH_SUFFIX",
    "Layout",
    "await_file",
    "digest",
    "json_text",
    "plain",
    "sha256_file",
    "sweep_leftovers",
    "write_json",
]

RECORD_SUFFIX = ".json"
TRUTH_SUFFIX = ".truth.arrow"
"""Suffixes of the record and the truth table of an image, which lie in the same folder."""
BUTLER_TRUTH_SUFFIX = ".truth.parq"
"""Suffix of a second copy of the truth table, beside them, where it is a dataset of a Butler repository."""
_TRIES = 10


@dataclass(frozen=True)
class Layout:
    """Where the files of a campaign lie beneath its output folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration, with all defaults filled in."""
        return self.root / "campaign.yaml"

    @property
    def plan(self) -> Path:
        """The plan: every image, and what it needs."""
        return self.root / "plan.parquet"

    @property
    def plan_summary(self) -> Path:
        """What the plan would do and cost."""
        return self.root / "plan_summary.csv"

    @property
    def plan_checks(self) -> Path:
        """The calibration of each image that was checked when the campaign was planned."""
        return self.root / "plan_checks.parquet"

    @property
    def plan_findings(self) -> Path:
        """Findings of the planner for images and patches."""
        return self.root / "plan_findings.parquet"

    @property
    def catalog(self) -> Path:
        """The partitioned input catalogue."""
        return self.root / "catalog"

    @property
    def images(self) -> Path:
        """The injected images."""
        return self.root / "images"

    @property
    def truth(self) -> Path:
        """The consolidated truth tables."""
        return self.root / "truth"

    @property
    def sources(self) -> Path:
        """The consolidated catalogue: the outcome of each source."""
        return self.root / "sources"

    @property
    def campaign_sources(self) -> Path:
        """The consolidated catalogue as one file."""
        return self.root / "sources.parquet"

    @property
    def consolidated(self) -> Path:
        """What consolidation keeps for each patch, so that it need not read all records again."""
        return self.root / ".consolidated"

    @property
    def checksums(self) -> Path:
        """The checksums of tables, and of other files of which there is one."""
        return self.consolidated / "checksums"

    @property
    def pieces(self) -> Path:
        """Rows of the consolidated catalogue on their way from the patches into one file; gone when it is written."""
        return self.consolidated / "joining"

    @property
    def records(self) -> Path:
        """One record, and beside it one truth table, for each finished image."""
        return self.root / "records"

    @property
    def ledger(self) -> Path:
        """What happened, in order (`skygraft.records.ledger`)."""
        return self.root / "ledger.jsonl"

    @property
    def checkpoint(self) -> Path:
        """What the ledger says of every image up to a place, so that not all of it is read again; safe to delete."""
        return self.root / "ledger_checkpoint.arrow"

    @property
    def lock(self) -> Path:
        """The lock, held by the one driver that runs the campaign."""
        return self.root / ".lock"

    @property
    def registration(self) -> Path:
        """The run collection of a Butler repository that the outputs are registered in."""
        return self.root / "registration.json"

    @property
    def failures(self) -> Path:
        """The images that failed, and why."""
        return self.root / "failures.parquet"

    @property
    def provenance(self) -> Path:
        """The provenance: which software, configuration and inputs made the outputs."""
        return self.root / "provenance.json"

    def patch_folder(self, base: Path, tract: int, patch: int) -> Path:
        """The folder of a patch beneath `base`."""
        return base / f"tract={tract}" / f"patch={patch}"

    def record(self, tract: int, patch: int, stem: str) -> Path:
        """The record of an image whose outputs are called `stem`."""
        return self.patch_folder(self.records, tract, patch) / f"{stem}{RECORD_SUFFIX}"

    def truth_part(self, tract: int, patch: int, stem: str) -> Path:
        """The truth table of one image."""
        return self.patch_folder(self.records, tract, patch) / f"{stem}{TRUTH_SUFFIX}"

    def truth_dataset(self, tract: int, patch: int, stem: str) -> Path:
        """The truth table of one image as Parquet, for a Butler repository."""
        return self.patch_folder(self.records, tract, patch) / f"{stem}{BUTLER_TRUTH_SUFFIX}"

    def truth_table(self, tract: int, patch: int) -> Path:
        """The truth table of one patch."""
        return self.patch_folder(self.truth, tract, patch) / "part-0.parquet"

    def source_table(self, tract: int, patch: int) -> Path:
        """The table of one patch's sources."""
        return self.patch_folder(self.sources, tract, patch) / "part-0.parquet"

    def catalog_part(self, tract: int, patch: int) -> Path:
        """The catalogue's sources of one patch."""
        return self.patch_folder(self.catalog, tract, patch) / "part-0.parquet"

    def patch_memory(self, tract: int, patch: int) -> Path:
        """What consolidation keeps for one patch."""
        return self.consolidated / f"tract={tract}" / f"patch={patch}.json"

    def checksum(self, file: Path) -> Path:
        """The file with the checksum of a consolidated table, or of another file of which there is one."""
        root = f"{self.root}/"
        # Of texts: for tens of thousands of patches a Path at each step takes as long as their tables.
        within = str(file).removeprefix(root) if str(file).startswith(root) else str(file.relative_to(self.root))
        within = within.removesuffix("/part-0.parquet").removesuffix(".parquet")
        return Path(f"{self.checksums}/{within}.sha256")

    def file_of(self, checksum: Path) -> Path:
        """The file that a checksum belongs to, by the name of the checksum."""
        name = checksum.relative_to(self.checksums).with_suffix("")
        if len(name.parts) > 1:
            return self.root / name / "part-0.parquet"
        return self.root / (name if name.suffix else name.with_suffix(".parquet"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the campaign, which ends with the process that holds it.

        Raises
        ------
        CampaignError
            If another driver holds it.
        OutputError
            If the lock cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.lock))
            if (outputs := self.outputs) is not None:
                from skygraft.records.store_lock import store_locked

                outputs.check()
                stack.enter_context(store_locked(outputs.scratch.store, outputs.url))
            yield

    def is_locked(self) -> bool:
        """True if a driver runs the campaign."""
        if is_locked(self.lock):
            return True
        if (outputs := self.outputs) is None:
            return False
        from skygraft.records.store_lock import store_is_locked

        return store_is_locked(outputs.scratch.store, outputs.url)

    @property
    def outputs(self) -> Outputs | None:
        """The outputs in a store that this is the work folder of; None where they are in this folder."""
        return outputs_of(self.root) if is_copy(self.root) else None


def await_file(path: Path, size_and_time: tuple[int, int], what: str) -> None:
    """Wait until this machine sees a file as the driver does; a network file system may show an older one for a while.

    Parameters
    ----------
    path : Path
        The file.
    size_and_time : (int, int)
        `FileIdentity.size_and_time` of it for the driver.
    what : str
        What the file is, for the message.

    Raises
    ------
    CampaignError
        If it does not within some seconds.
    """
    for tries_left in reversed(range(_TRIES)):
        with contextlib.suppress(OSError), path.open("rb"):
            # Opening a file makes a network file system fetch its newest status.
            if FileIdentity.of(path).size_and_time == size_and_time:
                return
        if tries_left:
            time.sleep(1.0)
    raise CampaignError(
        f"this worker does not see the {what} that the campaign runs by",
        path=path,
        fix="Make sure that workers and driver see the same file system",
    )


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NumPy scalars and arrays to numbers and lists, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Serialize content as JSON with sorted keys, so that equal content gives equal text."""
    return json.dumps(content, sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")


def digest(content: Any) -> str:
    """SHA-256 of content, serialized as JSON with sorted keys."""
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of the content of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sweep_leftovers(root: Path) -> int:
    """Remove the temporary files that killed processes left beneath `root`, and return how many there were."""
    found, folders = 0, [str(root)]
    # Path.rglob takes half a minute for the files of a million images.
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name[0] == "." and entry.name.endswith(".tmp"):
                    Path(entry.path).unlink(missing_ok=True)
                    found += 1
    return found
