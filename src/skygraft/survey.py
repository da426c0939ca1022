"""Which images there are, and where they lie on the sky: an index made from headers alone.

A bad image never stops the index: it becomes a row of the failures, with the reason.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table

from skygraft.errors import ConfigError, SkygraftError
from skygraft.formats import ImageFootprint, get_format, read_footprint
from skygraft.formats.fits_layout import list_hdus
from skygraft.formats.legacy_tables import read_ccds

__all__ = ["FAILURES", "index_images", "index_kinds", "register_index_kind"]

FAILURES = "failures"
"""Key of the index's ``meta``: the table of images that could not be indexed."""

type Progress = Callable[[int, int], None]
type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class ImageJob:
    """One image to look at.

    Parameters
    ----------
    path : str
        Its file.
    format : str
        Its format, or "auto".
    options : dict
        Options of the format, JSON types.
    """

    path: str
    format: str
    options: dict[str, Any]


type IndexKind = Callable[[Any, Path, str, dict[str, Any]], Iterator[ImageJob]]
"""Takes the specification's value, the base directory, the format and its options; gives the images."""

_KINDS: dict[str, IndexKind] = {}
_KEYS = ("format", "options")


def register_index_kind(name: str, kind: IndexKind) -> None:
    """Add a way to list images, used where a specification has the key `name`."""
    _KINDS[name] = kind


def index_kinds() -> tuple[str, ...]:
    """Names of the ways to list images: the keys of which a specification has exactly one."""
    return tuple(_KINDS)


@dataclass(frozen=True)
class _Failure:
    path: str
    kind: str
    error: str
    reason: str
    image_id: str = ""


def index_images(
    spec: Mapping[str, Any],
    base_dir: str | os.PathLike[str] = ".",
    *,
    progress: Progress | None = None,
    mapper: Mapper = map,
) -> Table:
    """Index the images of a survey: which they are and where they lie, without reading pixels.

    Parameters
    ----------
    spec : mapping
        Exactly one of ``images`` (a glob pattern, ``**`` allowed, or a list of them) and ``ccds`` (a survey-ccds table
        of the Legacy Surveys, or a list); optionally ``format`` and ``options`` (those of the format). With the option
        ``hdu: all``, every two-dimensional image of each file is an image of its own.
    base_dir : path-like
        What relative paths are relative to.
    progress : callable, optional
        Called with the number of images looked at and the number of all, after each.
    mapper : callable, optional
        ``mapper(function, jobs)`` gives the function's results in the order of the jobs, as `map` does; an executor's
        ``map`` looks at several images at once.

    Returns
    -------
    astropy.table.Table
        One row per image, sorted by ``image_id``: image_id, path (relative to `base_dir` where beneath it), hdu
        (text; empty where the format has no choice), format, instrument, visit, detector, band, mjd (middle, TAI),
        exposure_time (s), nx, ny, ra, dec (centre, degrees), polygon (list of [ra, dec]), pixel_scale (arcsec),
        n_bytes, options (JSON, what reading it needs). ``meta["failures"]`` is a table (path, kind, image_id, error,
        reason) of images that are left out: kind is "error", or "duplicate" for every image but the first with one
        image_id.
        ``meta["companions"]`` lists files that are weights or masks of an indexed image.

    Raises
    ------
    ConfigError
        If the specification is not as above.
    FormatError
        If a table of CCDs cannot be read.
    """
    base = Path(base_dir)
    jobs = list(_jobs(spec, base))
    results: list[tuple[ImageFootprint, ImageJob] | _Failure] = []
    for result in mapper(_look, jobs):
        results.append(result)
        if progress is not None:
            progress(len(results), len(jobs))
    return _table(results, base)


