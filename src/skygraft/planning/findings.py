"""Noteworthy images and patches of a plan: unusable, without sources, off the sky map and so on.

They are counted, the first few are named, and all are rows of ``plan_findings.parquet``, with the columns finding,
image_id, path, tract, patch and note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog import read_partitions
from skygraft.catalog.partition import OUTSIDE
from skygraft.catalog.schema import is_mag_column
from skygraft.config.campaign import CampaignConfig
from skygraft.lazy import lazy_module
from skygraft.records.file_checksums import checked_path
from skygraft.records.files import Layout
from skygraft.records.plan_file import Plan

pc = lazy_module("pyarrow.compute")

__all__ = [
    "NO_IMAGES",
    "NO_MAGNITUDES",
    "NO_SOURCES",
    "OFF_MAP",
    "PLANNED_BADLY",
    "UNCOVERED",
    "UNUSABLE",
    "Examples",
    "Findings",
    "find",
]

NO_SOURCES = "images without sources"
"""No source is near them; they are written all the same."""
OFF_MAP = "images off the sky map"
"""Their centre is in no patch."""
NO_IMAGES = "patches without images"
"""Patches with sources of the catalogue that no image reads."""
NO_MAGNITUDES = "images in bands without magnitudes"
NO_LIGHT_CURVES = "images in bands without light curves"
"""Sources with a light curve are not drawn on them."""
UNUSABLE = "unusable images"
"""Unreadable, or with the image id of another: they are not in the plan."""
PLANNED_BADLY = "images whose sources cannot be chosen"
UNCOVERED = "moving objects without a position at the time of an image"
"""Their ephemeris does not cover it: the image does not have them."""
_ORDER = (UNUSABLE, PLANNED_BADLY, NO_MAGNITUDES, NO_LIGHT_CURVES, OFF_MAP, NO_SOURCES, NO_IMAGES, UNCOVERED)

type Patch = tuple[int, int]

_NAMED = 10
_SCHEMA = pa.schema(
    [
        ("finding", pa.string()),
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("tract", pa.int64()),
        ("patch", pa.int64()),
        ("note", pa.string()),
    ]
)
_COUNTED = ("band", "instrument", "format")
_COLUMNS = ("image_id", "path", "tract", "patch", "n_sources", "reads", *_COUNTED)


@dataclass(frozen=True)
class Examples:
    """A count with the first few names as examples.

    Parameters
    ----------
    n : int
        The count.
    first : tuple of str
        The first few; all of them are in ``plan_findings.parquet``.
    """

    n: int = 0
    first: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.n > 0

    def names(self) -> str:
        """The first few names, with dots if there are more."""
        return ", ".join(self.first) + (", ..." if self.n > len(self.first) else "")

    def __str__(self) -> str:
        return f"{self.n:,}: {self.names()}"

    def more(self, n: int, names: Iterable[str]) -> Examples:
        """The same with `n` added, some of them named."""
        return Examples(self.n + n, (*self.first, *names)[:_NAMED])


@dataclass
class Findings:
    """The findings of a plan.

    Parameters
    ----------
    findings : dict of str to Examples
        Count and examples for each kind of finding.
    problems : list of str
        The findings that will make images fail, in words.
    n_outside : int
        Catalogue rows in no tract of the sky map.
    counts : dict of str to dict
        Images by band, instrument and format.
    n_sources : int
        Sources to draw, summed over images.
    n_patches : int
        Home patches.
    """

    findings: dict[str, Examples] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    n_outside: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    n_sources: int = 0
    n_patches: int = 0


def find(config: CampaignConfig, plan: Plan, partitions: Mapping[Patch, int], path: Path) -> Findings:
    """Find the noteworthy images and patches of a plan, and write the table of findings.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    partitions : mapping of (int, int) to int
        Rows of the catalogue in each patch.
    path : Path
        The table to write.

    Returns
    -------
    Findings

    Raises
    ------
    CampaignError, CatalogError
        If the plan or the catalogue cannot be read.
    OutputError
        If the table cannot be written.
    """
    result = Findings({name: Examples() for name in _ORDER}, n_outside=partitions.get(OUTSIDE, 0))
    result.counts = {name: Counter() for name in _COUNTED}
    bands = _Bands(config)
    read, homes = set[int](), set[int]()
    with checked_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        sink = _Sink(writer, result.findings)
        for batch in plan.batches(_COLUMNS):
            sources = batch["n_sources"].to_numpy()
            result.n_sources += int(sources.sum())
            homes.update(np.unique(_key(batch["tract"].to_numpy(), batch["patch"].to_numpy())).tolist())
            for name, counter in result.counts.items():
                for row in pc.value_counts(batch[name].fill_null("unknown")).to_pylist():
                    counter[row["values"]] += row["counts"]
            sink.images(NO_SOURCES, batch, sources == 0)
            sink.images(OFF_MAP, batch, batch["tract"].to_numpy() < 0)
            sink.images(NO_MAGNITUDES, batch, bands.missing(batch["band"], sources))
            if (known := plan.metadata.get("light_curve_bands")) is not None:
                dark = ~np.isin(batch["band"].fill_null("").to_numpy(zero_copy_only=False).astype(str), known)
                sink.images(NO_LIGHT_CURVES, batch, dark & (sources > 0))
            # Flattened twice: pairs of tract and patch, one after the other.
            pairs = batch["reads"].flatten().flatten().to_numpy().reshape(-1, 2)
            read.update(np.unique(_key(pairs[:, 0], pairs[:, 1])).tolist())
        empty = [patch for patch in sorted(partitions) if patch != OUTSIDE and _key(*patch) not in read]
        sink.patches(NO_IMAGES, empty, [f"{partitions[patch]} sources" for patch in empty])
        unusable = plan.metadata.get("unusable", [])
        sink.unusable(unusable)
        bad = plan.metadata.get("problems", [])
        sink.notes(PLANNED_BADLY, bad)
        uncovered = plan.metadata.get("uncovered", {"n": 0, "notes": []})
        sink.notes(UNCOVERED, uncovered["notes"], more=uncovered["n"] - len(uncovered["notes"]))
    result.n_patches = len(homes)
    result.findings = {name: few for name, few in result.findings.items() if few}
    result.problems = [
        *_some([f"{b['path']} cannot be used ({b['kind']}): {b['reason']}" for b in unusable], path),
        *_some(bad, path),
        *bands.problems(),
    ]
    return result


def _key(tract: Any, patch: Any) -> Any:
    return (tract << 32) + patch


def _some(problems: Sequence[str], path: Path) -> list[str]:
    more = len(problems) - _NAMED
    return [*problems[:_NAMED], *([f"... and {more:,} more of the kind, all in {path.name}"] if more > 0 else [])]


class _Bands:
    """Finds the images in a band for which the catalogue has no magnitudes."""

    def __init__(self, config: CampaignConfig) -> None:
        columns = read_partitions(Layout(config.output).catalog, []).colnames
        self._bands = [name.removeprefix("mag_") for name in columns if is_mag_column(name)]
        # A plain `mag` applies to every image.
        self._any = not self._bands and "mag" in columns
        self._default = config.catalog.band
        self._count: dict[str | None, int] = {}

    def missing(self, band: pa.Array, n_sources: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self._default is not None:
            band = band.fill_null(self._default)
        if self._any:
            return np.zeros(len(band), dtype=np.bool_)
        known = pc.is_in(band, value_set=pa.array(self._bands, type=pa.string())).to_numpy(zero_copy_only=False)
        # An image without a band gets the magnitudes of a catalogue with one band.
        known |= band.is_null().to_numpy(zero_copy_only=False) & (len(self._bands) <= 1)
        missing: NDArray[np.bool_] = ~known & (n_sources > 0)
        for row in pc.value_counts(band.filter(pa.array(missing))).to_pylist():
            self._count[row["values"]] = self._count.get(row["values"], 0) + row["counts"]
        return missing

    def problems(self) -> list[str]:
        have = ", ".join(self._bands) or "none"
        return [
            f"{n:,} images are in band {band}, for which the catalogue has no magnitudes (it has {have})"
            if band is not None
            else f"{n:,} images do not say their band, and the catalogue has several ({have})"
            for band, n in sorted(self._count.items(), key=str)
        ]


class _Sink:
    """Writes the rows of the table of findings, and counts them."""

    def __init__(self, writer: pq.ParquetWriter, findings: dict[str, Examples]) -> None:
        self._writer = writer
        self._findings = findings

    def images(self, finding: str, batch: pa.RecordBatch, chosen: NDArray[np.bool_]) -> None:
        rows = batch.select(["image_id", "path", "tract", "patch"]).filter(pa.array(chosen))
        names = rows["image_id"].slice(0, _NAMED).to_pylist()
        self._add(finding, [*rows.columns, pa.nulls(rows.num_rows, pa.string())], names)

    def patches(self, finding: str, patches: Sequence[Patch], notes: Sequence[str]) -> None:
        empty = pa.nulls(len(patches), pa.string())
        numbers = [pa.array([patch[i] for patch in patches], type=pa.int64()) for i in (0, 1)]
        names = [f"{tract},{patch}" for tract, patch in patches[:_NAMED]]
        self._add(finding, [empty, empty, *numbers, pa.array(notes, type=pa.string())], names)

    def unusable(self, images: Sequence[Mapping[str, str]]) -> None:
        texts = [[str(bad.get(name, "")) for bad in images] for name in ("image_id", "path")]
        notes = [f"{bad['error']}: {bad['reason']}" for bad in images]
        self._texts(UNUSABLE, texts[0], texts[1], notes, texts[1])

    def notes(self, finding: str, notes: Sequence[str], *, more: int = 0) -> None:
        none = [None] * len(notes)
        self._texts(finding, none, none, notes, [note.split(":")[0] for note in notes])
        if more:  # of which there is no note
            self._findings[finding] = self._findings[finding].more(more, [])

    def _texts(
        self,
        finding: str,
        ids: Sequence[str | None],
        paths: Sequence[str | None],
        notes: Sequence[str],
        names: Sequence[str],
    ) -> None:
        text, empty = pa.string(), pa.nulls(len(notes), pa.int64())
        columns = [pa.array(ids, text), pa.array(paths, text), empty, empty, pa.array(notes, text)]
        self._add(finding, columns, names[:_NAMED])

    def _add(self, finding: str, columns: Sequence[pa.Array], names: Iterable[str]) -> None:
        n = len(columns[0])
        if n:
            self._findings[finding] = self._findings[finding].more(n, names)
            kind = pa.array([finding], pa.string()).take(pa.array(np.zeros(n, dtype=np.int64)))
            self._writer.write_batch(pa.RecordBatch.from_arrays([kind, *columns], schema=_SCHEMA))
