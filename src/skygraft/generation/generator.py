"""The generator of catalogues: what a description needs is read, then rows are made, block by block."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.checks import validate
from skygraft.catalog.io import arrow_array, numpy_array, one_array
from skygraft.catalog.schema import COLUMNS
from skygraft.disk import atomic_path
from skygraft.errors import CatalogError, ConfigError, OutputExistsError
from skygraft.generation import positions
from skygraft.generation.avoid import Avoided
from skygraft.generation.cells import Area, CellArea, RegionArea
from skygraft.generation.conditions import depth_at, measure_images, read_masks
from skygraft.generation.footprint import FootprintArea, read_images
from skygraft.generation.given_positions import avoided_sources, centres_of
from skygraft.generation.moc import read_density_map, read_moc
from skygraft.generation.region import as_region
from skygraft.generation.sources import Block, SourceMaker
from skygraft.generation.spec import LARGEST_ID, PopulationSpec
from skygraft.generation.streams import Streams

__all__ = ["CatalogGenerator", "GenerationSummary", "Progress", "check_output"]

type Floats = NDArray[np.float64]
type Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``."""

ROW_GROUP = 1 << 18
"""Rows of a row group of the file, made at once."""
_METADATA = b"skygraft-generation"
_SUFFIXES = (".parquet", ".parq", ".pq")
_CHECKED = 500
_ARCMIN2 = 3600.0


@dataclass(frozen=True)
class GenerationSummary:
    """What was generated.

    Parameters
    ----------
    path : Path or None
        The file.
    n : int
        Sources.
    area : float
        Square degrees of the area, avoided places included.
    bands : tuple of str
        Bands of the catalogue.
    types : dict of str to int
        Number of each type.
    notes : tuple of str
        What is worth knowing: the separation of a grid, images without a depth, rows of populations left out.
    """

    path: Path | None
    n: int
    area: float
    bands: tuple[str, ...]
    types: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def density(self) -> float:
        """Sources per square arcminute of the area."""
        return self.n / (self.area * _ARCMIN2)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        found = dataclasses.asdict(self) | {"path": None if self.path is None else str(self.path)}
        return found | {"bands": list(self.bands), "notes": list(self.notes), "density_per_arcmin2": self.density}


