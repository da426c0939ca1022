"""Check the calibration of a plan's images before a run, from headers and tables only, without pixels.

What is wrong with an image becomes a row of a table and never stops the check of the others. Of a large survey a sample
is checked, always the same, with images of every instrument, band and format and of as many visits as possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.config.campaign import CampaignConfig
from skygraft.conventions import LSST
from skygraft.errors import ApertureConflictError, CalibrationError, ConfigError, SkygraftError
from skygraft.place_names import shown_place
from skygraft.processes import careful_map, process_mapper
from skygraft.records.file_checksums import checked_path
from skygraft.records.plan_file import Plan, PlannedImage
from skygraft.tables.arrow import with_units
from skygraft.tables.calibrations import CalibrationUse, calibration_use, fold
from skygraft.wording import counts

__all__ = [
    "FEW_IMAGES",
    "TROUBLES",
    "Checks",
    "ImageCheck",
    "PlanChecks",
    "Trouble",
    "check_image",
    "check_plan",
    "choose_images",
]

type Checks = Literal["auto", "all", "none"] | int
"""How many images to check: all, none, a number, or ("auto") all of a few and a sample of many."""
type Rows = NDArray[np.int64]
type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

FEW_IMAGES = 2000
"""Largest number of images that are all checked by default."""
_SAMPLE = 1000
_AT_ONCE = 50
_WORTH_A_PROCESS = 200
_NAMED = 5
_SEED = 20

TROUBLES = {
    "unreadable": ("unreadable", ""),
    "uncalibrated": ("no zeropoint", "set survey.calibration.zeropoint"),
    "zeropoint conflict": ("calibrations that contradict each other", ""),
    "aperture conflict": ("apertures that contradict each other", ""),
    "aperture unknown": (
        "nothing says what they are calibrated to",
        "set survey.calibration.aperture, for example to '12 pix' or '2 arcsec'",
    ),
    "no aperture": (
        f"no calibration aperture, which conventions {LSST} need",
        "set injection.flux_mode to aperture, or use skygraft's own conventions",
    ),
    "no PSF": ("no PSF", "set survey.calibration.psf"),
    "no gain": (
        "neither a gain nor a variance plane to estimate it from",
        "set survey.calibration.gain, or injection.noise to false",
    ),
    "wings": ("wings that do not go with their PSF", "change injection.wings"),
    "wing margin": ("a margin that is narrower than wings reach", "make margin_arcsec as large as that"),
}
"""What may be wrong with an image: a description, and a remedy for all such images."""

_TEXT, _NUMBER = pa.string(), pa.float64()
_SCHEMA = with_units(
    {
        "image_id": _TEXT,
        "path": _TEXT,
        "format": _TEXT,
        "instrument": _TEXT,
        "band": _TEXT,
        "kind": _TEXT,
        "radius_pixels": _NUMBER,
        "radius_arcsec": _NUMBER,
        "origin": _TEXT,
        "zeropoint": _NUMBER,
        "psf": _TEXT,
        "gain": _NUMBER,
        "gain_origin": _TEXT,
        "n_files": pa.int64(),
        "troubles": pa.list_(_TEXT),
        "problem": _TEXT,
    },
    {"radius_pixels": "pix", "radius_arcsec": "arcsec", "zeropoint": "mag"},
)


@dataclass(frozen=True)
class ImageCheck:
    """The calibration of an image, as far as it is known without pixels; a row of ``plan_checks.parquet``.

    Parameters
    ----------
    image_id, path, format : str
        The image.
    instrument, band : str or None
        As the plan says.
    kind : str or None
        The reference of the calibrated flux: ``aperture``, ``psf_model`` or ``total``; None if unknown.
    radius_pixels, radius_arcsec : float or None
        Radius of the aperture.
    origin : str
        Where the reference was found.
    zeropoint : float or None
        AB magnitude of one image unit at the centre of the image; None if it is not calibrated.
    psf : str
        Description of the PSF; empty if there is none.
    gain : float or None
        Electrons per image unit (the median of a map); None if it is not recorded.
    gain_origin : str
        Where the gain was found.
    n_files : int
        Files written for the image, besides record and truth table; 0 if unknown.
    troubles : tuple of str
        Keys of `TROUBLES` that apply.
    problem : str
        What is wrong, in words; empty if nothing is.
    """

    image_id: str
    path: str
    format: str
    instrument: str | None
    band: str | None
    kind: str | None = None
    radius_pixels: float | None = None
    radius_arcsec: float | None = None
    origin: str = ""
    zeropoint: float | None = None
    psf: str = ""
    gain: float | None = None
    gain_origin: str = ""
    n_files: int = 0
    troubles: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble, and the checked images that have it.

    Parameters
    ----------
    kind : str
        Key of `TROUBLES`.
    n_images : int
        Number of checked images that have it.
    first : tuple of str
        The first few image ids.
    problem : str
        The message of the first of them.
    where : dict of str to int
        Images by instrument and band.
    """

    kind: str
    n_images: int
    first: tuple[str, ...]
    problem: str
    where: dict[str, int]

    def __str__(self) -> str:
        what, fix = TROUBLES[self.kind]
        names = ", ".join(self.first) + (", ..." if self.n_images > len(self.first) else "")
        where = f"; by instrument and band: {counts(self.where)}" if len(self.where) > 1 else ""
        number = f"{self.n_images:,} image{'s' * (self.n_images > 1)}"
        text = f"{what}: {number} ({names}{where}); {'the first: ' if self.n_images > 1 else ''}{self.problem}"
        return f"{text.rstrip('.')}. To do: {fix}" if fix else text


