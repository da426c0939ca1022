"""Index the images of a survey: identity and sky position of each, read from headers alone.

A bad image never stops the index: it becomes a row of the table of failures, with the reason.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import MaskedColumn, Table

from skygraft.catalog.io import arrow_array, numpy_array, one_array
from skygraft.disk import relative_name
from skygraft.errors import ConfigError, FormatError, SkygraftError
from skygraft.exposure import DataId
from skygraft.formats import ImageFootprint, get_format, read_footprint
from skygraft.formats.fits_kinds import kind_of_name
from skygraft.formats.fits_layout import is_flat, list_hdus
from skygraft.formats.legacy_tables import read_ccds
from skygraft.formats.registry import killed_its_reader, load_formats
from skygraft.lazy import lazy_module
from skygraft.paths import home_expanded
from skygraft.place_names import STUBS_KIND, as_kind, is_copy, is_url, shown_place, url_of
from skygraft.places import beneath, bring, find_copies, for_headers, given_path, prefetched, refresh, scratch_of
from skygraft.printable import printable
from skygraft.processes import Mapper, careful_map
from skygraft.survey.butler import ButlerQuery, find_images, repository
from skygraft.survey.image_columns import IndexedImage, columns_of
from skygraft.survey.index_file import INDEX_SCHEMA, IndexFile, SurveyIndex, absolute

pc = lazy_module("pyarrow.compute")

__all__ = ["FAILURES", "index_images", "index_kinds", "index_survey", "open_index", "register_index_kind"]

FAILURES = "failures"
"""Key in the ``meta`` of the index: the table of images that could not be indexed."""

_FAILURE = ("path", "kind", "image_id", "error", "reason")
_UNITS = {name: c.unit for name, c in columns_of(IndexedImage).items() if c.unit and pa.types.is_floating(c.type)}
_WHOLE, _HDU = "_whole", "_hdu"
_ROWS = pa.schema([*INDEX_SCHEMA, (_WHOLE, pa.string()), (_HDU, pa.string())])
"""Schema while the index is built: with full path and HDU, by which images of the same id are sorted."""
_PART = 10_000

type Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to index.

    Parameters
    ----------
    path : str
        Its file.
    format : str
        Its format, or "auto".
    options : dict
        Options of the format, JSON types.
    data_id : DataId, optional
        Parts of its identity that are known without the file; they take precedence over the file.
    dataset : str
        Its dataset in a Butler repository, from `skygraft.dataset.Dataset.to_json`; empty for none.
    problem : SkygraftError, optional
        Why it cannot be used, if that is already known.
    """

    path: str
    format: str
    options: dict[str, Any]
    data_id: DataId | None = None
    dataset: str = ""
    problem: SkygraftError | None = None


type IndexKind = Callable[[Any, Path, str, dict[str, Any]], Iterator[ImageJob]]
"""``kind(value, base_dir, format, options)`` iterates over the images that a specification's value lists."""

_KINDS: dict[str, IndexKind] = {}
_KEYS = ("format", "options")


def register_index_kind(name: str, kind: IndexKind) -> None:
    """Register a way to list images, used for specifications with the key `name`.

    Parameters
    ----------
    name : str
        Key of the specification.
    kind : callable
        See `IndexKind`.
    """
    _KINDS[name] = kind


def index_kinds() -> tuple[str, ...]:
    """Return the registered ways to list images: a specification has exactly one of these keys."""
    return (*_KINDS, "index")


@dataclass(frozen=True)
class _Failure:
    path: str
    kind: str
    error: str
    reason: str
    image_id: str = ""
    is_file: bool = True
    """Whether `path` is a file of this machine, to be reported relative to the survey's folder."""