def _jobs(spec: Mapping[str, Any], base: Path) -> Iterator[ImageJob]:
    allowed = (*_KINDS, *_KEYS)
    for key in spec:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            raise ConfigError(
                f"{key!r} is not a way to list images; those are: {', '.join(_KINDS)}",
                key=str(key),
                fix=f"Did you mean {near[0]!r}?" if near else None,
            )
    kinds = [key for key in _KINDS if spec.get(key) is not None]
    if len(kinds) != 1:
        told = f"{' and '.join(kinds)} are given" if kinds else "none is given"
        raise ConfigError(f"one way to list images is needed ({' or '.join(_KINDS)}); {told}", key="survey")
    options = spec.get("options") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"options is {options!r}; a mapping is needed", key="options")
    return _KINDS[kinds[0]](spec[kinds[0]], base, str(spec.get("format") or "auto"), dict(options))


def _patterns(value: Any, key: str) -> list[str]:
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    if isinstance(value, list | tuple) and value and all(isinstance(v, str | os.PathLike) for v in value):
        return [os.fspath(v) for v in value]
    raise ConfigError(f"{key} is {value!r}; a path or a list of paths is needed", key=key)


def _from_patterns(value: Any, base: Path, fmt: str, options: dict[str, Any]) -> Iterator[ImageJob]:
    paths: set[str] = set()
    for pattern in _patterns(value, "images"):
        whole = os.path.normpath(base / Path(pattern).expanduser())
        if glob.has_magic(pattern):
            # Only the pattern itself is one: the base directory may have brackets in its name.
            whole = pattern if Path(pattern).is_absolute() else f"{glob.escape(os.fspath(base))}/{pattern}"
            # Not Path.glob, which finds hidden files: those may be outputs that are being written.
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
            hdus = [hdu.index for hdu in list_hdus(path) if hdu.shape is not None and len(hdu.shape) == 2]
        except SkygraftError:
            # Looked at as a whole: the failure is reported with the others.
            hdus = []
        yield from (ImageJob(path, fmt, rest | {"hdu": hdu}) for hdu in hdus)
        if not hdus:
            yield ImageJob(path, fmt, rest)


def _from_ccds(value: Any, base: Path, fmt: str, options: dict[str, Any]) -> Iterator[ImageJob]:
    fmt = "legacy_survey" if fmt == "auto" else fmt
    for name in _patterns(value, "ccds"):
        path = Path(_absolute(base / Path(name).expanduser()))
        table = read_ccds(path)
        root = Path(_absolute(base / str(options["root"]))) if "root" in options else path.parent
        names, ccds = table.columns["image_filename"], table.columns["ccdname"]
        for i in range(len(table)):
            own = {"ccds": os.fspath(path), "ccdname": str(ccds[i])}
            if "root" in options:
                own["root"] = os.fspath(root)
            yield ImageJob(os.fspath(root / "images" / str(names[i])), fmt, options | own)


register_index_kind("images", _from_patterns)
register_index_kind("ccds", _from_ccds)


def _look(job: ImageJob) -> tuple[ImageFootprint, ImageJob] | _Failure:
    try:
        footprint = read_footprint(job.path, format=job.format, **job.options)
        return footprint, dataclasses.replace(job, options={**footprint.pinned, **job.options})
    except Exception as error:  # An image may be broken in ways that nobody thought of; the others must not care.
        return _Failure(job.path, "error", type(error).__name__, str(error))