@dataclass(eq=False)
class CatalogGenerator:
    """Generates the catalogue that a description describes: what must be read is read when it is made.

    Parameters
    ----------
    spec : PopulationSpec
    processes : int
        Processes that read images, where their depth, seeing or masks are needed.
    progress : callable, optional
        Called with what is being done, and the numbers done and in total.

    Attributes
    ----------
    n : int
        Number of sources.
    bands : tuple of str
        Bands of the catalogue.
    area : float
        Square degrees.
    notes : list of str
        What is worth knowing.

    Raises
    ------
    SkygraftError
        If something cannot be read, or no such catalogue can be made.
    """

    spec: PopulationSpec
    processes: int = 1
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        spec = self.spec
        self._streams = Streams(spec.seed)
        self._footprint = self._read_footprint()
        self.bands = self._bands()
        self._maker = SourceMaker(spec, self.bands, self._streams)
        for kind in self._maker.kinds:
            if kind.real is not None and kind.real.n_left_out:
                self.notes.append(f"{kind.real.n_left_out} rows of {kind.real.path.name} cannot be used")
        # Tables before images: what is wrong with them should be said before minutes of reading.
        self._tables = [avoided_sources(table) for table in spec.avoid.tables]
        if spec.positions.around is not None:
            self._centres = centres_of(spec.positions.around)
        self._m5 = self._depths()
        self._area = Area(self._parts())
        if not len(self._area) or self._area.area <= 0:
            raise _empty_area(spec)
        self.area = self._area.area
        self._field = positions.Field(self._area, self._avoided())
        self.n = self._number()
        self._ids_fit()

    def _read_footprint(self) -> FootprintArea | None:
        area = self.spec.area
        if area.footprint is None:
            return None
        images = read_images(area.footprint)
        self._image_bands = images.bands
        if area.image_bands is not None:
            images = images.of_bands(area.image_bands)
        return FootprintArea(images, area.images_at_least)

    def _bands(self) -> tuple[str, ...]:
        if self.spec.bands is not None:
            if self._footprint is not None and self._image_bands:
                unknown = [band for band in self.spec.bands if band not in self._image_bands]
                if unknown:
                    raise CatalogError(
                        f"no image is of band {', '.join(unknown)}; the images are of {', '.join(self._image_bands)}",
                        path=self._footprint.images.origin,
                        key="bands",
                        fix="Name bands of the images",
                    )
            return self.spec.bands
        assert self._footprint is not None
        found = self._footprint.images.bands
        if not found:
            raise CatalogError(
                "the images do not say their band",
                path=self._footprint.images.origin,
                key="bands",
                fix="Name the bands of the catalogue: bands: [r], or --band r",
            )
        return tuple(found)

    def _parts(self) -> list[CellArea]:
        area = self.spec.area
        parts: list[CellArea] = [] if self._footprint is None else [self._footprint]
        if area.density_map is not None:
            parts.append(read_density_map(area.density_map, area.map_column))
        if area.moc is not None:
            parts.append(read_moc(area.moc))
        if area.region is not None:
            parts.append(RegionArea(as_region(area.region)))
        return parts

    def _step(self, what: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done, total: progress(what, done, total)

    def _depths(self) -> Floats | None:
        """Depth of the images that count for the first band: NaN for those of other bands."""
        if not self._maker.needs_depth or self._footprint is None or self.bands[0] in self.spec.depth.m5:
            return None
        images = self._footprint.images
        own = np.array([band == self.bands[0] for band in images.table.column("band").to_pylist()])
        if not own.any():
            own[:] = True  # images that do not say their band are of the catalogue's
        chosen = dataclasses.replace(images, table=images.table.filter(arrow_array(own)))
        step = self._step("reading depths")
        found = measure_images(chosen, depth=True, file=self.spec.depth.file, processes=self.processes, progress=step)
        self._note_problems(found.problems, len(chosen), "depth")
        m5 = np.full(len(images), np.nan)
        m5[own] = found.m5
        self._typical = float(np.nanmedian(found.m5))
        self.notes.append(
            f"5 sigma depths of {np.count_nonzero(np.isfinite(found.m5))} images in {self.bands[0]}: "
            f"{np.nanmin(found.m5):.2f} to {np.nanmax(found.m5):.2f}"
        )
        return m5

    def _note_problems(self, problems: Sequence[str], n: int, what: str) -> None:
        if problems:
            self.notes.append(f"{len(problems)} of {n} images have no {what}: {problems[0]}")

    def _avoided(self) -> list[Avoided]:
        spec = self.spec.avoid
        avoided: list[Avoided] = list(self._tables)
        ra, dec, radius = self._area.circle()
        for table, sources in zip(spec.tables, self._tables, strict=True):
            if not sources.reaches(ra, dec, radius):
                self.notes.append(f"no source of {table.path.name} is near the area: are its positions in degrees?")
        if spec.masks is not None:
            assert self._footprint is not None
            masks = spec.masks
            avoided.append(
                read_masks(
                    self._footprint,
                    masks.planes,
                    grow=masks.grow,
                    every=masks.on == "every",
                    processes=self.processes,
                    progress=self._step("reading masks"),
                )
            )
        return avoided

    def _number(self) -> int:
        """Number of sources; the places are ready to be drawn afterwards."""
        spec = self.spec
        n = spec.n
        if spec.density is not None:
            n = round(spec.density * self.area * _ARCMIN2)
        elif n is None and spec.area.density_map is not None:
            n = round(self._area.expected)
        if n is not None and n < 1:
            raise CatalogError(
                f"no sources: the area of {self.area:.3g} square degrees would hold {n}",
                key="density",
                fix="Raise the density, or give n",
            )
        self._separation = self._separation_arcsec()
        kind = spec.positions.kind
        if kind == "hexagonal":
            n, step, self._grid = positions.hexagonal(self._field, self._streams, n, self._separation)
            self.notes.append(f"a hexagonal grid whose neighbours are {step:.4g} arcsec apart")
        elif kind == "around":
            assert spec.positions.around is not None
            if n is None:
                n = sum(len(place.points) for place in self._around(None))
                if not n:
                    raise CatalogError(
                        f"none of the {len(self._centres[0])} positions is in the area",
                        path=spec.positions.around.path,
                        key="positions.around",
                        fix="Give another area, or check the columns of the positions",
                    )
        assert n is not None
        return n

    def _separation_arcsec(self) -> float | None:
        given = self.spec.positions.separation
        if not isinstance(given, str):
            return given
        assert self._footprint is not None
        found = measure_images(
            self._footprint.images, depth=False, file=None, processes=self.processes,
            progress=self._step("reading PSFs"),
        )  # fmt: skip
        self._note_problems(found.problems, len(self._footprint.images), "PSF")
        widest = float(np.nanmax(found.fwhm))
        separation = float(given.split()[0]) * widest
        self.notes.append(f"a separation of {separation:.3g} arcsec: the widest PSF has a FWHM of {widest:.3g} arcsec")
        return separation

    def _ids_fit(self) -> None:
        if self.spec.first_id + self.n - 1 > LARGEST_ID:
            raise CatalogError(
                f"first_id {self.spec.first_id} and {self.n} sources: ids would pass the largest of 64 bits, "
                f"{LARGEST_ID}",
                key="first_id",
                fix="Lower first_id",
            )

    def _around(self, wanted: int | None) -> Iterator[positions.Place]:
        around = self.spec.positions.around
        assert around is not None
        return positions.around(self._field, self._streams, self._centres, around.radius, around.each, wanted)

    def _places(self) -> Iterator[positions.Place]:
        kind = self.spec.positions.kind
        if kind == "hexagonal":
            return self._grid
        if kind == "around":
            given = self.spec.n is not None or self.spec.density is not None
            return self._around(self.n if given else None)
        if self._separation is not None:
            return positions.separated(self._field, self._streams, self.n, self._separation)
        draw = positions.halton if kind == "halton" else positions.uniform
        return draw(self._field, self._streams, self.n)

    def blocks(self, rows: int = ROW_GROUP) -> Iterator[Block]:
        """Generate the catalogue in blocks of consecutive rows; it does not depend on their size.

        Parameters
        ----------
        rows : int
            Rows of a block; the last may have fewer.

        Yields
        ------
        dict of str to ndarray
            Columns; ``source_type`` as indices of `types`.
        """
        start = 0
        for ra, dec, hosts, depth in _regrouped(self._with_depth(), rows, self.n):
            block = self._maker.rows(start, len(ra), depth)
            ids = np.arange(self.spec.first_id + start, self.spec.first_id + start + len(ra), dtype=np.int64)
            first: Block = {"injection_id": ids, "ra": ra, "dec": dec}
            if self.spec.object_ids:
                first["object_id"] = ids
            if self.spec.positions.kind == "around":
                first["host_id"] = hosts
            start += len(ra)
            yield first | block
        if start < self.n:
            raise CatalogError(f"only {start} of {self.n} positions were found", key="n", fix="Lower the number")

    def _with_depth(self) -> Iterator[tuple[NDArray[Any], ...]]:
        for place in self._places():
            points = place.points
            depth = np.full(len(points), np.nan)
            if self._maker.needs_depth:
                depth = self._depth_of(points)
            hosts = np.full(len(points), -1, dtype=np.int64) if place.hosts is None else place.hosts
            yield points.ra, points.dec, hosts, depth

    def _depth_of(self, points: Any) -> Floats:
        if self._m5 is None:
            return np.full(len(points), self.spec.depth.m5[self.bands[0]])
        assert self._footprint is not None
        found = depth_at(self._footprint, self._m5, points, self.spec.depth.of)
        # A place that no image of the band shows: the source is not seen in it, but needs a magnitude.
        return np.where(np.isfinite(found), found, self._typical)

    @property
    def types(self) -> list[str]:
        """The types that `blocks` numbers."""
        return self._maker.types

    @property
    def schema(self) -> pa.Schema:
        """The schema of the file."""
        fields = [_field("injection_id"), _field("ra"), _field("dec")]
        fields += [_field("object_id")] if self.spec.object_ids else []
        fields += [_field("host_id")] if self.spec.positions.kind == "around" else []
        fields += [pa.field("source_type", pa.dictionary(pa.int8(), pa.string()))]
        fields += [pa.field(f"mag_{band}", pa.float64(), metadata={"unit": "mag"}) for band in self.bands]
        fields += [_field(name) for name in self._maker.columns]
        content = {"seed": self.spec.seed, "n": self.n, "spec": self.spec.model_dump(mode="json")}
        return pa.schema(fields, metadata={_METADATA: json.dumps(content, sort_keys=True)})

    def tables(self, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """Generate the catalogue as Arrow tables, as `blocks` does."""
        schema, words = self.schema, pa.array(self.types, type=pa.string())
        for block in self.blocks(rows):
            arrays = []
            for column in schema:
                if column.name == "source_type":
                    codes = arrow_array(block["source_type"])
                    arrays.append(pa.DictionaryArray.from_arrays(codes, words))
                else:
                    arrays.append(arrow_array(np.ascontiguousarray(block[column.name])))
            yield pa.Table.from_arrays(arrays, schema=schema)

    def table(self) -> QTable:
        """Generate the whole catalogue in memory."""
        return validate(_decoded(pa.concat_tables(self.tables())))

    def write(self, path: Path, *, overwrite: bool = False) -> GenerationSummary:
        """Write the catalogue, a row group at a time; the file appears when it is whole.

        Parameters
        ----------
        path : Path
            A Parquet file.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        GenerationSummary

        Raises
        ------
        OutputExistsError
            If the file exists.
        CatalogError
            If the catalogue cannot be made.
        OutputError
            If it cannot be written.
        """
        check_output(path, overwrite=overwrite)
        counts = np.zeros(len(self.types), dtype=np.int64)
        done = 0
        # Only text and types repeat; random numbers do not compress, but for their exponents.
        numbers = [f.name for f in self.schema if pa.types.is_floating(f.type)]
        options: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": [f.name for f in self.schema if f.name not in (*numbers, "injection_id")],
            "write_page_checksum": True,
        }
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, self.schema, **options) as writer:
            for table in self.tables():
                codes = _codes(table)
                if not done:
                    # Rules that tie columns to each other are the same for all rows of a type.
                    first = [np.flatnonzero(codes == k)[:_CHECKED] for k in range(len(self.types))]
                    validate(_decoded(table.take(arrow_array(np.sort(np.concatenate(first))))))
                writer.write_table(table, row_group_size=ROW_GROUP)
                counts += np.bincount(codes, minlength=len(counts))
                done += table.num_rows
                if self.progress is not None:
                    self.progress("generating", done, self.n)
        return self.summary(path, counts)

    def summary(self, path: Path | None, counts: NDArray[np.int64]) -> GenerationSummary:
        """What was generated, with the number of each type."""
        types = {name: int(n) for name, n in zip(self.types, counts, strict=True) if n}
        return GenerationSummary(path, self.n, self.area, self.bands, types, tuple(self.notes))