def index_images(
    spec: Mapping[str, Any],
    base_dir: str | os.PathLike[str] = ".",
    *,
    progress: Progress | None = None,
    mapper: Mapper = careful_map,
) -> Table:
    """Index the images of a survey: identity and sky position of each, without reading pixels.

    Parameters
    ----------
    spec : mapping
        Exactly one of ``images`` (a glob pattern, ``**`` allowed, or a list of them), ``ccds`` (a survey-ccds table
        of the Legacy Surveys, or a list), ``butler`` (``{repo, collections, dataset_type, where}``: datasets of a
        Butler repository) and ``index`` (a Parquet file that ``skygraft index -o`` wrote); optionally ``format`` and
        ``options`` (those of the format; an index has its own). With the option ``hdu: all``, every two-dimensional
        image of each file is indexed separately.
    base_dir : path-like
        Directory that relative paths start from.
    progress : callable, optional
        Called after each image with the numbers of images done and in total.
    mapper : callable, optional
        ``mapper(function, jobs)`` returns the results in the order of the jobs, as `map` does; an executor's ``map``
        reads several images at once. By default images are read in a child process, so that an image that crashes it
        becomes a failure and the others are still indexed.

    Returns
    -------
    astropy.table.Table
        One row per image, sorted by ``image_id``. The columns are the fields of
        `skygraft.survey.image_columns.IndexedImage`; paths are relative to `base_dir` where beneath it.
        ``meta["failures"]`` is a table (path, kind, image_id, error, reason) of images that are left out: kind is
        "error", or "duplicate" for every image but the first with one image_id.
        ``meta["companions"]`` lists files that are weights or masks of an indexed image.

    Raises
    ------
    ConfigError
        If the specification is invalid.
    FormatError
        If a table of CCDs cannot be read.
    """
    index = index_survey(spec, base_dir, progress=progress, mapper=mapper)
    table = Table([_masked(name, index.table.column(name)) for name in INDEX_SCHEMA.names])
    rows = [tuple(bad[name] for name in _FAILURE) for bad in index.failures]
    table.meta[FAILURES] = Table(rows=rows or None, names=list(_FAILURE), dtype=[str] * len(_FAILURE))
    table.meta["companions"] = list(index.companions)
    return table


def index_survey(
    spec: Mapping[str, Any],
    base_dir: str | os.PathLike[str] = ".",
    *,
    progress: Progress | None = None,
    mapper: Mapper = careful_map,
) -> SurveyIndex:
    """Index the images of a survey as `index_images` does, into Arrow columns (300 MB for a million images).

    Parameters
    ----------
    spec, base_dir, progress, mapper
        As in `index_images`.

    Returns
    -------
    SurveyIndex
    """
    base = given_path(base_dir)
    kind, value, fmt, options = _kind(spec)
    if kind == "index":
        return open_index(value, base).read()
    jobs = list(_KINDS[kind](value, base, fmt, options))
    parts: list[pa.Table] = []
    waiting: list[dict[str, Any]] = []
    bad: list[_Failure] = []
    companions: set[str] = set()
    for done, result in enumerate(mapper(_Looker(), prefetched(jobs, lambda job: job.path)), start=1):
        if isinstance(result, _Failure):
            bad.append(result)
        else:
            footprint, job = result
            waiting.append(_row(footprint, job, base))
            companions.update(_absolute(name) for name in footprint.files[1:])
            if len(waiting) == _PART:
                parts.append(pa.Table.from_pylist(waiting, schema=_ROWS))
                waiting = []
        if progress is not None:
            progress(done, len(jobs))
    parts.append(pa.Table.from_pylist(waiting, schema=_ROWS))
    return _finished(pa.concat_tables(parts), bad, companions, base)