def _table(results: Iterable[tuple[ImageFootprint, ImageJob] | _Failure], base: Path) -> Table:
    good: list[tuple[ImageFootprint, ImageJob]] = []
    bad: list[_Failure] = []
    for result in results:
        if isinstance(result, _Failure):
            bad.append(result)
        else:
            good.append(result)
    # A pattern such as *.fits* also finds the weights and masks, which are read with their image.
    parts = {_absolute(name) for footprint, _ in good for name in footprint.files[1:]}
    companions = sorted({_shown(f.path, base) for f, _ in good if _absolute(f.path) in parts})
    companions += sorted({_shown(Path(b.path), base) for b in bad if _absolute(b.path) in parts})
    good = [(f, job) for f, job in good if _absolute(f.path) not in parts]
    bad = [failure for failure in bad if _absolute(failure.path) not in parts]
    good.sort(key=lambda item: (str(item[0].data_id), os.fspath(item[0].path), str(item[0].hdu)))
    seen: dict[str, Path] = {}
    unique = []
    for footprint, job in good:
        image_id = str(footprint.data_id)
        if image_id in seen:
            reason = (
                f"its image id {image_id} is that of {_shown(seen[image_id], base)} too. "
                "Leave one of them out, or give headers or options (visit, detector) that tell them apart."
            )
            bad.append(_Failure(os.fspath(footprint.path), "duplicate", "FormatError", reason, image_id))
        else:
            seen[image_id] = footprint.path
            unique.append((footprint, job))
    index = Table(_columns(unique, base))
    bad.sort(key=lambda failure: (failure.path, failure.kind, failure.reason))
    index.meta[FAILURES] = _failures(bad, base)
    index.meta["companions"] = sorted(companions)
    return index


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.normpath(Path(path).absolute())


def _shown(path: str | os.PathLike[str], base: Path) -> str:
    """A path relative to the base directory, where it is beneath it."""
    whole, root = Path(_absolute(path)), Path(_absolute(base))
    return (whole.relative_to(root) if whole.is_relative_to(root) else whole).as_posix()


def _hdu(footprint: ImageFootprint) -> str:
    """The image's HDU, where it is an option of the format: text."""
    options = {field.name for field in dataclasses.fields(get_format(footprint.format).Options)}
    return str(footprint.hdu) if footprint.hdu is not None and "hdu" in options else ""


def _columns(images: list[tuple[ImageFootprint, ImageJob]], base: Path) -> list[Any]:
    def column(name: str, values: list[Any], dtype: Any, unit: str | None = None) -> MaskedColumn:
        empty = [value is None for value in values]
        fill = "" if dtype is str else 0
        data = np.array([fill if value is None else value for value in values], dtype=dtype)
        return MaskedColumn(data, name=name, mask=empty, unit=unit)

    polygons = np.empty(len(images), dtype=object)
    for i, (footprint, _) in enumerate(images):
        polygons[i] = np.asarray(footprint.corners, dtype=float).tolist()
    prints = [footprint for footprint, _ in images]
    detectors = [None if f.data_id.detector is None else str(f.data_id.detector) for f in prints]
    options = [json.dumps(job.options, sort_keys=True) for _, job in images]
    return [
        column("image_id", [str(f.data_id) for f in prints], str),
        column("path", [_shown(f.path, base) for f in prints], str),
        column("hdu", [_hdu(f) for f in prints], str),
        column("format", [f.format for f in prints], str),
        column("instrument", [f.data_id.instrument for f in prints], str),
        column("visit", [f.data_id.visit for f in prints], np.int64),
        column("detector", detectors, str),
        column("band", [f.data_id.band for f in prints], str),
        column("mjd", [f.visit_info.mjd for f in prints], np.float64, "d"),
        column("exposure_time", [f.visit_info.exposure_time for f in prints], np.float64, "s"),
        column("nx", [f.shape[1] for f in prints], np.int64),
        column("ny", [f.shape[0] for f in prints], np.int64),
        column("ra", [f.center[0] for f in prints], np.float64, "deg"),
        column("dec", [f.center[1] for f in prints], np.float64, "deg"),
        MaskedColumn(polygons, name="polygon", dtype=object),
        column("pixel_scale", [f.pixel_scale for f in prints], np.float64, "arcsec"),
        column("n_bytes", [f.n_bytes for f in prints], np.int64),
        column("options", options, str),
    ]


def _failures(failures: list[_Failure], base: Path) -> Table:
    rows = [(_shown(f.path, base), f.kind, f.image_id, f.error, f.reason) for f in failures]
    names = ["path", "kind", "image_id", "error", "reason"]
    return Table(rows=rows or None, names=names, dtype=[str] * len(names))
