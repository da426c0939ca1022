"""Check what a campaign wrote for one image: its output against its original, its truth, its record and its catalogue.

Every check is a row with a verdict. Those that measure (closure, flux, centroid, position angle) need enough photons
to see a mistake, and say so where there are too few; the others hold or do not. `check_pair` is a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.campaign.checksums import damaged_outputs
from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.flags import Flag, has_flag
from skygraft.conventions import LSST
from skygraft.errors import CalibrationError, SkygraftError, UncalibratedImageError, UnknownApertureError
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions
from skygraft.qa.closure import RESOLUTION, TOLERANCE, measure_closure, summarize_closure
from skygraft.qa.pixel_checks import check_flux, check_mask, check_residual, check_untouched, check_variance
from skygraft.qa.pixel_sums import BLOCK, HALF_ULP, IMAGE_SUMS, image_sums
from skygraft.qa.redraw import NoiseLaw, Redrawn, noise_law, redraw, stored_step
from skygraft.qa.source_shapes import MOST, Offset, Precision, angle_offset, drawn_angles, position_offset
from skygraft.qa.truth_checks import check_truth
from skygraft.qa.verdicts import CHECKS, Row, judge, rows_table
from skygraft.records.files import Layout
from skygraft.records.image_record import PIXEL_VERSION

__all__ = ["CHECKS", "CONTAMINATION", "VERSION", "check_pair"]

VERSION = 1
"""Of the checks; a verification by another version is made again."""

CONTAMINATION = 5e-4
"""Part of a star's light in the aperture that may be its neighbours': half of what closure tolerates."""
POSITION_TOLERANCE, POSITION_RESOLUTION = 0.03, 0.1
"""Pixels: up to which a median offset passes, and which must be seen; see `skygraft.qa.verdicts.judge`."""
ANGLE_TOLERANCE, ANGLE_RESOLUTION = 0.5, 5.0
"""Degrees, in the same way."""
_DRAWN_ANGLE = 10.0
"""Degrees by which sources as drawn may differ from the catalogue, in the median: the PSF's shape turns them a bit."""
_LEAST_ANGLES = 5