@dataclass(frozen=True)
class PlanChecks:
    """The result of checking the images of a plan.

    Parameters
    ----------
    n_images : int
        Images of the plan.
    n_checked : int
        How many of them were checked.
    uses : tuple of CalibrationUse
        The references of the calibrated flux, and the number of images of each.
    troubles : tuple of Trouble
        What is wrong, in the order of `TROUBLES`.
    files : dict of str to float
        Mean number of files written for an image, by format, if known.
    """

    n_images: int
    n_checked: int
    uses: tuple[CalibrationUse, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    files: dict[str, float] | None = None

    def count(self, kind: str) -> int:
        """The number of checked images that have this kind of trouble."""
        return next((trouble.n_images for trouble in self.troubles if trouble.kind == kind), 0)


def check_image(image: PlannedImage, config: CampaignConfig) -> ImageCheck:
    """Check the calibration of an image, given the settings of the campaign; never raises for a bad image.

    Parameters
    ----------
    image : PlannedImage
        The image.
    config : CampaignConfig
        The campaign.
    """
    from skygraft.planning.reading import read_image_calibration

    given = (image.image_id, image.path, image.format, image.instrument, image.band)
    try:
        found = read_image_calibration(image, config)
        return ImageCheck(*given, **_look(found, config, image.band))
    except ApertureConflictError as error:
        kind, problem = "aperture conflict", _words(error, image.path)
    except CalibrationError as error:
        kind, problem = "zeropoint conflict", _words(error, image.path)
    except SkygraftError as error:
        kind, problem = "unreadable", _words(error, image.path)
    except Exception as error:  # An image may be broken in unforeseen ways, which must not stop the others.
        kind, problem = "unreadable", _words(error, image.path)
    return ImageCheck(*given, troubles=(kind,), problem=problem[:1000])


def _look(found: Any, config: CampaignConfig, band: str | None = None) -> dict[str, Any]:
    """The columns of `ImageCheck` from an `ImageCalibration`."""
    from skygraft.photometry import describe_reference

    calib = found.photo_calib
    reference = describe_reference(None if calib is None else calib.reference)
    troubles: dict[str, str] = {}
    like_lsst = config.injection.conventions == LSST
    if calib is None:
        troubles["uncalibrated"] = _words(found.no_photo_calib)
    elif reference["kind"] is None and config.injection.flux_mode == "calibrated":
        hints = [str(candidate) for candidate in calib.candidates if candidate.level == "hint"]
        told = f" (a hint, not proof: {'; '.join(hints)})" if hints else ""
        troubles["aperture unknown"] = f"nothing says what the calibrated flux is the flux of{told}"
    elif like_lsst and reference["kind"] != "aperture" and config.injection.flux_mode == "calibrated":
        troubles["no aperture"] = f"they are calibrated to {reference['kind']}, which is not the flux in an aperture"
    if found.psf is None:
        troubles["no PSF"] = _words(found.no_psf) if found.no_psf is not None else "it has no PSF"
    if config.injection.wings is not None:
        from skygraft.planning.wings import wing_troubles

        troubles |= wing_troubles(found, band, config)
    given = found.gain is not None or config.injection.gain is not None
    known = found.has_variance or (given and not like_lsst)
    if (config.injection.noise or config.injection.variance) and not known:
        why = f"the gain is not known ({found.no_gain})" if found.no_gain else "no gain is recorded"
        troubles["no gain"] = f"{why} and there is no variance plane"
    (ny, nx), (x0, y0) = found.shape, found.xy0
    return {
        "kind": reference["kind"],
        "radius_pixels": reference["radius_pixels"],
        "radius_arcsec": reference["radius_arcsec"],
        "origin": "" if calib is None else calib.reference_origin,
        "zeropoint": None if calib is None else _finite(calib.zeropoint(x0 + (nx - 1) / 2, y0 + (ny - 1) / 2)),
        "psf": "" if found.psf is None else found.psf.description,
        "gain": None if found.gain is None else _finite(np.median(found.gain)),
        "gain_origin": found.gain_origin,
        "n_files": found.n_files,
        "troubles": tuple(troubles),
        "problem": "; ".join(troubles.values()),
    }


def _finite(value: Any) -> float | None:
    number = float(np.ravel(value)[0])
    return number if np.isfinite(number) else None


def _words(error: Exception | None, image: str | None = None) -> str:
    """Class and message of an error; the image's path has its own column, another file such as its PSF is named."""
    if error is None:
        return ""
    place = ""
    if isinstance(error, SkygraftError) and image is not None and error.path is not None:
        place = "" if Path(error.path).name == Path(image).name else f"{shown_place(error.path)}: "
    return f"{type(error).__name__}: {place}{error.message if isinstance(error, SkygraftError) else error}"


def choose_images(plan: Plan, checks: Checks = "auto", among: Rows | None = None) -> Rows:
    """Choose the images of a plan to check, always the same for the same plan.

    Parameters
    ----------
    plan : Plan
        The plan.
    checks : {"auto", "all", "none"} or int
        A number is the size of a sample: from each instrument, band and format in proportion to its images, at least
        one of each, and within each from as many visits as possible. "auto" is all of up to `FEW_IMAGES` images, else
        a sample of 1000.
    among : ndarray of int, optional
        Rows of the plan to choose from, ascending; by default all.

    Returns
    -------
    ndarray of int
        Rows of the plan, ascending.

    Raises
    ------
    ConfigError
        If `checks` is none of these.
    """
    rows = np.arange(len(plan), dtype=np.int64) if among is None else among
    n = len(rows)
    if checks not in ("auto", "all", "none") and (isinstance(checks, bool | str) or not int(checks) > 0):
        raise ConfigError(
            f"{checks!r} does not say how many images to look at", key="check", fix="Give all, none, or a number"
        )
    if checks == "none":
        return np.zeros(0, dtype=np.int64)
    size = _SAMPLE if isinstance(checks, str) else int(checks)
    if checks == "all" or (checks == "auto" and n <= FEW_IMAGES) or size >= n:
        return rows
    table = plan.table(["format", "instrument", "band", "visit"])
    if among is not None:
        table = table.take(pa.array(rows.tolist(), type=pa.int64()))
    stratum = np.zeros(n, dtype=np.int64)
    for name in ("format", "instrument", "band"):
        codes = table[name].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
        stratum = np.unique(stratum * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
    visits = table["visit"]
    # An image without a visit counts as a visit of its own.
    unit = np.where(visits.is_null().to_numpy(), -1 - np.arange(n), visits.fill_null(0).to_numpy())
    chance = np.random.default_rng(_SEED).permutation(n)
    rank = _rank(np.lexsort((chance, unit, stratum)), stratum, unit)
    rank = _rank(np.lexsort((chance, rank, stratum)), stratum)
    quota = _quota(np.bincount(stratum), size)
    return rows[rank < quota[stratum]]


def _rank(order: NDArray[np.intp], *groups: NDArray[np.int64]) -> Rows:
    """The rank of each row within its group, in an order that keeps groups together."""
    n = len(order)
    new = np.ones(n, dtype=bool)
    new[1:] = np.any([group[order][1:] != group[order][:-1] for group in groups], axis=0)
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n) - first
    return rank


def _quota(sizes: NDArray[np.int64], total: int) -> Rows:
    """Divide `total` among groups in proportion to their sizes, at least one each, by largest remainders."""
    share = sizes * total / sizes.sum()
    quota = np.maximum(1, np.floor(share)).astype(np.int64)
    left = max(0, total - int(quota.sum()))
    quota[np.argsort(quota - share, kind="stable")[:left]] += 1
    return np.minimum(quota, sizes)


@dataclass(frozen=True)
class _Looker:
    """Checks some images of a plan; can be pickled, and returns columns."""

    plan: Path
    config: CampaignConfig

    def __call__(self, rows: Rows) -> pa.RecordBatch:
        found = [asdict(check_image(image, self.config)) for image in Plan(self.plan).images(rows)]
        return pa.RecordBatch.from_pylist(found, schema=_SCHEMA)

    def lost(self, rows: Rows, reason: str) -> pa.RecordBatch:
        """Check each image by itself, after one of them has killed the process."""
        if len(rows) > 1:
            alone = careful_map(self, [rows[i : i + 1] for i in range(len(rows))])
            return pa.Table.from_batches(alone).combine_chunks().to_batches()[0]
        from skygraft.formats.registry import killed_its_reader

        [image] = Plan(self.plan).images(rows)
        given = (image.image_id, image.path, image.format, image.instrument, image.band)
        problem = _words(killed_its_reader(image.path, reason))
        return pa.RecordBatch.from_pylist(
            [asdict(ImageCheck(*given, troubles=("unreadable",), problem=problem))], schema=_SCHEMA
        )

    def prepare(self) -> None:
        """Import the formats."""
        from skygraft.formats.registry import load_formats

        load_formats()


def check_plan(
    config: CampaignConfig, plan: Plan, rows: Rows, *, path: Path, mapper: Mapper = careful_map, processes: int = 1
) -> PlanChecks:
    """Check images of a plan, and write a table of the results.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        The plan.
    rows : ndarray of int
        The images, ascending; see `choose_images`.
    path : Path
        The Parquet file to write, with a row for each image in the order of the plan.
    mapper : callable
        ``mapper(function, items)`` gives the function's results in the order of the items, as `map` does.
    processes : int
        If more than one, that many processes of this machine are used instead of `mapper`.

    Returns
    -------
    PlanChecks

    Raises
    ------
    OutputError
        If the table cannot be written.
    CampaignError
        If the plan cannot be read, or one of the processes dies.
    """
    pieces: Iterator[Rows] = (rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE))
    tally = _Tally()
    processes = min(processes, len(rows) // _WORTH_A_PROCESS)
    with (
        process_mapper(processes) as pooled,
        checked_path(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer,
    ):
        for batch in (pooled if processes > 1 else mapper)(_Looker(plan.path, config), pieces):
            writer.write_batch(batch)
            tally.add(batch)
    return PlanChecks(len(plan), len(rows), fold(tally.uses), tally.troubles(), tally.files())


class _Tally:
    """Counts the results, batch by batch."""

    def __init__(self) -> None:
        self.uses: tuple[CalibrationUse, ...] = ()
        self._first: dict[str, list[str]] = {kind: [] for kind in TROUBLES}
        self._problem: dict[str, str] = {}
        self._where: dict[str, Counter[str]] = {kind: Counter() for kind in TROUBLES}
        self._files: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        found = batch.to_pylist()
        used = [calibration_use(row, row["band"], row["instrument"], [row["path"]]) for row in found if row["kind"]]
        self.uses = fold([*self.uses, *used])
        for row in found:
            place = f"{row['instrument'] or 'unknown'} {row['band'] or 'unknown'}"
            for kind in row["troubles"]:
                self._where[kind][place] += 1
                if len(self._first[kind]) < _NAMED:
                    self._first[kind].append(row["image_id"])
                self._problem.setdefault(kind, row["problem"])
            if row["n_files"]:
                self._files[row["format"]] += row["n_files"]
                self._counted[row["format"]] += 1

    def troubles(self) -> tuple[Trouble, ...]:
        return tuple(
            Trouble(kind, where.total(), tuple(self._first[kind]), self._problem[kind], dict(where))
            for kind, where in self._where.items()
            if where
        )

    def files(self) -> dict[str, float]:
        return {name: n / self._counted[name] for name, n in self._files.items()}
