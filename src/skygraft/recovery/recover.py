"""Find out which injected sources of a campaign are recovered: detect and measure on all images, and sum up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from skygraft.campaign.finished import sample_rows
from skygraft.campaign.products import Product
from skygraft.campaign.sweep import SweepSummary, product_dataset, sweep
from skygraft.config.recovery import RecoveryConfig
from skygraft.errors import ConfigError
from skygraft.recovery.matching_catalogs import catalog_files, measure_image
from skygraft.recovery.measuring import RECOVERY_VERSION
from skygraft.wording import number, share

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign import Campaign

__all__ = ["RECOVERY", "KindRecovery", "RecoverySummary", "recover", "summarise_recovery"]

RECOVERY = Product("recovery", RECOVERY_VERSION, measure_image)
"""The product: one row per injected source and image."""

_BIN = 0.5
_FEWEST = 10
"""Width in mag of the bins of magnitude, and the fewest sources in one, for a first look at the completeness."""
_CROWDED = 0.05
"""Share of usable sources that are blended with injected ones, from which on the summary says so."""
_ROWS_AT_ONCE = 131_072
_ONE_BY_ONE = {"batch_readahead": 1, "fragment_readahead": 1}
_KEYS = ("band", "source_type", "usable", "found", "reason")
_REASONS = {"": "not usable for another reason"}


@dataclass(frozen=True)
class KindRecovery:
    """Recovery of the sources of one type in one band, counted once an image.

    Parameters
    ----------
    band, source_type : str
        Band of the images, and type of the sources.
    n : int
        Rows: sources that reach an image, once for each image.
    n_usable, n_found : int
        Of these, the ones that could be found (drawn, centred on good pixels of the image), and of them those found.
    half : float or None
        Magnitude at which half of them are found, by interpolation between bins of 0.5 mag; None if none is so.
    """

    band: str
    source_type: str
    n: int
    n_usable: int
    n_found: int
    half: float | None

    @property
    def completeness(self) -> float:
        """Part of the usable sources that was found, over all magnitudes; NaN if none is usable."""
        return self.n_found / self.n_usable if self.n_usable else float("nan")


@dataclass(frozen=True)
class RecoverySummary:
    """The result of `recover`.

    Parameters
    ----------
    sweep : SweepSummary
        What was measured, and which images failed.
    kinds : tuple of KindRecovery
        Counts for each band and type of source, of all images in the table.
    reasons : dict of str to int
        Why sources were not found, and how many.
    n_crowded : int
        Usable rows with light of other injected sources in their calibration aperture.
    """

    sweep: SweepSummary
    kinds: tuple[KindRecovery, ...]
    reasons: dict[str, int]
    n_crowded: int = 0

    @property
    def ok(self) -> bool:
        """Whether every image was measured."""
        return self.sweep.ok

    @property
    def output(self) -> str:
        """Folder of the table."""
        return self.sweep.output

    @property
    def n_images(self) -> int:
        """Images in the table."""
        return self.sweep.n_in_tables

    @property
    def n(self) -> int:
        """Rows of the table: one per injected source and image."""
        return sum(kind.n for kind in self.kinds)

    @property
    def n_usable(self) -> int:
        """Rows of sources that could be found."""
        return sum(kind.n_usable for kind in self.kinds)

    @property
    def n_found(self) -> int:
        """Of these, rows of sources that were found."""
        return sum(kind.n_found for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return {
            "ok": self.ok,
            "output": self.output,
            "n_images": self.n_images,
            "n": self.n,
            "n_usable": self.n_usable,
            "n_found": self.n_found,
            "n_crowded": self.n_crowded,
            "kinds": [asdict(kind) | {"completeness": kind.completeness} for kind in self.kinds],
            "reasons": self.reasons,
            "sweep": self.sweep.to_dict(),
        }

    def __str__(self) -> str:
        lines = [str(self.sweep)]
        if self.n:
            lines += [
                f"{number(self.n, 'row')}, one per injected source and image, of {number(self.n_images, 'image')}:",
                *self._table(),
            ]
        lines += self._remarks()
        return "\n".join([*lines, f"table in {self.output}"])

    def _table(self) -> list[str]:
        head = ("band", "type", "rows", "usable", "found", "of usable", "half found at")
        rows = [
            (
                kind.band or "-",
                kind.source_type,
                f"{kind.n:,}",
                f"{kind.n_usable:,}",
                f"{kind.n_found:,}",
                share(kind.n_found, kind.n_usable) if kind.n_usable else "-",
                "-" if kind.half is None else f"{kind.half:.2f} mag",
            )
            for kind in self.kinds
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return [
            "  "
            + "  ".join(
                text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *rows)
        ]

    def _remarks(self) -> list[str]:
        lines = []
        if self.reasons:
            listed = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
            lines.append("not found: " + ", ".join(f"{n:,} {_REASONS.get(why, why)}" for why, n in listed))
        if not self.n:
            lines.append("no injected source reaches an image that was measured: there is nothing to recover")
        elif not self.n_usable:
            lines.append(
                "WARNING: no source could be found, whatever the depth: see the reasons above, and which mask planes "
                "count as bad (bad_planes)"
            )
        elif not self.n_found:
            lines.append(
                "WARNING: no source was found: see the reasons above, the magnitudes of the catalogue, --threshold and "
                "--match-radius"
            )
        elif self.n_found == self.n_usable:
            lines.append("every usable source was found: the catalogue is not faint enough to show where this ends")
        if self.n_usable and self.n_crowded >= _CROWDED * self.n_usable:
            lines.append(
                f"WARNING: {share(self.n_crowded, self.n_usable)} of the usable sources have light of other injected "
                "sources in their aperture: their own crowding is measured, not that of the sky. Inject fewer on an "
                "image, or farther apart (min_separation of random_catalog)"
            )
        return lines


def recover(
    campaign: Campaign,
    settings: RecoveryConfig | Mapping[str, Any] | None = None,
    *,
    sample: int | None = None,
    rows: ArrayLike | None = None,
    client: Client | None = None,
    cluster: bool = False,
    n_workers: int | None = None,
    processes: int | None = None,
    redo: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RecoverySummary:
    """Detect and measure on the images of a campaign before and after injection, and match with what was injected.

    Images that were measured before with the same settings, and the same catalogues where those of a pipeline are used,
    are left as they are. The table, ``recovery/tract=/patch=/part-0.parquet`` in the campaign's output folder, has one
    row per injected source and image; `skygraft.campaign.sweep.product_dataset` opens it.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, at least in part.
    settings : RecoveryConfig or mapping, optional
        How to measure; of a mapping, what differs from the campaign's section ``recovery``, which is the default.
    sample : int, optional
        Measure a sample of so many images, from all instruments and bands, always the same; by default all that are
        done.
    rows : array_like of int, optional
        Images to measure, as rows of the plan, instead of a sample.
    client, cluster, n_workers, processes, redo, progress
        As for `skygraft.campaign.sweep.sweep`.

    Returns
    -------
    RecoverySummary
        With the images that failed; their errors are not raised.

    Raises
    ------
    CampaignError
        If there is no plan, no image is done, the output is that of another campaign, another process measures it, or
        the cluster fails.
    ConfigError
        If a setting is not allowed, or `sample` is not a positive number.
    OutputError
        If the output folder cannot be written.
    """
    how = settings if isinstance(settings, RecoveryConfig) else campaign.config.recovery.changed(settings or {})
    if sample is not None and rows is not None:
        raise ConfigError("sample and rows both say what to measure", key="sample", fix="Give one of them")
    swept = sweep(
        campaign,
        RECOVERY if how.catalogs is None else replace(RECOVERY, inputs=catalog_files),
        how.settings(),
        rows=sample_rows(campaign, sample)[0] if sample is not None else rows,
        client=client,
        cluster=cluster,
        n_workers=n_workers,
        processes=processes,
        redo=redo,
        progress=progress,
    )
    return summarise_recovery(campaign, swept)


def summarise_recovery(campaign: Campaign, swept: SweepSummary) -> RecoverySummary:
    """Sum up the recovery table of a campaign, read in parts."""
    counts: Counter[tuple[Any, ...]] = Counter()
    n_crowded = 0
    dataset = product_dataset(campaign, RECOVERY.name)
    if not {*_KEYS, "mag", "blend"} <= set(dataset.schema.names):
        return RecoverySummary(swept, (), {})  # of no image
    for batch in dataset.to_batches(columns=[*_KEYS, "mag", "blend"], batch_size=_ROWS_AT_ONCE, **_ONE_BY_ONE):
        crowded = pc.and_(pc.equal(batch.column("blend"), "fake"), batch.column("usable"))
        n_crowded += pc.sum(crowded).as_py() or 0
        place = pc.floor(pc.divide(batch.column("mag"), _BIN))
        place = pc.if_else(pc.is_finite(place), place, None)
        rows = pa.table([*(batch.column(name) for name in _KEYS), place], names=[*_KEYS, "place"])
        grouped = rows.group_by([*_KEYS, "place"]).aggregate([([], "count_all")])
        for *group, n in zip(
            *(grouped.column(name).to_pylist() for name in (*_KEYS, "place", "count_all")), strict=True
        ):
            counts[tuple(group)] += n
    kinds: dict[tuple[str, str], Counter[str]] = {}
    bins: dict[tuple[str, str], Counter[tuple[float, bool]]] = {}
    reasons: Counter[str] = Counter()
    for (band, source_type, usable, found, reason, place), n in counts.items():
        key = band or "", source_type or ""
        kinds.setdefault(key, Counter()).update(n=n, usable=n * usable, found=n * (usable and found))
        if usable and place is not None:
            bins.setdefault(key, Counter())[place, found] += n
        if not found:
            reasons[reason or ""] += n
    found_of = (
        KindRecovery(*key, n["n"], n["usable"], n["found"], _half(bins.get(key, {})))
        for key, n in sorted(kinds.items())
    )
    return RecoverySummary(swept, tuple(found_of), dict(sorted(reasons.items())), n_crowded)


def _half(binned: Mapping[tuple[float, bool], int]) -> float | None:
    """Magnitude at which the completeness falls to one half for the last time, interpolated between centres of bins."""
    points = []
    for place in sorted({place for place, _ in binned}):
        missed, found = binned.get((place, False), 0), binned.get((place, True), 0)
        if missed + found >= _FEWEST:
            points.append(((place + 0.5) * _BIN, found / (missed + found)))
    for (bright, high), (faint, low) in reversed(list(itertools.pairwise(points))):
        if high >= 0.5 > low:
            return bright + (high - 0.5) / (high - low) * (faint - bright)
    return None