def _empty_area(spec: PopulationSpec) -> CatalogError:
    given = [name for name in ("footprint", "region", "moc", "density_map") if getattr(spec.area, name) is not None]
    return CatalogError(
        f"the area is empty: no place is in {'all of ' if len(given) > 1 else ''}{', '.join(given)}",
        key="area",
        fix="Give areas that overlap",
    )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise, before anything is made, if the file cannot be written."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"the catalogue is written as Parquet, and {path.name} does not end in {', '.join(_SUFFIXES)}",
            path=path,
            key="output",
            fix="Change its ending; skygraft.write_catalog writes tables in memory as other formats",
        )
    if path.exists() and not overwrite:
        raise OutputExistsError("the file exists", path=path, fix="Use overwrite=True, or give another name")


def _field(name: str) -> pa.Field:
    spec = COLUMNS[name]
    types = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_()}
    return pa.field(name, types[spec.kind], metadata={"unit": spec.unit} if spec.unit else None)


def _codes(table: pa.Table) -> NDArray[np.int8]:
    """Which of the generator's types each row is of."""
    return numpy_array(one_array(table.column("source_type")).indices)


def _decoded(table: pa.Table) -> QTable:
    return from_arrow(table.replace_schema_metadata(None))


def _regrouped(parts: Iterator[tuple[Any, ...]], rows: int, n: int) -> Iterator[tuple[Any, ...]]:
    """Arrays of n rows in all, in groups of some rows."""
    waiting: list[tuple[Any, ...]] = []
    held = done = 0
    for part in parts:
        waiting.append(part)
        held += len(part[0])
        while held >= rows or held + done >= n:
            size = min(rows, n - done)
            whole = tuple(np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
            yield tuple(array[:size] for array in whole)
            done += size
            if done >= n:
                return
            waiting = [tuple(array[size:] for array in whole)]
            held -= size
    if held:
        yield tuple(np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