def check_pair(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Check an image of a campaign.

    Parameters
    ----------
    pair : ImagePair
        The image before and after injection, its truth, its record and its sources.
    settings : mapping
        ``injection``: the campaign's settings of injection. Optional are ``settings``, what pixels depend on by the
        configuration (to say where the record differs); ``aperture``, the radius for closure where images are not
        calibrated to an aperture; and ``contamination``, as for `skygraft.qa.measure_closure`.

    Returns
    -------
    pyarrow.Table
        One row per check, in the order of `CHECKS`; columns as in `skygraft.qa.verdicts.SCHEMA`.
    """
    work = _Work(pair, settings)
    rows = [
        work.checksum(),
        work.version(),
        *check_truth(pair, work.redrawn),
        *work.of_pixels(),
    ]
    order = {name: i for i, name in enumerate(CHECKS)}
    band = pair.image.band or str(pair.record.get("band") or "")
    return rows_table(pair.image.image_id, band, sorted(rows, key=lambda row: order[row.check]))


@dataclass
class _Work:
    """What several checks of one image need."""

    pair: ImagePair
    settings: Mapping[str, Any]
    redrawn: Redrawn | None = None
    law: NoiseLaw | None = None
    problem: str = ""
    options: InjectionOptions = field(init=False)

    def __post_init__(self) -> None:
        pair = self.pair
        self.options = InjectionOptions(**self.settings.get("injection", {}))
        if pair.before.shape != pair.after.shape or pair.before.xy0 != pair.after.xy0:
            self.problem = (
                f"the output has {_size(pair.after)} pixels from {pair.after.xy0}, "
                f"the original {_size(pair.before)} from {pair.before.xy0}"
            )
            return
        try:
            self.redrawn = redraw(pair, self.options)
            n_drawn = int(np.count_nonzero(np.asarray(self.redrawn.truth["stamp_size"]) > 0))
            self.law = noise_law(pair.before, self.options, n_drawn)
        except SkygraftError as error:
            self.problem = f"its sources cannot be drawn again: {error.message}"
            self.redrawn = None

    def checksum(self) -> Row:
        """Whether every file of the image is as it was written."""
        pair, path = self.pair, self.pair.after.path
        if path is None or "outputs" not in pair.record:
            return Row("checksum", "not applicable", note="the record names no files")
        root = Path(path).parents[len(Path(pair.image.output).parts)]
        found = damaged_outputs(Layout(root), pair.record)
        note = "; ".join(f"{name}: {problem}" for name, problem in found)
        return Row.of("checksum", not found, len(found), 0.0, n=len(pair.record["outputs"]), note=note)

    def version(self) -> Row:
        """Whether this skygraft, with these settings, would make the same pixels."""
        made = self.pair.record.get("code")
        notes = []
        if made != PIXEL_VERSION:
            notes.append(f"made by a skygraft of pixel version {made}, this one is {PIXEL_VERSION}")
        now, then = self.settings.get("settings"), self.pair.record.get("settings")
        if now is not None and then is not None and dict(now) != dict(then):
            keys = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
            notes.append(f"made with other settings: {', '.join(keys)}")
        if not notes:
            return Row("version", "passes", float(made or 0), float(PIXEL_VERSION))
        notes.append("pixels are compared with what this one draws, and may differ for that reason")
        return Row("version", "not applicable", float(made or 0), float(PIXEL_VERSION), note="; ".join(notes))

    def of_pixels(self) -> list[Row]:
        """Checks that compare pixels."""
        pair, redrawn, law = self.pair, self.redrawn, self.law
        if redrawn is None or law is None:
            names = ("closure", "flux", "centroid", "position angle", "untouched", "variance", "mask", "residual")
            return [Row("residual", "fails", note=self.problem)] + [
                Row(name, "not applicable", note=self.problem) for name in names if name != "residual"
            ]
        before, after = pair.before, pair.after
        step = stored_step(after.path) if after.path is not None else 0.0
        lights = redrawn.stars, redrawn.others
        peak = max(max(float(one.max(initial=0.0)), -float(one.min(initial=0.0))) for one in lights)
        error = 1e-7 * peak
        if self.options.conventions == LSST:
            # Sources are added to the image one by one: it is rounded each time, and where the light of one is taken
            # away by another's negative lobes there is noise all the same.
            error += np.inf if law.of_noisy else 1e-6 * float(np.nanmax(np.abs(after.image), initial=0.0))
        planes = redrawn.stars, redrawn.others, redrawn.lit
        sums = image_sums(before.image, after.image, *planes, law.quantum, step, error, BLOCK)
        named = dict(zip(IMAGE_SUMS, np.moveaxis(sums, 2, 0), strict=True))
        variance, changed_variance = check_variance(pair, redrawn, law)
        mask, changed_mask = check_mask(pair, redrawn, self.options)
        difference = after.image - before.image
        return [
            check_flux(named, law),
            check_residual(named, law, pair.before.xy0),
            check_untouched(int(named["changed"].sum()), changed_variance, changed_mask),
            variance,
            mask,
            *self._of_sources(difference, redrawn, law, _precision(after, step)),
        ]

    def _of_sources(
        self, difference: NDArray[np.float32], redrawn: Redrawn, law: NoiseLaw, precision: Precision
    ) -> list[Row]:
        pair = self.pair
        truth = self._without_wings(redrawn.truth)
        drawn = (np.asarray(truth["stamp_size"]) > 0) & ~has_flag(truth["flags"], Flag.IN_TEMPLATE)
        star = np.asarray(truth["source_type"]).astype(str) == "Star"
        # That noise was drawn of; summed where it is needed, as whole planes cost more than all measurements.
        light = (redrawn.lit,) if redrawn.lit.size else (redrawn.stars, redrawn.others)
        factor = np.sqrt(law.sum_factor)
        np.subtract(difference, redrawn.others, out=difference)
        closure = self._closure(difference, law, precision)
        offset = position_offset(difference, light, law.quantum, pair.before, truth, drawn & star, precision)
        np.add(difference, redrawn.others, out=difference)
        np.subtract(difference, redrawn.stars, out=difference)
        if not offset.n:
            offset = position_offset(difference, light, law.quantum, pair.before, truth, drawn & ~star, precision)
        turn = angle_offset(difference, redrawn.others, light, law.quantum, pair.before, truth, pair.sources, precision)
        wrong = drawn_angles(redrawn.others, pair.before, truth, pair.sources)
        return [closure, _centroid(offset, factor), _angle(turn, wrong, factor)]

    def _without_wings(self, truth: Table) -> Table:
        """The truth with stamps no larger than kernels, where wings make them so large that no source is isolated.

        Wings are so smooth that shapes and positions, measured in a few pixels, are not changed by those of neighbours.
        """
        psf = self.pair.before.psf
        if self.options.wings is None or psf is None:
            return truth
        truth = truth.copy()
        sizes = truth["stamp_size"]
        truth["stamp_size"] = np.minimum(np.asarray(getattr(sizes, "value", sizes)), 2 * max(psf.shape))
        return truth

    def _closure(self, difference: NDArray[np.float32], law: NoiseLaw, precision: Precision) -> Row:
        pair, aperture = self.pair, self.settings.get("aperture")
        try:
            table = measure_closure(
                pair.before,
                pair.after,
                pair.truth,
                aperture=aperture,
                options=self.options,
                contamination=float(self.settings.get("contamination", CONTAMINATION)),
                noise=law.is_noisy,
                gain=law.gain,
                difference=difference,
                most=MOST,
            )
        except (UnknownApertureError, UncalibratedImageError):
            raise
        except CalibrationError as error:
            return Row("closure", "not applicable", note=error.message)
        meta = table.meta
        area = np.pi * meta["radius_pixels"] ** 2
        table = table[precision.holds(np.asarray(table["flux_in"], float), area)]
        rounding = 1.0857 * np.sqrt(area * precision.variance) / np.asarray(table["flux_in"], float)
        table["sigma"] = np.hypot(np.asarray(table["sigma"], float) * np.sqrt(law.sum_factor), rounding)
        summary = summarize_closure(table)
        stars = [
            {name: float(row[name]) for name in ("mag_in", "residual", "sigma", "psf_sum_residual")} for row in table
        ]
        note = f"radius {meta['radius_pixels']:g} pix = {meta['radius_arcsec']:.4g} arcsec, from {meta['origin']}"
        if not summary.n:
            return Row("closure", "too few stars", note=f"no isolated star; {note}")
        sigma = summary.median_error
        verdict, limit = judge(summary.median, sigma, TOLERANCE, RESOLUTION)
        return Row("closure", verdict, summary.median, limit, sigma, summary.n, note, stars)


def _precision(after: Exposure, step: float) -> Precision:
    """How well the pixels of an output are held: single precision, and the step of integers and quantised numbers."""
    sample = np.abs(after.image.ravel()[:: max(1, after.image.size // 100_000)])
    sample = sample[np.isfinite(sample)]
    half = HALF_ULP * float(np.median(sample)) if sample.size else 0.0
    return Precision(half, half**2 + step**2 / 4)


def _size(exposure: Exposure) -> str:
    ny, nx = exposure.shape
    return f"{nx} x {ny}"


def _centroid(offset: Offset, factor: float) -> Row:
    error = factor * offset.error
    note = ""
    if offset.n:
        x, y = offset.components
        note = f"{x:+.4f} columns, {y:+.4f} rows"
    return _measured("centroid", offset, error, POSITION_TOLERANCE, POSITION_RESOLUTION, note, "pixels")


def _angle(turn: Offset, drawn: Offset, factor: float) -> Row:
    error = factor * turn.error
    if not turn.n:
        return Row("position angle", "not applicable", note="no elongated source to measure")
    row = _measured("position angle", turn, error, ANGLE_TOLERANCE, ANGLE_RESOLUTION, "", "degrees")
    if drawn.n >= _LEAST_ANGLES and drawn.value > _DRAWN_ANGLE:
        note = f"sources are drawn {drawn.value:.1f} degrees off the catalogue's position angle (median of {drawn.n})"
        return Row("position angle", "fails", drawn.value, _DRAWN_ANGLE, n=drawn.n, note=note)
    return row


def _measured(
    check: str, offset: Offset, error: float, tolerance: float, resolution: float, note: str, unit: str
) -> Row:
    """The verdict on a measured offset."""
    if not offset.n:
        return Row(check, "too few stars", note="no isolated source to measure")
    verdict, limit = judge(offset.value, error, tolerance, resolution)
    if verdict == "fails":
        note = f"{offset.value:+.3g} {unit}" + (f" ({note})" if note else "")
    elif verdict == "too few stars":
        note = f"measured to {error:.2g} {unit} (standard error)"
    return Row(check, verdict, offset.value, limit, error, offset.n, note)