def open_index(value: Any, base: Path) -> IndexFile:
    """Open the index file that a specification's ``index`` names.

    Parameters
    ----------
    value : str
        Its path.
    base : Path
        Directory that a relative path starts from.

    Raises
    ------
    ConfigError, FormatError
        If it is not the path of an index file.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"index is {value!r}; the path of a Parquet file is needed", key="index")
    return IndexFile(_place(base, value))


def _place(base: Path, name: str | os.PathLike[str]) -> Path:
    """A table of images, which is brought to this machine if it lies in a store."""
    if is_copy(base) or is_url(name):
        return bring(beneath(base, os.fspath(name)))
    return Path(absolute(base / home_expanded(name)))


def _kind(spec: Mapping[str, Any]) -> tuple[str, Any, str, dict[str, Any]]:
    """Return the key of the way to list images, its value, the format and its options."""
    ways = index_kinds()
    allowed = (*ways, *_KEYS)
    for key in spec:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            raise ConfigError(
                f"{key!r} is not a way to list images; those are: {', '.join(ways)}",
                key=str(key),
                fix=f"Did you mean {near[0]!r}?" if near else None,
            )
    kinds = [key for key in ways if spec.get(key) is not None]
    if len(kinds) != 1:
        given = f"{' and '.join(kinds)} are given" if kinds else "none is given"
        raise ConfigError(f"one way to list images is needed ({' or '.join(ways)}); {given}", key="survey")
    options = spec.get("options") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"options is {options!r}; a mapping is needed", key="options")
    return kinds[0], spec[kinds[0]], str(spec.get("format") or "auto"), dict(options)


def _patterns(value: Any, key: str) -> list[str]:
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    if isinstance(value, list | tuple) and value and all(isinstance(v, str | os.PathLike) for v in value):
        return [os.fspath(v) for v in value]
    raise ConfigError(f"{key} is {value!r}; a path or a list of paths is needed", key=key)


def _from_patterns(value: Any, base: Path, fmt: str, options: dict[str, Any]) -> Iterator[ImageJob]:
    paths: set[str] = set()
    patterns = _patterns(value, "images")
    if is_copy(base) or any(map(is_url, patterns)):
        paths = _in_store(patterns, base)
        patterns = []
    for pattern in patterns:
        whole = os.path.normpath(base / home_expanded(pattern))
        if glob.has_magic(pattern):
            # The base directory is not part of the pattern: its name may contain brackets.
            whole = pattern if Path(pattern).is_absolute() else f"{glob.escape(os.fspath(base))}/{pattern}"
            # Not Path.glob, which finds hidden files: these may be outputs that are still being written.
            found = (os.path.normpath(p) for p in glob.glob(whole, recursive=True))  # noqa: PTH207
            paths |= {path for path in found if not Path(path).is_dir()}
        else:
            paths.add(whole)
    for path in sorted(paths):
        if options.get("hdu") != "all":
            yield ImageJob(path, fmt, options)
            continue
        rest = {key: option for key, option in options.items() if key != "hdu"}
        try:
            headers = for_headers(Path(path)) if is_copy(path) else path
            hdus = [hdu.index for hdu in list_hdus(headers) if is_flat(hdu) and kind_of_name(hdu.name) is None]
        except SkygraftError:
            # The file as a whole is one job, so that its failure is reported with the others.
            hdus = []
        yield from (ImageJob(path, fmt, rest | {"hdu": hdu}) for hdu in hdus)
        if not hdus:
            yield ImageJob(path, fmt, rest)


def _in_store(patterns: list[str], base: Path) -> set[str]:
    """The files in stores that patterns match, as paths of this machine."""
    found: set[Path] = set()
    named: list[Path] = []
    for pattern in patterns:
        top = url_of(base)
        url = pattern if top is None or is_url(pattern) else f"{top.rstrip('/')}/{pattern}"
        if not is_url(url):
            found.add(Path(absolute(base / home_expanded(url))))
        elif glob.has_magic(url) and not (url.startswith("http") and "*" not in url):
            found.update(find_copies(url, scratch_of(base) if is_copy(base) else None))
        else:
            named.append(beneath(base, url))
    refresh(named)
    return {os.fspath(path) for path in (*found, *named)}


def _from_ccds(value: Any, base: Path, fmt: str, options: dict[str, Any]) -> Iterator[ImageJob]:
    fmt = "legacy_survey" if fmt == "auto" else fmt
    for name in _patterns(value, "ccds"):
        path = _place(base, name)
        table = read_ccds(path)
        path = as_kind(path, STUBS_KIND)
        root = path.parent
        if "root" in options:
            given = beneath(base, str(options["root"]))
            root = given if is_copy(given) else Path(absolute(given))
        names, ccds = table.columns["image_filename"], table.columns["ccdname"]
        for i in range(len(table)):
            own = {"ccds": os.fspath(path), "ccdname": str(ccds[i])}
            if "root" in options:
                own["root"] = os.fspath(root)
            yield ImageJob(os.fspath(root / "images" / str(names[i])), fmt, options | own)


def _from_butler(value: Any, base: Path, fmt: str, options: dict[str, Any]) -> Iterator[ImageJob]:
    query = ButlerQuery.from_spec(value)
    query = dataclasses.replace(query, repo=repository(query.repo, base))
    for found in find_images(query, fmt, options):
        yield ImageJob(found.path, found.format, found.options, found.data_id, found.dataset.to_json(), found.problem)


register_index_kind("images", _from_patterns)
register_index_kind("ccds", _from_ccds)
register_index_kind("butler", _from_butler)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look(job: ImageJob) -> tuple[ImageFootprint, ImageJob] | _Failure:
    if not _is_text(job.path):
        # Tables and JSON cannot store such a name.
        problem = FormatError("the file's name is not UTF-8 text", fix="Give it another name, or a link with one")
        return _Failure(printable(job.path), "error", type(problem).__name__, str(problem))
    if job.problem is not None:
        return _Failure(job.path, "error", type(job.problem).__name__, str(job.problem), is_file=False)
    try:
        footprint = read_footprint(job.path, format=job.format, **job.options)
        if job.data_id is not None:
            known = dataclasses.replace(footprint.data_id, **job.data_id.as_dict())
            footprint = dataclasses.replace(footprint, data_id=known)
        return footprint, dataclasses.replace(job, options={**footprint.pinned, **job.options})
    except Exception as error:  # A broken image may raise anything, and must not stop the others.
        return _Failure(job.path, "error", type(error).__name__, str(error))


class _Looker:
    """Reads the footprints of images; one that cannot be read, or crashes its process, becomes a failure."""

    def __call__(self, job: ImageJob) -> tuple[ImageFootprint, ImageJob] | _Failure:
        return _look(job)

    def lost(self, job: ImageJob, reason: str) -> _Failure:
        error = killed_its_reader(job.path, reason)
        return _Failure(job.path, "error", type(error).__name__, str(error))

    def prepare(self) -> None:
        load_formats()


def _row(footprint: ImageFootprint, job: ImageJob, base: Path) -> dict[str, Any]:
    data_id, info = footprint.data_id, footprint.visit_info
    return {
        "image_id": str(data_id),
        "path": _shown(footprint.path, base),
        "hdu": _hdu(footprint),
        "format": footprint.format,
        "instrument": data_id.instrument,
        "visit": data_id.visit,
        "detector": None if data_id.detector is None else str(data_id.detector),
        "band": data_id.band,
        "mjd": info.mjd,
        "exposure_time": info.exposure_time,
        "nx": footprint.shape[1],
        "ny": footprint.shape[0],
        "ra": footprint.center[0],
        "dec": footprint.center[1],
        "polygon": np.asarray(footprint.corners, dtype=float).tolist(),
        "pixel_scale": footprint.pixel_scale,
        "n_bytes": footprint.n_bytes,
        "options": json.dumps(_with_urls(job.options) if is_copy(job.path) else job.options, sort_keys=True),
        "dataset": job.dataset or None,
        _WHOLE: _absolute(footprint.path),
        _HDU: str(footprint.hdu),
    }


def _finished(table: pa.Table, bad: list[_Failure], parts: set[str], base: Path) -> SurveyIndex:
    # A pattern such as *.fits* also matches weights and masks, which are read with their image.
    is_part = pc.is_in(table.column(_WHOLE), value_set=pa.array(sorted(parts), type=pa.string()))
    companions = sorted(table.filter(is_part).column("path").to_pylist())
    companions += sorted(_shown(failure.path, base) for failure in bad if _absolute(failure.path) in parts)
    bad = [failure for failure in bad if _absolute(failure.path) not in parts]
    table = table.filter(pc.invert(is_part)).combine_chunks()
    table = table.take(pc.sort_indices(table, sort_keys=[(n, "ascending") for n in ("image_id", _WHOLE, _HDU)]))
    ids = table.column("image_id")
    again = np.zeros(len(table), dtype=np.bool_)
    if len(table) > 1:
        again[1:] = numpy_array(one_array(pc.equal(ids.slice(1), ids.slice(0, len(table) - 1))))
    first = 0
    for row in np.flatnonzero(again).tolist():
        first = row - 1 if not again[row - 1] else first
        image_id = ids[row].as_py()
        reason = (
            f"its image id {image_id} is that of {table.column('path')[first].as_py()} too. "
            "Leave one of them out, or give headers or options (visit, detector) that tell them apart."
        )
        bad.append(_Failure(table.column(_WHOLE)[row].as_py(), "duplicate", "FormatError", reason, image_id))
    kept = table.filter(arrow_array(~again)).select(INDEX_SCHEMA.names)
    bad.sort(key=lambda failure: (failure.path, failure.kind, failure.reason))
    places = [_shown(f.path, base) if f.is_file else f.path for f in bad]
    failures = [(place, f.kind, f.image_id, f.error, f.reason) for place, f in zip(places, bad, strict=True)]
    return SurveyIndex(
        kept, tuple(dict(zip(_FAILURE, row, strict=True)) for row in failures), tuple(sorted(companions))
    )


def _absolute(path: str | os.PathLike[str]) -> str:
    """An absolute path; of a file in a store, the same for all kinds of copies."""
    return os.fspath(as_kind(path, STUBS_KIND)) if is_copy(path) else absolute(path)


def _with_urls(value: Any) -> Any:
    """Options with URLs instead of paths of copies."""
    if isinstance(value, Mapping):
        return {key: _with_urls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_urls(inner) for inner in value]
    return shown_place(value) if isinstance(value, str) else value


def _shown(path: str | os.PathLike[str], base: Path) -> str:
    """A path relative to the base directory, where it is beneath it."""
    return relative_name(absolute(path), Path(absolute(base)))


def _hdu(footprint: ImageFootprint) -> str:
    """HDU of the image as text, if it is an option of the format."""
    options = {field.name for field in dataclasses.fields(get_format(footprint.format).Options)}
    return str(footprint.hdu) if footprint.hdu is not None and "hdu" in options else ""


def _masked(name: str, column: Any) -> MaskedColumn:
    values = column.to_pylist()
    if name == "polygon":
        polygons = np.empty(len(values), dtype=object)
        polygons[:] = values
        return MaskedColumn(polygons, name=name, dtype=object)
    dtype: Any = str if pa.types.is_string(column.type) else np.dtype(str(column.type).replace("double", "f8"))
    data = np.array([("" if dtype is str else 0) if value is None else value for value in values], dtype=dtype)
    return MaskedColumn(data, name=name, mask=[value is None for value in values], unit=_UNITS.get(name))
